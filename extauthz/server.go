package extauthz

import (
	"context"
	"fmt"
	"net"
	"time"

	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/leaky-tokens/leaky-tokens/internal/grpcbatch"
)

// reply is a finished CheckResponse as it goes over the wire. It is immutable, so one
// reply answers many calls.
type reply struct{ wire []byte }

func newReply(message *auth.CheckResponse) (*reply, error) {
	wire, err := proto.Marshal(message)
	if err != nil {
		return nil, fmt.Errorf("encode answer: %w", err)
	}
	return &reply{wire: wire}, nil
}

func (r *reply) message() (*auth.CheckResponse, error) {
	message := &auth.CheckResponse{}
	if err := proto.Unmarshal(r.wire, message); err != nil {
		return nil, fmt.Errorf("decode answer: %w", err)
	}
	return message, nil
}

// longestCheck bounds a check whose caller states no deadline.
const longestCheck = 5 * time.Second

// Serve answers Envoy on the listener until ctx ends, then lets calls in flight end.
func (s *Service) Serve(ctx context.Context, ln net.Listener) error {
	server, err := grpcbatch.New(grpcbatch.Config{Handler: handler{s}, Methods: []string{auth.Authorization_Check_FullMethodName}, Log: s.log})
	if err != nil {
		return fmt.Errorf("serve grpc: %w", err)
	}
	return server.Serve(ctx, ln)
}

// handler is envoy.service.auth.v3.Authorization.
type handler struct{ service *Service }

// Serve implements grpcbatch.Handler. What is remembered is answered at once; for the rest,
// which waits for identity or computes, nobody else has to wait.
func (h handler) Serve(ctx context.Context, calls []*grpcbatch.Call) {
	for _, asked := range calls {
		var c call
		if err := c.decode(asked.Message); err != nil {
			asked.Fail(codes.InvalidArgument, err.Error())
			continue
		}
		ctx, span := h.service.begin(ctx, asked)
		r, err := h.service.recall(ctx, &c)
		if err == errUnknown { //nolint:errorlint // as in decide
			go h.check(ctx, asked, c, span)
			continue
		}
		end(span, &c, r)
		send(asked, r, err)
	}
}

func (h handler) check(ctx context.Context, asked *grpcbatch.Call, c call, span trace.Span) {
	until := asked.Deadline
	if until.IsZero() {
		until = time.Now().Add(longestCheck)
	}
	ctx, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	r, err := h.service.check(ctx, &c)
	end(span, &c, r)
	send(asked, r, err)
}

func send(asked *grpcbatch.Call, r *reply, err error) {
	if err != nil {
		asked.Fail(codes.Internal, err.Error())
		return
	}
	asked.Answer(r.wire)
}
