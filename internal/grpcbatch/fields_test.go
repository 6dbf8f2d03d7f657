package grpcbatch_test

import (
	"errors"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/leaky-tokens/leaky-tokens/internal/grpcbatch"
)

func TestFields(t *testing.T) {
	t.Parallel()
	var wire []byte
	wire = protowire.AppendTag(wire, 1, protowire.BytesType)
	wire = protowire.AppendString(wire, "short")
	wire = protowire.AppendTag(wire, 2, protowire.VarintType)
	wire = protowire.AppendVarint(wire, 1<<40)
	wire = protowire.AppendTag(wire, 3, protowire.Fixed64Type)
	wire = protowire.AppendFixed64(wire, 7)
	wire = protowire.AppendTag(wire, 4000, protowire.BytesType)
	wire = protowire.AppendBytes(wire, make([]byte, 300))
	f := grpcbatch.FieldsOf(string(wire))
	if !f.Next() || !f.Is(1, protowire.BytesType) || f.Value != "short" {
		t.Fatalf("first: got %+v", f)
	}
	if !f.Next() || !f.Is(2, protowire.VarintType) || f.Number != 1<<40 || f.Is(2, protowire.BytesType) {
		t.Fatalf("second: got %+v", f)
	}
	if !f.Next() || !f.Is(3, protowire.Fixed64Type) {
		t.Fatalf("third: got %+v", f)
	}
	if !f.Next() || !f.Is(4000, protowire.BytesType) || len(f.Value) != 300 {
		t.Fatalf("fourth: got %+v", f)
	}
	if f.Next() || f.Err != nil {
		t.Fatalf("end: got %+v", f)
	}
}

// FuzzFields compares with protowire.
func FuzzFields(f *testing.F) {
	f.Add([]byte("\x0a\x05short\x10\x01"))
	f.Add([]byte{0x0a, 0x80, 0x01})
	f.Add([]byte{0x02, 0x01, 'a'}) // number 0
	f.Add([]byte{0x0a, 0xfe, 0x00})
	f.Add([]byte{0x0b, 0x0c}) // a group
	f.Fuzz(func(t *testing.T, wire []byte) {
		fields := grpcbatch.FieldsOf(string(wire))
		for rest := wire; ; {
			more := fields.Next()
			number, kind, n := protowire.ConsumeTag(rest)
			if len(rest) == 0 {
				if more || fields.Err != nil {
					t.Fatalf("at the end: %v, %v", more, fields.Err)
				}
				return
			}
			whole := protowire.ConsumeFieldValue(number, kind, rest[max(n, 0):])
			if n < 0 || whole < 0 {
				if more || !errors.Is(fields.Err, grpcbatch.ErrWire) || fields.Next() {
					t.Fatalf("malformed %x: got %v, %v", rest, more, fields.Err)
				}
				return
			}
			if !more || !fields.Is(number, kind) {
				t.Fatalf("want field %d of kind %d, got %+v", number, kind, fields)
			}
			if value, _ := protowire.ConsumeBytes(rest[n:]); kind == protowire.BytesType && fields.Value != string(value) {
				t.Fatalf("want %q, got %q", value, fields.Value)
			}
			if value, _ := protowire.ConsumeVarint(rest[n:]); kind == protowire.VarintType && fields.Number != value {
				t.Fatalf("want %d, got %d", value, fields.Number)
			}
			rest = rest[n+whole:]
		}
	})
}
