package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/leaky-tokens/leaky-tokens/internal/grpcbatch"
)

// sample is one measurement.
type sample struct {
	checks  int
	elapsed time.Duration
	cpu     time.Duration   // of the server
	latency []time.Duration // sorted
}

func (s sample) rate() float64 { return float64(s.checks) / s.elapsed.Seconds() }

func (s sample) cpuPerCheck() float64 { return float64(s.cpu.Nanoseconds()) / 1e3 / float64(s.checks) }

// measureCase drives one case: for the window, or until it has no more to send.
func measureCase(ctx context.Context, s *server, c benchCase, o options) (sample, error) {
	next, err := c.begin(o)
	if err != nil {
		return sample{}, err
	}
	client, err := dial(s.socket)
	if err != nil {
		return sample{}, err
	}
	defer client.nc.Close()
	if warm := c.warm; warm != nil { // what the case calls cached is cached before the clock starts
		if _, err := client.drive(ctx, count(warm, 500), o.inFlight, time.Minute); err != nil {
			return sample{}, err
		}
	}
	if err := s.collect(); err != nil { // no case pays for the garbage of another
		return sample{}, err
	}
	before, err := s.cpu()
	if err != nil {
		return sample{}, err
	}
	begin := time.Now()
	latency, err := client.drive(ctx, next, o.inFlight, o.window)
	if err != nil {
		return sample{}, err
	}
	elapsed := time.Since(begin)
	after, err := s.cpu()
	if err != nil {
		return sample{}, err
	}
	slices.Sort(latency)
	return sample{checks: len(latency), elapsed: elapsed, cpu: after - before, latency: latency}, nil
}

// source gives the next message to send; nil: no more.
type source func() []byte

func count(message []byte, n int) source {
	return func() []byte {
		if n--; n < 0 {
			return nil
		}
		return message
	}
}

// client is one HTTP/2 connection that keeps calls in flight. A gRPC client costs several
// times what the server does, and would be what is measured.
type client struct {
	nc     net.Conn
	in     *bufio.Reader
	framer *http2.Framer
	out    bytes.Buffer
	head   []byte // HPACK of the request's headers: the first time in full, then by index, as Envoy does
	next   []byte // c.head from the second call on
	encode *hpack.Encoder
	block  bytes.Buffer
	id     uint32
	sent   map[uint32]time.Time
	taken  uint32 // bytes that the server was not told of
}

const (
	window     = 1 << 30
	frameBytes = 9
)

func dial(socket string) (*client, error) {
	nc, err := net.Dial("unix", socket)
	if err != nil {
		return nil, err
	}
	c := &client{nc: nc, in: bufio.NewReaderSize(nc, 256<<10), id: 1, sent: map[uint32]time.Time{}}
	c.framer = http2.NewFramer(&c.out, c.in)
	c.framer.SetReuseFrames()
	c.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	c.encode = hpack.NewEncoder(&c.block)
	c.head = c.headers()
	c.next = c.headers()
	c.out.WriteString(http2.ClientPreface)
	return c, errors.Join(c.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: window}),
		c.framer.WriteWindowUpdate(0, window), c.flush())
}

// headers encodes those of a request.
func (c *client) headers() []byte {
	c.block.Reset()
	for _, f := range [][2]string{{":method", "POST"}, {":scheme", "http"}, {":path", auth.Authorization_Check_FullMethodName},
		{":authority", "extauthz"},
		{"te", "trailers"}, {"grpc-timeout", "2S"}, {"content-type", "application/grpc"}} {
		_ = c.encode.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}) // a buffer takes all
	}
	return bytes.Clone(c.block.Bytes())
}

func (c *client) flush() error {
	_, err := c.nc.Write(c.out.Bytes())
	c.out.Reset()
	return err
}

// drive keeps calls in flight for so long or until there is no more to send, waits for
// the last, and gives how long each took. Whatever is not allowed fails the run.
func (c *client) drive(ctx context.Context, next source, inFlight int, span time.Duration) ([]time.Duration, error) {
	if err := c.nc.SetDeadline(time.Now().Add(span + 30*time.Second)); err != nil {
		return nil, err
	}
	var took []time.Duration
	begin := time.Now()
	for more := true; more || len(c.sent) > 0; {
		now := time.Now()
		more = more && now.Sub(begin) < span && ctx.Err() == nil
		for more && len(c.sent) < inFlight {
			message := next()
			if more = message != nil; more {
				if err := c.send(message, now); err != nil {
					return nil, err
				}
			}
		}
		if err := c.flush(); err != nil {
			return nil, err
		}
		if len(c.sent) == 0 {
			break
		}
		var err error
		if took, err = c.receiveAll(took); err != nil {
			return nil, err
		}
	}
	return took, ctx.Err()
}

// receiveAll waits for a frame and reads it with all that have arrived behind it; it appends how
// long the calls took that ended.
func (c *client) receiveAll(took []time.Duration) ([]time.Duration, error) {
	for first := true; first || c.whole(); first = false {
		spent, err := c.receive()
		if err != nil {
			return nil, err
		}
		if spent > 0 {
			took = append(took, spent)
		}
	}
	return took, nil
}

func (c *client) send(message []byte, now time.Time) error {
	var prefix [5]byte
	binary.BigEndian.PutUint32(prefix[1:], uint32(len(message)))
	c.sent[c.id] = now
	err := errors.Join(c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: c.id, BlockFragment: c.head, EndHeaders: true}),
		c.framer.WriteData(c.id, true, append(prefix[:], message...)))
	c.id += 2
	c.head = c.next
	return err
}

// whole reports whether another frame has arrived.
func (c *client) whole() bool {
	n := c.in.Buffered()
	if n < frameBytes {
		return false
	}
	h, err := c.in.Peek(frameBytes)
	return err == nil && n >= frameBytes+(int(h[0])<<16|int(h[1])<<8|int(h[2]))
}

// receive reads a frame; with the last of a call it gives how long that took.
func (c *client) receive() (time.Duration, error) {
	f, err := c.framer.ReadFrame()
	if err != nil {
		return 0, err
	}
	switch f := f.(type) {
	case *http2.DataFrame:
		if err := allowed(f.Data()); err != nil {
			return 0, err
		}
		if c.taken += f.Length; c.taken > window/2 {
			n := c.taken
			c.taken = 0
			return 0, c.framer.WriteWindowUpdate(0, n)
		}
	case *http2.MetaHeadersFrame:
		if !f.StreamEnded() {
			return 0, nil
		}
		for _, h := range f.RegularFields() {
			if h.Name == "grpc-status" && h.Value != "0" {
				return 0, fmt.Errorf("grpc-status %s", h.Value)
			}
		}
		spent := time.Since(c.sent[f.StreamID])
		delete(c.sent, f.StreamID)
		return spent, nil
	case *http2.SettingsFrame:
		if !f.IsAck() {
			return 0, c.framer.WriteSettingsAck()
		}
	case *http2.PingFrame:
		if !f.IsAck() {
			return 0, c.framer.WritePing(true, f.Data)
		}
	case *http2.RSTStreamFrame, *http2.GoAwayFrame:
		return 0, fmt.Errorf("the server ended it: %v", f)
	}
	return 0, nil
}

// fieldOK is ok_response of envoy.service.auth.v3.CheckResponse.
const fieldOK = 3

func allowed(data []byte) error {
	if len(data) < 5 {
		return errors.New("an answer without a message")
	}
	for fields := grpcbatch.FieldsOf(string(data[5:])); fields.Next(); {
		if fields.Is(fieldOK, protowire.BytesType) {
			return nil
		}
	}
	return fmt.Errorf("not allowed: %q", data[5:])
}
