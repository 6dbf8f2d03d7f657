package extauthz

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"time"

	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

// reply is a finished response, as a message and as it goes over the wire. It is
// immutable, so one reply answers many calls.
type reply struct {
	message *auth.CheckResponse
	wire    []byte
}

func newReply(message *auth.CheckResponse) (*reply, error) {
	wire, err := proto.Marshal(message)
	if err != nil {
		return nil, fmt.Errorf("encode answer: %w", err)
	}
	return &reply{message: message, wire: wire}, nil
}

// Serve answers Envoy on the listener until ctx ends, then lets calls in flight end.
func (s *Service) Serve(ctx context.Context, ln net.Listener) error {
	server := grpc.NewServer(grpc.ForceServerCodecV2(codec{}), grpc.MaxRecvMsgSize(1<<20),
		grpc.NumStreamWorkers(uint32(runtime.GOMAXPROCS(0))), grpc.SharedWriteBuffer(true))
	server.RegisterService(description(), s)
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		<-ctx.Done()
		hard := time.AfterFunc(5*time.Second, server.Stop)
		defer hard.Stop()
		server.GracefulStop()
	}()
	if err := server.Serve(ln); err != nil && ctx.Err() == nil {
		return fmt.Errorf("serve grpc on %s: %w", ln.Addr(), err)
	}
	<-stopped
	return nil
}

// description is envoy.service.auth.v3.Authorization with a handler that takes and
// gives our own types, which codec reads and writes without the messages between.
func description() *grpc.ServiceDesc {
	return &grpc.ServiceDesc{
		ServiceName: auth.Authorization_ServiceDesc.ServiceName,
		HandlerType: (*checker)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "Check", Handler: func(srv any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			var c call
			if err := decode(&c); err != nil {
				return nil, err
			}
			return srv.(checker).check(ctx, c)
		}}},
	}
}

type checker interface {
	check(ctx context.Context, c call) (*reply, error)
}

// codec is protobuf for the two types of Check.
type codec struct{}

var _ encoding.CodecV2 = codec{}

func (codec) Name() string { return "proto" }

func (codec) Marshal(v any) (mem.BufferSlice, error) {
	r, ok := v.(*reply)
	if !ok {
		return nil, fmt.Errorf("encode answer: unexpected %T", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(r.wire)}, nil
}

func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	c, ok := v.(*call)
	if !ok {
		return fmt.Errorf("decode check: unexpected %T", v)
	}
	wire := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer wire.Free()
	return c.decode(wire.ReadOnlyData())
}
