package grpcbatch

import (
	"encoding/binary"
	"errors"

	"google.golang.org/protobuf/encoding/protowire"
)

// ErrWire says that a message is not protobuf.
var ErrWire = errors.New("malformed message")

// Fields goes through the fields of an encoded protobuf message without copying: its
// texts are parts of the message. It is for handlers that want a few fields of a large
// message, where generated code would make an object of each.
type Fields struct {
	Value  string // of a length-delimited field
	Number uint64 // of a varint
	Err    error  // why Next gave false, if not for the end; ErrWire

	rest string
	tag  uint64
}

// FieldsOf begins before the first field.
func FieldsOf(message string) Fields { return Fields{rest: message} }

// Is reports whether the field is this one.
func (f *Fields) Is(number protowire.Number, kind protowire.Type) bool {
	return f.tag == uint64(number)<<3|uint64(kind)
}

// Next moves to the next field; false at the end and on an error.
func (f *Fields) Next() bool {
	// A text of less than 128 bytes in one of the first fields, as nearly all are.
	if r := f.rest; len(r) >= 2 && r[0] < 0x80 && r[0] > 7 && r[0]&7 == uint8(protowire.BytesType) && r[1] < 0x80 && len(r)-2 >= int(r[1]) &&
		f.Err == nil {
		end := 2 + int(r[1])
		f.tag, f.Value, f.rest = uint64(r[0]), r[2:end], r[end:]
		return true
	}
	return f.next()
}

func (f *Fields) next() bool {
	if f.rest == "" || f.Err != nil {
		return false
	}
	f.tag = f.varint()
	number, kind := protowire.DecodeTag(f.tag)
	if number < protowire.MinValidNumber {
		f.Err = ErrWire
	}
	switch kind {
	case protowire.BytesType:
		if n := f.varint(); n <= uint64(len(f.rest)) {
			f.Value, f.rest = f.rest[:n], f.rest[n:]
		} else {
			f.Err = ErrWire
		}
	case protowire.VarintType:
		f.Number = f.varint()
	default:
		n := protowire.ConsumeFieldValue(number, kind, []byte(f.rest))
		if n < 0 {
			f.Err = ErrWire
			break
		}
		f.rest = f.rest[n:]
	}
	return f.Err == nil
}

// varint reads a number. Nearly all tags and lengths here are of one byte.
func (f *Fields) varint() uint64 {
	if f.rest != "" && f.rest[0] < 0x80 {
		v := uint64(f.rest[0])
		f.rest = f.rest[1:]
		return v
	}
	v, used := protowire.ConsumeVarint([]byte(f.rest[:min(len(f.rest), binary.MaxVarintLen64)]))
	if used < 0 {
		f.Err = ErrWire
		return 0
	}
	f.rest = f.rest[used:]
	return v
}
