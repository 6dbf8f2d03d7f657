// Package grpcbatch is a gRPC server for short unary calls, on the way of every request:
// Envoy asks the services beside it through it. It takes whatever calls have arrived on
// a connection as one batch, hands them over together, and writes all answers at once,
// so that calls which come together share system calls, and a handler can share a round
// trip to its store. No goroutine is started or woken for a call.
//
// It speaks plain HTTP/2 with prior knowledge (RFC 9113) and gRPC's framing of it, and
// serves any gRPC client; a listener of crypto/tls in front gives it TLS. Services that are
// asked rarely (health, reflection) are registered as on a server of grpc-go, streams
// among them: each of their calls has a goroutine of its own.
package grpcbatch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
)

const (
	// maxMessage is the largest message taken, in bytes.
	maxMessage = 4 << 20
	// maxStreams is how many calls one connection may have open.
	maxStreams = 4096
	// maxBatch is how many calls are handed over at once.
	maxBatch = 128
	// maxBuffered bounds what unfinished calls of a connection may take, in bytes.
	maxBuffered = 64 << 20
	// writeTimeout is how long a peer may leave answers unread.
	writeTimeout = 10 * time.Second
	// maxRegistered is how many calls of registered services one connection may have open.
	maxRegistered = 64
	// maxRegisteredMessage bounds what such a call may have sent and not been read, in bytes.
	maxRegisteredMessage = 64 << 10
	// goodbye is how long a connection lives on after it was told to go, so that calls on
	// their way are answered.
	goodbye = 250 * time.Millisecond
)

// Handler answers calls.
type Handler interface {
	// Serve answers each call by Answer or Fail, before it returns or later from any
	// goroutine. Until it returns nothing more is read from the connection, so what may
	// wait long goes to a goroutine. ctx ends with the server.
	Serve(ctx context.Context, calls []*Call)
}

// Call is one unary call.
type Call struct {
	Method   string    // "/package.Service/Method"
	Message  string    // the request, encoded
	Deadline time.Time // when the caller gives up; zero: it does not say
	// TraceParent is the caller's span (W3C Trace Context), as it was sent; may be empty.
	TraceParent string

	conn   *conn
	stream *stream
}

// Answer sends the encoded response. Only the first Answer or Fail counts.
func (c *Call) Answer(message []byte) { c.conn.answer(c.stream, message) }

// Fail sends an error. code must not be OK.
func (c *Call) Fail(code codes.Code, message string) { c.conn.fail(c.stream, code, message) }

// Late reports whether the caller has given up by its own word.
func (c *Call) Late() bool { return !c.Deadline.IsZero() && time.Now().After(c.Deadline) }

// Config of a Server.
type Config struct {
	Handler Handler
	// Methods are those that Handler answers: "/package.Service/Method". A call of any other
	// that is not registered either ends with Unimplemented as soon as its headers are there.
	Methods []string
	Log     *slog.Logger
}

// Server answers calls on connections of one listener.
type Server struct {
	handler Handler
	batched map[string]bool
	log     *slog.Logger
	methods map[string]method // registered
	names   map[string]grpc.ServiceInfo

	mu    sync.Mutex
	conns map[*conn]struct{}
}

// New makes a server.
func New(c Config) (*Server, error) {
	if c.Handler == nil || len(c.Methods) == 0 || c.Log == nil {
		return nil, errors.New("make grpc server: handler, methods and log are needed")
	}
	s := &Server{handler: c.Handler, log: c.Log, conns: map[*conn]struct{}{}, batched: map[string]bool{}, methods: map[string]method{},
		names: map[string]grpc.ServiceInfo{}}
	for _, full := range c.Methods {
		s.batched[full] = true
		s.describe(full, grpc.MethodInfo{})
	}
	return s, nil
}

// Serve answers on the listener until ctx ends; then peers are told to go elsewhere,
// what is on its way is answered, and the connections are closed.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop() // after what is on its way
	var group sync.WaitGroup
	defer group.Wait()
	left := context.AfterFunc(ctx, func() { ln.Close() })
	defer left()
	for {
		nc, err := ln.Accept()
		if err != nil {
			if ctx.Err() != nil {
				s.farewell()
				return nil
			}
			if temporary, ok := errors.AsType[net.Error](err); ok && temporary.Timeout() {
				continue
			}
			ln.Close()
			s.farewell()
			return fmt.Errorf("accept on %s: %w", ln.Addr(), err)
		}
		c := newConn(s, nc)
		s.mu.Lock()
		s.conns[c] = struct{}{}
		s.mu.Unlock()
		group.Go(func() {
			defer s.forget(c)
			c.run(work)
		})
	}
}

func (s *Server) forget(c *conn) {
	c.nc.Close()
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
}

// farewell tells every peer to go and gives each a moment.
func (s *Server) farewell() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.farewell()
	}
}
