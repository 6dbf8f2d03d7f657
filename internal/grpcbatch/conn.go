package grpcbatch

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/codes"

	"github.com/leaky-tokens/leaky-tokens/internal/tracing"
)

const (
	frameHeader  = 9
	prefix       = 5 // of a gRPC message: compressed flag and length
	frameSize    = 16 << 10
	readBuffer   = 64 << 10
	streamWindow = maxMessage + prefix + 1<<10
)

// conn is one connection. Its goroutine reads, serves and writes; answers given later
// by other goroutines are written under mu.
type conn struct {
	server   *Server
	nc       net.Conn
	in       *bufio.Reader
	framer   *http2.Framer // reads in, writes out
	batch    []*Call
	last     uint32         // the newest stream
	buffered int            // bytes of unfinished requests
	unread   uint32         // bytes taken that the peer was not told of
	calls    sync.WaitGroup // of registered services

	mu      sync.Mutex
	out     bytes.Buffer
	streams map[uint32]*stream
	serving bool  // what is answered now is written when Serve returns
	window  int64 // bytes the peer takes on the connection
	initial int64 // and on a new stream
	blocked []*stream
}

// stream is one call's HTTP/2 stream.
type stream struct {
	id     uint32
	call   Call
	data   []byte // of the request so far
	fault  string // why the call is refused, if its headers say so
	gzip   bool   // its messages may be compressed
	window int64
	done   bool   // answered, or the peer dropped it
	rest   []byte // of an answer that waits for room
	parked bool   // among the connection's blocked
	more   bool   // messages may follow rest: no trailers yet
	block  string // the trailers; empty: trailersOK
	own    *registeredCall
}

func newConn(s *Server, nc net.Conn) *conn {
	c := &conn{server: s, nc: nc, in: bufio.NewReaderSize(nc, readBuffer), streams: map[uint32]*stream{}, window: 65535, initial: 65535}
	c.framer = http2.NewFramer(&c.out, c.in)
	c.framer.SetReuseFrames()
	c.framer.SetMaxReadFrameSize(frameSize)
	c.framer.MaxHeaderListSize = 64 << 10
	c.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	return c
}

// run serves until the peer leaves or breaks the protocol.
func (c *conn) run(ctx context.Context) {
	ctx, stop := context.WithCancel(ctx)
	defer c.calls.Wait()
	defer stop()
	err := c.greet()
	for err == nil {
		if len(c.batch) > 0 && (len(c.batch) >= maxBatch || !c.whole()) {
			c.serve(ctx)
		}
		var f http2.Frame
		if f, err = c.framer.ReadFrame(); err == nil {
			err = c.frame(ctx, f)
		} else if bad, ok := errors.AsType[http2.StreamError](err); ok {
			err = c.reset(bad.StreamID, bad.Code)
		}
	}
	if left(err) {
		return
	}
	c.server.log.LogAttrs(ctx, slog.LevelWarn, "grpc connection ended", slog.Any("error", err))
	code := http2.ErrCodeProtocol
	if bad, ok := errors.AsType[http2.ConnectionError](err); ok {
		code = http2.ErrCode(bad)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.framer.WriteGoAway(c.last, code, nil)
	_ = c.flush()
}

// left reports whether an error only says that the peer went, or was told to.
func left(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) ||
		strings.HasSuffix(err.Error(), "connection reset by peer") || strings.HasSuffix(err.Error(), "broken pipe")
}

// greet reads the client's preface and sends ours.
func (c *conn) greet() error {
	c.mu.Lock()
	err := errors.Join(
		c.framer.WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: maxStreams},
			http2.Setting{ID: http2.SettingInitialWindowSize, Val: streamWindow}, http2.Setting{ID: http2.SettingMaxHeaderListSize, Val: 64 << 10}),
		c.framer.WriteWindowUpdate(0, maxBuffered-65535), c.flush())
	c.mu.Unlock()
	if err != nil {
		return err
	}
	got := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(c.in, got); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return io.EOF
		}
		return err
	}
	if string(got) != http2.ClientPreface {
		return errors.New("the peer does not speak HTTP/2")
	}
	return nil
}

// whole reports whether a whole frame has arrived and waits.
func (c *conn) whole() bool {
	n := c.in.Buffered()
	if n < frameHeader {
		return false
	}
	h, err := c.in.Peek(frameHeader)
	return err == nil && n >= frameHeader+(int(h[0])<<16|int(h[1])<<8|int(h[2]))
}

// serve hands the batch over and writes what was answered meanwhile.
func (c *conn) serve(ctx context.Context) {
	c.mu.Lock()
	c.serving = true
	c.mu.Unlock()
	c.handle(ctx, c.batch)
	clear(c.batch)
	c.batch = c.batch[:0]
	c.mu.Lock()
	defer c.mu.Unlock()
	c.serving = false
	_ = c.flush() // the next read fails too
}

// handle calls the handler; a panic fails the calls and not the process.
func (c *conn) handle(ctx context.Context, batch []*Call) {
	defer func() {
		if p := recover(); p != nil {
			c.server.log.LogAttrs(ctx, slog.LevelError, "handler panicked", slog.Any("panic", p), slog.String("stack", string(debug.Stack())))
			for _, call := range batch {
				call.Fail(codes.Internal, "internal error")
			}
		}
	}()
	c.server.handler.Serve(ctx, batch)
}

// frame acts on a frame. An error ends the connection.
func (c *conn) frame(ctx context.Context, f http2.Frame) error {
	switch f := f.(type) {
	case *http2.MetaHeadersFrame:
		return c.headers(ctx, f)
	case *http2.DataFrame:
		return c.data(f)
	case *http2.RSTStreamFrame:
		c.drop(f.StreamID)
	case *http2.SettingsFrame:
		return c.settings(f)
	case *http2.WindowUpdateFrame:
		return c.grow(f)
	case *http2.PingFrame:
		if !f.IsAck() {
			return c.write(func() error { return c.framer.WritePing(true, f.Data) })
		}
	case *http2.PushPromiseFrame:
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	return nil // GOAWAY: the peer opens no more streams; PRIORITY and unknown frames mean nothing to us
}

// headers opens a stream, or ends one by trailers.
func (c *conn) headers(ctx context.Context, f *http2.MetaHeadersFrame) error {
	if s := c.find(f.StreamID); s != nil {
		switch {
		case f.StreamEnded() && s.own != nil:
			s.own.feed(nil, true)
			return nil
		case f.StreamEnded():
			return c.complete(s)
		}
		return c.reset(f.StreamID, http2.ErrCodeProtocol)
	}
	if f.StreamID%2 == 0 || f.StreamID <= c.last {
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	c.last = f.StreamID
	s := &stream{id: f.StreamID}
	s.call = Call{conn: c, stream: s, Method: f.PseudoValue("path")}
	for _, h := range f.RegularFields() {
		switch h.Name {
		case "grpc-timeout":
			if d, ok := timeout(h.Value); ok {
				s.call.Deadline = time.Now().Add(d)
			}
		case tracing.Header:
			s.call.TraceParent = h.Value
		case "grpc-encoding":
			if s.gzip = h.Value == "gzip"; !s.gzip && h.Value != "identity" {
				s.fault = "messages may be compressed by gzip only"
			}
		}
	}
	if f.Truncated {
		s.fault = "the headers are too large"
	}
	c.mu.Lock()
	full := len(c.streams) >= maxStreams
	if !full {
		s.window = c.initial
		c.streams[s.id] = s
	}
	c.mu.Unlock()
	if full {
		return c.reset(s.id, http2.ErrCodeRefusedStream)
	}
	if !c.server.batched[s.call.Method] {
		return c.open(ctx, s, f.StreamEnded())
	}
	if f.StreamEnded() {
		return c.complete(s)
	}
	return nil
}

// open begins a call of a registered service, or ends one of an unknown method at once: its
// client may keep the stream open and wait.
func (c *conn) open(ctx context.Context, s *stream, ended bool) error {
	m, known := c.server.methods[s.call.Method]
	switch {
	case !known:
		c.fail(s, codes.Unimplemented, "no such method")
	case s.fault != "":
		c.fail(s, codes.Unimplemented, s.fault)
	case !c.begin(ctx, m, s):
		c.fail(s, codes.ResourceExhausted, "too many calls of this kind on one connection")
	default:
		if ended {
			s.own.feed(nil, true)
		}
		return nil
	}
	if ended {
		return nil
	}
	// RFC 9113 section 8.1: the answer is whole, the rest of the request is not wanted.
	return c.write(func() error { return c.framer.WriteRSTStream(s.id, http2.ErrCodeNo) })
}

func (c *conn) find(id uint32) *stream {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.streams[id]
}

// data takes a piece of a request.
func (c *conn) data(f *http2.DataFrame) error {
	if f.StreamID > c.last {
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	if c.unread += f.Length; c.unread > maxBuffered/4 {
		n := c.unread
		c.unread = 0
		if err := c.write(func() error { return c.framer.WriteWindowUpdate(0, n) }); err != nil {
			return err
		}
	}
	s := c.find(f.StreamID)
	if s == nil {
		return nil // reset before
	}
	piece := f.Data()
	if s.own != nil {
		if !s.own.feed(piece, f.StreamEnded()) {
			c.fail(s, codes.ResourceExhausted, fmt.Sprintf("more than %d bytes wait to be read", maxRegisteredMessage))
		}
		return nil
	}
	if len(s.data)+len(piece) > prefix+maxMessage {
		c.fail(s, codes.ResourceExhausted, fmt.Sprintf("the message is larger than %d bytes", maxMessage))
		return nil
	}
	if c.buffered += len(piece); c.buffered > maxBuffered {
		return http2.ConnectionError(http2.ErrCodeEnhanceYourCalm)
	}
	if s.data == nil && f.StreamEnded() { // the whole message, as nearly always
		c.buffered -= len(piece)
		return c.finish(s, piece)
	}
	s.data = append(s.data, piece...)
	if f.StreamEnded() {
		return c.complete(s)
	}
	return nil
}

// complete ends a request that came in pieces.
func (c *conn) complete(s *stream) error {
	c.buffered -= len(s.data)
	whole := s.data
	s.data = nil
	return c.finish(s, whole)
}

// finish puts a request into the batch, or refuses it.
func (c *conn) finish(s *stream, whole []byte) error {
	switch {
	case s.fault != "":
		c.fail(s, codes.Unimplemented, s.fault)
	case len(whole) < prefix || int64(len(whole)-prefix) != int64(whole[1])<<24|int64(whole[2])<<16|int64(whole[3])<<8|int64(whole[4]):
		c.fail(s, codes.Internal, "a unary call brings one message")
	default:
		message, fault, code := unpack(whole[0], whole[prefix:], s.gzip)
		if code != codes.OK {
			c.fail(s, code, fault)
			return nil
		}
		s.call.Message = message
		c.batch = append(c.batch, &s.call)
	}
	return nil
}

// drop forgets a stream that the peer reset.
func (c *conn) drop(id uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.streams[id]; s != nil {
		s.done = true
		c.buffered -= len(s.data)
		delete(c.streams, id)
		if s.own != nil {
			s.own.cancel()
		}
	}
}

// reset drops a stream and tells the peer.
func (c *conn) reset(id uint32, code http2.ErrCode) error {
	c.drop(id)
	return c.write(func() error { return c.framer.WriteRSTStream(id, code) })
}
