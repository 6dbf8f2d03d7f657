package grpcbatch

import (
	"bytes"
	"encoding/binary"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
)

// HPACK of the answers (RFC 7541). Nothing is indexed, so there is no state to keep.
const (
	// headersOK is ":status: 200" (static 8) and "content-type: application/grpc" (static 31).
	headersOK = "\x88\x0f\x10\x10application/grpc"
	// trailersOK is "grpc-status: 0".
	trailersOK = "\x00\x0bgrpc-status\x010"
	// accepts tells what requests may be compressed by.
	accepts = "\x00\x14grpc-accept-encoding\x0didentity,gzip"
)

// answer sends a response unless the call is answered or dropped.
func (c *conn) answer(s *stream, message []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.done {
		return
	}
	s.done = true
	_ = c.framer.WriteHeaders(headersFrame(s.id))
	var head [prefix]byte
	binary.BigEndian.PutUint32(head[1:], uint32(len(message)))
	if n := int64(prefix + len(message)); n <= frameSize && n <= c.window && n <= s.window {
		c.window -= n
		c.frameHead(s.id, http2.FrameData, 0, int(n))
		c.out.Write(head[:])
		c.out.Write(message)
		c.end(s)
	} else {
		s.rest = append(append(make([]byte, 0, n), head[:]...), message...)
		c.pushOrPark(s)
	}
	c.flushUnlessServing()
}

// frameHead begins a frame that is written by hand, to spare a copy.
func (c *conn) frameHead(id uint32, kind http2.FrameType, flags http2.Flags, n int) {
	c.out.Write([]byte{byte(n >> 16), byte(n >> 8), byte(n), byte(kind), byte(flags), byte(id >> 24), byte(id >> 16), byte(id >> 8), byte(id)})
}

// headersFrame begins a good answer.
func headersFrame(id uint32) http2.HeadersFrameParam {
	return http2.HeadersFrameParam{StreamID: id, BlockFragment: []byte(headersOK), EndHeaders: true}
}

// push sends as much of a large answer as the peer takes; false if some is left.
func (c *conn) push(s *stream) bool {
	for len(s.rest) > 0 {
		n := min(int64(len(s.rest)), frameSize, c.window, s.window)
		if n <= 0 {
			return false
		}
		_ = c.framer.WriteData(s.id, false, s.rest[:n])
		s.rest = s.rest[n:]
		c.window -= n
		s.window -= n
	}
	if !s.more {
		c.end(s)
	}
	return true
}

// pushOrPark is push, and keeps the stream until there is room for what is left.
func (c *conn) pushOrPark(s *stream) {
	if !c.push(s) && !s.parked {
		s.parked = true
		c.blocked = append(c.blocked, s)
	}
}

// end sends the trailers, those of a good answer unless the stream has others.
func (c *conn) end(s *stream) {
	block := s.block
	if block == "" {
		block = trailersOK
	}
	_ = c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: s.id, BlockFragment: []byte(block), EndHeaders: true, EndStream: true})
	delete(c.streams, s.id)
}

// fail sends an error as trailers alone.
func (c *conn) fail(s *stream, code codes.Code, message string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.done {
		return
	}
	s.done = true
	block := append([]byte(headersOK), accepts...)
	block = append(block, trailers(code, message)...)
	_ = c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: s.id, BlockFragment: block, EndHeaders: true, EndStream: true})
	if len(s.data) > 0 { // refused while it came in: only the connection's goroutine does that
		c.buffered -= len(s.data)
		s.data = nil
	}
	delete(c.streams, s.id)
	if s.own != nil {
		s.own.cancel()
	}
	c.flushUnlessServing()
}

// trailers are the status of a call as header fields.
func trailers(code codes.Code, message string) []byte {
	block := literal([]byte("\x00\x0bgrpc-status"), strconv.Itoa(int(code)))
	return literal(append(block, "\x00\x0cgrpc-message"...), percent(message))
}

// literal appends an HPACK string: its length in 7 bits and more, and its bytes.
func literal(b []byte, s string) []byte {
	n := len(s)
	if n < 127 {
		return append(append(b, byte(n)), s...)
	}
	b = append(b, 127)
	for n -= 127; n >= 128; n >>= 7 {
		b = append(b, byte(n)|128)
	}
	return append(append(b, byte(n)), s...)
}

// longestMessage of an error, in bytes as sent.
const longestMessage = 1024

// percent encodes an error message as gRPC wants it in a header.
func percent(message string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := 0; i < len(message) && b.Len() < longestMessage; i++ {
		if c := message[i]; c >= ' ' && c <= '~' && c != '%' {
			b.WriteByte(c)
		} else {
			b.Write([]byte{'%', hex[c>>4], hex[c&15]})
		}
	}
	return b.String()
}

// write sends a frame about the connection.
func (c *conn) write(frame func() error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := frame(); err != nil {
		return err
	}
	return c.flush()
}

func (c *conn) flushUnlessServing() {
	if !c.serving {
		_ = c.flush() // a connection that cannot be written ends at its next read
	}
}

// keep is how large a write buffer is kept, in bytes.
const keep = 256 << 10

// flush writes what has gathered. mu is held.
func (c *conn) flush() error {
	if c.out.Len() == 0 {
		return nil
	}
	if err := c.nc.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	_, err := c.nc.Write(c.out.Bytes())
	c.out.Reset()
	if c.out.Cap() > keep {
		c.out = bytes.Buffer{}
	}
	if err != nil {
		c.nc.Close()
	}
	return err
}

// settings takes the peer's.
func (c *conn) settings(f *http2.SettingsFrame) error {
	if f.IsAck() {
		return nil
	}
	return c.write(func() error {
		if n, ok := f.Value(http2.SettingInitialWindowSize); ok {
			if n > 1<<31-1 {
				return http2.ConnectionError(http2.ErrCodeFlowControl)
			}
			for _, s := range c.streams {
				s.window += int64(n) - c.initial
			}
			c.initial = int64(n)
		}
		c.unblock()
		return c.framer.WriteSettingsAck()
	})
}

// grow takes room that the peer gives.
func (c *conn) grow(f *http2.WindowUpdateFrame) error {
	return c.write(func() error {
		s := c.streams[f.StreamID]
		switch {
		case f.StreamID == 0:
			if c.window += int64(f.Increment); c.window > 1<<31-1 {
				return http2.ConnectionError(http2.ErrCodeFlowControl)
			}
		case s != nil:
			s.window += int64(f.Increment)
		}
		c.unblock()
		return nil
	})
}

// unblock goes on with answers that waited for room.
func (c *conn) unblock() {
	waiting := c.blocked
	c.blocked = nil
	for _, s := range waiting {
		s.parked = false
		if c.streams[s.id] == s {
			c.pushOrPark(s)
		}
	}
}

// farewell tells the peer to open no more calls and ends the connection a little later.
func (c *conn) farewell() {
	_ = c.write(func() error { return c.framer.WriteGoAway(1<<31-1, http2.ErrCodeNo, nil) })
	_ = c.nc.SetReadDeadline(time.Now().Add(goodbye))
}

// timeout reads grpc-timeout: up to eight digits and a unit.
func timeout(text string) (time.Duration, bool) {
	if len(text) < 2 || len(text) > 9 {
		return 0, false
	}
	var unit time.Duration
	switch text[len(text)-1] {
	case 'H':
		unit = time.Hour
	case 'M':
		unit = time.Minute
	case 'S':
		unit = time.Second
	case 'm':
		unit = time.Millisecond
	case 'u':
		unit = time.Microsecond
	case 'n':
		unit = time.Nanosecond
	default:
		return 0, false
	}
	n, err := strconv.ParseUint(text[:len(text)-1], 10, 32)
	if err != nil {
		return 0, false
	}
	const longest = 1000 * time.Hour
	if n > uint64(longest/unit) {
		return longest, true
	}
	return time.Duration(n) * unit, true
}
