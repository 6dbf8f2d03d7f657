package ratelimit

import (
	"context"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
	"github.com/leaky-tokens/leaky-tokens/internal/grpcbatch"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/wire"
)

// Listen answers Envoy and the users of our own API on the listener until ctx ends.
func (s *Service) Listen(ctx context.Context, ln net.Listener) error {
	methods := []string{wire.Method}
	for _, m := range limitpb.Limiter_ServiceDesc.Methods {
		methods = append(methods, "/"+limitpb.Limiter_ServiceDesc.ServiceName+"/"+m.MethodName)
	}
	return s.listen(ctx, ln, handler{Service: s}, methods)
}

// ListenOthers answers other Envoys than ours on the listener until ctx ends: what they may
// ask is whether a request of another domain than ours may pass, and nothing else.
func (s *Service) ListenOthers(ctx context.Context, ln net.Listener) error {
	return s.listen(ctx, ln, handler{Service: s, others: true}, []string{wire.Method})
}

// listen serves with the health that Envoy's and Kubernetes' probes ask for, and with
// reflection.
func (s *Service) listen(ctx context.Context, ln net.Listener, h handler, methods []string) error {
	server, err := grpcbatch.New(grpcbatch.Config{Handler: h, Methods: methods, Log: s.log})
	if err != nil {
		return fmt.Errorf("serve grpc: %w", err)
	}
	healthpb.RegisterHealthServer(server, s.health)
	reflection.Register(server)
	leaving := context.AfterFunc(ctx, s.health.Shutdown)
	defer leaving()
	return server.Serve(ctx, ln)
}

// handler is the service behind one listener.
type handler struct {
	*Service
	others bool // who asks may not ask in our own domain
}

// Serve implements grpcbatch.Handler: calls that came together share a round trip to Redis.
func (s handler) Serve(ctx context.Context, calls []*grpcbatch.Call) {
	p, begun := s.policy.Load(), time.Now()
	envoys := make([]envoyCall, 0, len(calls))
	for _, c := range calls {
		if c.Method == wire.Method {
			envoys = append(envoys, s.enterEnvoy(p, c.Message, c, s.others))
		} else {
			s.serveOwn(ctx, c)
		}
	}
	all := make([]*admission, len(envoys))
	for i := range envoys {
		s.refuseKnown(ctx, p, &envoys[i])
		all[i] = &envoys[i].admission
	}
	s.admit(ctx, all)
	for i := range envoys {
		e := &envoys[i]
		if e.unknown {
			later := *e
			go func() { // asks the token service; nothing else may wait for that
				s.admitUnknown(ctx, &later.admission)
				s.traced(ctx, &later, begun)
				s.reply(&later)
			}()
			continue
		}
		s.traced(ctx, e, begun)
		s.reply(e)
	}
}

// serveOwn answers a call of our own API.
func (s *Service) serveOwn(ctx context.Context, c *grpcbatch.Call) {
	switch c.Method {
	case limitpb.Limiter_Hold_FullMethodName:
		go serveOne(ctx, s, c, &limitpb.HoldRequest{}, s.Hold) // may ask the token service
	case limitpb.Limiter_Settle_FullMethodName:
		serveOne(ctx, s, c, &limitpb.SettleRequest{}, s.Settle)
	case limitpb.Limiter_GetAccountState_FullMethodName:
		go serveOne(ctx, s, c, &limitpb.GetAccountStateRequest{}, s.GetAccountState) // may ask the token service
	case limitpb.Limiter_Renew_FullMethodName:
		serveOne(ctx, s, c, &limitpb.RenewRequest{}, s.Renew)
	case limitpb.Limiter_ListHolds_FullMethodName:
		go serveOne(ctx, s, c, &limitpb.ListHoldsRequest{}, s.ListHolds) // reads all keys
	case limitpb.Limiter_Explain_FullMethodName:
		go serveOne(ctx, s, c, &limitpb.ExplainRequest{}, s.Explain)
	case limitpb.Limiter_ReportRatios_FullMethodName:
		go serveOne(ctx, s, c, &limitpb.ReportRatiosRequest{}, s.ReportRatios)
	}
}

// serveOne decodes the request, has it served and encodes the answer.
func serveOne[In, Out proto.Message](ctx context.Context, s *Service, c *grpcbatch.Call, in In,
	serve func(context.Context, In) (Out, error)) {
	if err := proto.Unmarshal([]byte(c.Message), in); err != nil {
		c.Fail(codes.InvalidArgument, err.Error())
		return
	}
	if !c.Deadline.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, c.Deadline)
		defer cancel()
	}
	ctx, end := s.begin(ctx, c)
	out, err := serve(ctx, in)
	end()
	if err != nil {
		said := status.Convert(err)
		c.Fail(said.Code(), said.Message())
		return
	}
	message, err := proto.Marshal(out)
	if err != nil {
		c.Fail(codes.Internal, err.Error())
		return
	}
	c.Answer(message)
}
