package grpcbatch

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"runtime/debug"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// method is one of a registered service: it serves a call on its stream.
type method func(grpc.ServerStream) error

// RegisterService implements grpc.ServiceRegistrar, so that grpc-go's own services (health,
// reflection) run here as they are. It is called before Serve.
func (s *Server) RegisterService(desc *grpc.ServiceDesc, impl any) {
	for _, m := range desc.Methods {
		full := "/" + desc.ServiceName + "/" + m.MethodName
		s.methods[full] = func(stream grpc.ServerStream) error {
			answer, err := m.Handler(impl, stream.Context(), stream.RecvMsg, nil)
			if err != nil {
				return err
			}
			return stream.SendMsg(answer)
		}
		s.describe(full, grpc.MethodInfo{})
	}
	for _, m := range desc.Streams {
		full := "/" + desc.ServiceName + "/" + m.StreamName
		s.methods[full] = func(stream grpc.ServerStream) error { return m.Handler(impl, stream) }
		s.describe(full, grpc.MethodInfo{IsClientStream: m.ClientStreams, IsServerStream: m.ServerStreams})
	}
}

// GetServiceInfo implements reflection.ServiceInfoProvider: all services, those of the
// handler too.
func (s *Server) GetServiceInfo() map[string]grpc.ServiceInfo { return maps.Clone(s.names) }

func (s *Server) describe(full string, m grpc.MethodInfo) {
	service, name, _ := strings.Cut(strings.TrimPrefix(full, "/"), "/")
	info := s.names[service]
	m.Name = name
	info.Methods = append(info.Methods, m)
	s.names[service] = info
}

// registeredCall is a call of a registered service. It implements grpc.ServerStream: the
// connection's goroutine feeds it, the call's own one takes messages and sends answers.
type registeredCall struct {
	conn   *conn
	stream *stream
	ctx    context.Context //nolint:containedctx // grpc.ServerStream gives it out
	cancel context.CancelFunc
	news   chan struct{} // something was fed

	// Under conn.mu.
	data    []byte // fed and not taken
	ended   bool   // no more comes
	greeted bool   // the answer's headers are sent
}

// begin starts the call's goroutine; false if the connection has too many.
func (c *conn) begin(ctx context.Context, m method, s *stream) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, other := range c.streams {
		if other.own != nil {
			n++
		}
	}
	if n >= maxRegistered {
		return false
	}
	own := &registeredCall{conn: c, stream: s, news: make(chan struct{}, 1)}
	if s.call.Deadline.IsZero() {
		own.ctx, own.cancel = context.WithCancel(ctx)
	} else {
		own.ctx, own.cancel = context.WithDeadline(ctx, s.call.Deadline)
	}
	s.own, s.more = own, true
	c.calls.Go(func() {
		defer own.cancel()
		own.finish(own.serve(m))
	})
	return true
}

// serve calls the method; a panic fails the call and not the process.
func (r *registeredCall) serve(m method) (err error) {
	defer func() {
		if p := recover(); p != nil {
			r.conn.server.log.LogAttrs(r.ctx, slog.LevelError, "service panicked", slog.Any("panic", p), slog.String("stack",
				string(debug.Stack())))
			err = status.Error(codes.Internal, "internal error")
		}
	}()
	return m(r)
}

// feed takes a piece of the request; false if too much waits.
func (r *registeredCall) feed(piece []byte, ended bool) bool {
	r.conn.mu.Lock()
	defer r.conn.mu.Unlock()
	if len(r.data)+len(piece) > maxRegisteredMessage {
		return false
	}
	r.data, r.ended = append(r.data, piece...), r.ended || ended
	select {
	case r.news <- struct{}{}:
	default:
	}
	return true
}

// take is the next message, if it is there. done says that none will be.
func (r *registeredCall) take() (message string, found, done bool, err error) {
	r.conn.mu.Lock()
	defer r.conn.mu.Unlock()
	if len(r.data) < prefix {
		return "", false, r.ended, nil
	}
	n := int64(binary.BigEndian.Uint32(r.data[1:prefix]))
	if n > maxRegisteredMessage-prefix {
		return "", false, true, status.Errorf(codes.ResourceExhausted, "the message is larger than %d bytes", maxRegisteredMessage)
	}
	end := prefix + int(n)
	if len(r.data) < end {
		return "", false, r.ended, nil
	}
	message, fault, code := unpack(r.data[0], r.data[prefix:end], r.stream.gzip)
	r.data = append(r.data[:0], r.data[end:]...)
	if code != codes.OK {
		return "", false, true, status.Error(code, fault)
	}
	if !r.ended {
		_ = r.conn.framer.WriteWindowUpdate(r.stream.id, uint32(end))
		r.conn.flushUnlessServing()
	}
	return message, true, false, nil
}

// RecvMsg implements grpc.ServerStream. io.EOF says that the client sends no more.
func (r *registeredCall) RecvMsg(m any) error {
	for {
		message, found, done, err := r.take()
		switch {
		case err != nil:
			return err
		case found:
			if err := proto.Unmarshal([]byte(message), m.(proto.Message)); err != nil {
				return status.Error(codes.Internal, err.Error())
			}
			return nil
		case done:
			return io.EOF
		}
		select {
		case <-r.ctx.Done():
			return status.FromContextError(r.ctx.Err()).Err()
		case <-r.news:
		}
	}
}

// SendMsg implements grpc.ServerStream. It does not wait for room: what the client leaves
// unread is kept, up to the size of the largest message.
func (r *registeredCall) SendMsg(m any) error {
	message, err := proto.Marshal(m.(proto.Message))
	if err != nil {
		return status.Error(codes.Internal, err.Error())
	}
	c, s := r.conn, r.stream
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.done {
		return status.Error(codes.Canceled, "the call has ended")
	}
	if len(s.rest)+prefix+len(message) > prefix+maxMessage {
		return status.Error(codes.ResourceExhausted, "the client leaves answers unread")
	}
	r.greet()
	s.rest = append(s.rest, 0)
	s.rest = binary.BigEndian.AppendUint32(s.rest, uint32(len(message)))
	s.rest = append(s.rest, message...)
	c.pushOrPark(s)
	c.flushUnlessServing()
	return nil
}

// greet sends the answer's headers once.
func (r *registeredCall) greet() {
	if r.greeted {
		return
	}
	r.greeted = true
	_ = r.conn.framer.WriteHeaders(headersFrame(r.stream.id))
}

// finish ends the call with its status, behind what was sent and waits for room.
func (r *registeredCall) finish(err error) {
	if errors.Is(err, io.EOF) {
		err = status.Error(codes.Internal, "a unary call brings one message")
	}
	c, s := r.conn, r.stream
	c.mu.Lock()
	greeted := r.greeted
	c.mu.Unlock()
	if st := status.Convert(err); !greeted && st.Code() != codes.OK {
		c.fail(s, st.Code(), st.Message())
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.done {
		return
	}
	s.done = true
	r.greet()
	s.more = false
	if st := status.Convert(err); st.Code() != codes.OK {
		s.block = string(trailers(st.Code(), st.Message()))
	}
	if !s.parked {
		c.pushOrPark(s)
	}
	c.flushUnlessServing()
}

// Context implements grpc.ServerStream: it ends with the call, the connection or the server.
func (r *registeredCall) Context() context.Context { return r.ctx }

// SetHeader, SendHeader and SetTrailer implement grpc.ServerStream; no metadata is sent.
func (r *registeredCall) SetHeader(metadata.MD) error { return nil }

// SendHeader implements grpc.ServerStream.
func (r *registeredCall) SendHeader(metadata.MD) error { return nil }

// SetTrailer implements grpc.ServerStream.
func (r *registeredCall) SetTrailer(metadata.MD) {}

// unpack is the text of a message whose compressed flag is given.
func unpack(flag byte, data []byte, allowed bool) (message, fault string, code codes.Code) {
	switch {
	case flag == 0:
		return string(data), "", codes.OK
	case !allowed: // gRPC over HTTP/2, "Message-Encoding": the flag needs an encoding
		return "", "the message says that it is compressed, and the headers do not", codes.Internal
	}
	reader, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return "", "the message is not gzip", codes.Internal
	}
	var text bytes.Buffer
	switch n, err := io.Copy(&text, io.LimitReader(reader, maxMessage+1)); {
	case err != nil:
		return "", "the message is not gzip", codes.Internal
	case n > maxMessage:
		return "", fmt.Sprintf("the message is larger than %d bytes", maxMessage), codes.ResourceExhausted
	}
	return text.String(), "", codes.OK
}
