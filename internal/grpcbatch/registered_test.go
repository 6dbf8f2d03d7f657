package grpcbatch_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
	reflectpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/leaky-tokens/leaky-tokens/internal/grpcbatch"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// strange is a compression that the server does not know.
type strange struct{}

func (strange) Name() string                                 { return "strange" }
func (strange) Compress(w io.Writer) (io.WriteCloser, error) { return noClose{w}, nil }
func (strange) Decompress(r io.Reader) (io.Reader, error)    { return r, nil }

type noClose struct{ io.Writer }

func (noClose) Close() error { return nil }

func TestMain(m *testing.M) {
	encoding.RegisterCompressor(strange{})
	os.Exit(m.Run())
}

// register gives a server health, reflection and a service of streams.
func register(s *grpcbatch.Server, flooded chan<- error) {
	states := health.NewServer()
	states.SetServingStatus("moved", healthpb.HealthCheckResponse_NOT_SERVING)
	healthpb.RegisterHealthServer(s, states)
	reflection.Register(s)
	s.RegisterService(&grpc.ServiceDesc{ServiceName: "s", HandlerType: (*any)(nil), Streams: []grpc.StreamDesc{
		{StreamName: "echo", ClientStreams: true, ServerStreams: true, Handler: echoAll},
		{StreamName: "panic", ServerStreams: true, Handler: func(any, grpc.ServerStream) error { panic("on purpose") }},
		{StreamName: "wait", ServerStreams: true, Handler: func(_ any, stream grpc.ServerStream) error {
			<-stream.Context().Done()
			return status.FromContextError(stream.Context().Err()).Err()
		}},
		{StreamName: "flood", ServerStreams: true, Handler: func(_ any, stream grpc.ServerStream) error {
			for {
				if err := stream.SendMsg(&wrapperspb.BytesValue{Value: make([]byte, 1<<20)}); err != nil {
					flooded <- err
					return err
				}
			}
		}},
	}}, nil)
}

// echoAll sends back each message a thousand times, and an error after one that says so.
func echoAll(_ any, stream grpc.ServerStream) error {
	for {
		var m wrapperspb.BytesValue
		if err := stream.RecvMsg(&m); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if string(m.GetValue()) == "fail" {
			return status.Error(codes.Aborted, "as asked")
		}
		for range 1000 {
			if err := stream.SendMsg(&m); err != nil {
				return err
			}
		}
	}
}

// plain is a connection of a client that knows protobuf.
func plain(t *testing.T) (*grpc.ClientConn, context.CancelFunc) {
	t.Helper()
	_, _, path, stop := start(t)
	return dial(t, path), stop
}

func dial(t *testing.T, path string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func open(t *testing.T, conn *grpc.ClientConn, method string) grpc.ClientStream {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	s, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestHealth(t *testing.T) {
	t.Parallel()
	conn, stop := plain(t)
	client := healthpb.NewHealthClient(conn)
	for service, want := range map[string]healthpb.HealthCheckResponse_ServingStatus{"": healthpb.HealthCheckResponse_SERVING,
		"moved": healthpb.HealthCheckResponse_NOT_SERVING} {
		got, err := client.Check(t.Context(), &healthpb.HealthCheckRequest{Service: service}, grpc.UseCompressor(gzip.Name))
		if err != nil || got.GetStatus() != want {
			t.Errorf("service %q: want %v, got %v, %v", service, want, got, err)
		}
	}
	if _, err := client.Check(t.Context(), &healthpb.HealthCheckRequest{Service: "none"}); status.Code(err) != codes.NotFound {
		t.Errorf("want NotFound, got %v", err)
	}
	watch, err := client.Watch(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := watch.Recv(); err != nil || got.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("watch: %v, %v", got, err)
	}
	stop()
	if got, err := watch.Recv(); err == nil {
		t.Errorf("want the watch to end with the server, got %v", got)
	}
}

// TestReflection asks as grpcurl does for its list.
func TestReflection(t *testing.T) {
	t.Parallel()
	conn, _ := plain(t)
	s, err := reflectpb.NewServerReflectionClient(conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Send(&reflectpb.ServerReflectionRequest{MessageRequest: &reflectpb.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	r, err := s.Recv()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, one := range r.GetListServicesResponse().GetService() {
		names = append(names, one.GetName())
	}
	for _, want := range []string{"t", "s", "grpc.health.v1.Health"} {
		if !slices.Contains(names, want) {
			t.Errorf("want %s listed, got %v", want, names)
		}
	}
}

// TestUnknownMethodEndsAtOnce opens streams that no message is sent on.
func TestUnknownMethodEndsAtOnce(t *testing.T) {
	t.Parallel()
	conn, _ := plain(t)
	for _, method := range []string{"/none/none", "/t/none", "/s/none", "/grpc.health.v1.Health/None"} {
		if err := open(t, conn, method).RecvMsg(&wrapperspb.BytesValue{}); status.Code(err) != codes.Unimplemented {
			t.Errorf("%s: want Unimplemented, got %v", method, err)
		}
	}
}

func TestStreams(t *testing.T) {
	t.Parallel()
	conn, _ := plain(t)
	s := open(t, conn, "/s/echo")
	sent := &wrapperspb.BytesValue{Value: bytes.Repeat([]byte("x"), 2000)}
	for range 3 { // 2 MB each, more than a client takes before it reads
		if err := s.SendMsg(sent); err != nil {
			t.Fatal(err)
		}
		for i := range 1000 {
			var got wrapperspb.BytesValue
			if err := s.RecvMsg(&got); err != nil || len(got.GetValue()) != 2000 {
				t.Fatalf("message %d: %d bytes, %v", i, len(got.GetValue()), err)
			}
		}
	}
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if err := s.RecvMsg(&wrapperspb.BytesValue{}); !errors.Is(err, io.EOF) {
		t.Errorf("want the end, got %v", err)
	}
	for name, tc := range map[string]struct {
		method string
		send   []byte
		code   codes.Code
	}{
		"error":         {"/s/echo", []byte("fail"), codes.Aborted},
		"panic":         {"/s/panic", nil, codes.Internal},
		"large message": {"/s/echo", make([]byte, 70_000), codes.ResourceExhausted},
	} {
		s := open(t, conn, tc.method)
		if err := s.SendMsg(&wrapperspb.BytesValue{Value: tc.send}); err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		var err error
		for err == nil {
			err = s.RecvMsg(&wrapperspb.BytesValue{})
		}
		if status.Code(err) != tc.code {
			t.Errorf("%s: want %v, got %v", name, tc.code, err)
		}
	}
}

// TestUnreadAnswers has a service send until it is told that its client does not read.
func TestUnreadAnswers(t *testing.T) {
	t.Parallel()
	h, _, path, _ := start(t)
	conn := dial(t, path)
	s := open(t, conn, "/s/flood")
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if err := <-h.flooded; status.Code(err) != codes.ResourceExhausted {
		t.Errorf("want the sender stopped, got %v", err)
	}
	var err error
	for err == nil {
		err = s.RecvMsg(&wrapperspb.BytesValue{})
	}
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("want the client told, got %v", err)
	}
}

// TestManyStreams opens more at once than a connection may have; ended ones make room.
func TestManyStreams(t *testing.T) {
	t.Parallel()
	conn, _ := plain(t)
	ctx, cancel := context.WithCancel(t.Context())
	refused := 0
	var first grpc.ClientStream
	for range 70 {
		s, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, "/s/wait")
		if err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = s
		}
	}
	for range 6 { // those that the server refused end; it counts before it answers the next
		if err := open(t, conn, "/s/wait").RecvMsg(&wrapperspb.BytesValue{}); status.Code(err) == codes.ResourceExhausted {
			refused++
		}
	}
	if refused != 6 {
		t.Errorf("want further streams refused, got %d of 6", refused)
	}
	cancel()
	if err := first.RecvMsg(&wrapperspb.BytesValue{}); status.Code(err) != codes.Canceled {
		t.Errorf("want the first cancelled, got %v", err)
	}
	testenv.Eventually(t, "room after the streams were cancelled", func() bool {
		s := open(t, conn, "/s/echo")
		if err := s.CloseSend(); err != nil {
			t.Fatal(err)
		}
		return errors.Is(s.RecvMsg(&wrapperspb.BytesValue{}), io.EOF)
	})
}
