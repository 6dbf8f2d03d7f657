package ratelimit

import (
	"context"
	"fmt"
	"net"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
	"github.com/leaky-tokens/leaky-tokens/internal/grpcbatch"
)

// methodDecide is what Envoy calls.
const methodDecide = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"

// Listen answers Envoy and the users of our own API on the listener until ctx ends.
func (s *Service) Listen(ctx context.Context, ln net.Listener) error {
	server, err := grpcbatch.New(grpcbatch.Config{Handler: s, Log: s.log})
	if err != nil {
		return fmt.Errorf("serve grpc: %w", err)
	}
	return server.Serve(ctx, ln)
}

// Serve implements grpcbatch.Handler: calls that came together share a round trip to Redis.
func (s *Service) Serve(ctx context.Context, calls []*grpcbatch.Call) {
	p := s.policy.Load()
	decisions := make([]decision, 0, len(calls))
	for _, c := range calls {
		switch c.Method {
		case methodDecide:
			var r request
			if err := r.parse(c.Message); err != nil {
				c.Fail(codes.InvalidArgument, err.Error())
				continue
			}
			d := s.prepare(p, &r)
			d.asked = c
			decisions = append(decisions, d)
		case limitpb.Limiter_Hold_FullMethodName:
			go own(ctx, c, &limitpb.HoldRequest{}, s.Hold) // may ask the token service
		case limitpb.Limiter_Settle_FullMethodName:
			own(ctx, c, &limitpb.SettleRequest{}, s.Settle)
		case limitpb.Limiter_GetAccountState_FullMethodName:
			go own(ctx, c, &limitpb.GetAccountStateRequest{}, s.GetAccountState) // may ask the token service
		case limitpb.Limiter_Renew_FullMethodName:
			own(ctx, c, &limitpb.RenewRequest{}, s.Renew)
		case limitpb.Limiter_ListHolds_FullMethodName:
			go own(ctx, c, &limitpb.ListHoldsRequest{}, s.ListHolds) // reads all keys
		case limitpb.Limiter_Explain_FullMethodName:
			go own(ctx, c, &limitpb.ExplainRequest{}, s.Explain)
		case limitpb.Limiter_ReportRatios_FullMethodName:
			go own(ctx, c, &limitpb.ReportRatiosRequest{}, s.ReportRatios)
		default:
			c.Fail(codes.Unimplemented, "no such method")
		}
	}
	s.decideAll(ctx, decisions)
	for i := range decisions {
		d := &decisions[i]
		if d.unknown {
			late := *d
			go func() { // asks the token service; nothing else may wait for that
				s.decideUnknown(ctx, &late)
				late.reply()
			}()
			continue
		}
		d.reply()
	}
}

// reply tells Envoy what was decided.
func (d *decision) reply() {
	if d.err != nil {
		c := status.Convert(d.err)
		d.asked.Fail(c.Code(), c.Message())
		return
	}
	d.asked.Answer(d.answer.message())
}

// own answers a call of our own API.
func own[In, Out proto.Message](ctx context.Context, c *grpcbatch.Call, in In, serve func(context.Context, In) (Out, error)) {
	if err := proto.Unmarshal([]byte(c.Message), in); err != nil {
		c.Fail(codes.InvalidArgument, err.Error())
		return
	}
	if !c.Deadline.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, c.Deadline)
		defer cancel()
	}
	out, err := serve(ctx, in)
	if err != nil {
		s := status.Convert(err)
		c.Fail(s.Code(), s.Message())
		return
	}
	message, err := proto.Marshal(out)
	if err != nil {
		c.Fail(codes.Internal, err.Error())
		return
	}
	c.Answer(message)
}
