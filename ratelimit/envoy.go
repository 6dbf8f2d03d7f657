package ratelimit

import (
	"errors"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
	"github.com/leaky-tokens/leaky-tokens/internal/grpcbatch"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/match"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/store"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/wire"
)

// envoyCall is one of Envoy's calls: the entrance to admission for an encoded
// RateLimitRequest, and its way out as a RateLimitResponse.
type envoyCall struct {
	admission
	call   *match.Call    // nil on a route without tokens
	others *foreign       // nil in our own domain
	answer *wire.Response // nil until the request is decided
	full   *full          // of the policy that it is decided by
	known  bool           // it was refused without Redis
}

// enterEnvoy reads one of Envoy's calls and finds its limits. others says that the caller is
// not our own Envoy and may not ask in its domain.
func (s *Service) enterEnvoy(p *policy, message string, c *grpcbatch.Call, others bool) envoyCall {
	out := envoyCall{admission: admission{caller: c}, full: p.full}
	r, err := wire.ParseRequest(message)
	switch {
	case err != nil:
		out.fail(status.Error(codes.InvalidArgument, err.Error()))
	case others && p.Rules != nil && r.Domain == p.Rules.Set().Domain() && r.Domain != "":
		out.fail(status.Errorf(codes.PermissionDenied, "domain %q is our own Envoy's", r.Domain))
	default:
		s.findLimits(p, &r, &out)
	}
	return out
}

// findLimits makes what is taken of whom.
func (s *Service) findLimits(p *policy, r *match.Request, out *envoyCall) {
	rules := p.Domain(r.Domain)
	switch {
	case r.Domain == "":
		out.fail(status.Error(codes.InvalidArgument, match.ErrNoDomain.Error()))
	case rules == nil && p.unknown != nil:
		s.metrics.unknownDomains.WithLabelValues(s.matching.Labels.Domain(r.Domain)).Inc()
		r.Overrides = nil
		s.findForeignLimits(p, p.unknown, r, out)
	case rules == nil:
		out.fail(status.Errorf(codes.InvalidArgument, "domain %q is not served here", r.Domain))
	case rules != p.Rules:
		s.findForeignLimits(p, rules, r, out)
	case len(r.Descriptors) > match.MaxDescriptors:
		out.fail(status.Error(codes.InvalidArgument, match.ErrTooMany.Error()))
	case r.IsCall():
		s.findCallLimits(p, r, out)
	default:
		org, user, tier := match.Callers(r.Descriptors)
		account := match.Account(org, user, r.Descriptors)
		count := r.Counting()
		out.rules, out.asked, out.matched = rules, r.Descriptors, rules.Match(r.Descriptors, account, tier, count)
		out.books = out.matched.Long && s.windows.on()
		out.take = store.Take{Account: account, Buckets: out.matched.Buckets, Requests: count.Hits}
		out.mode = p.outage.For(match.Route(r.Descriptors))
	}
}

// findCallLimits is findLimits for a call that uses tokens: its first descriptor describes it.
func (s *Service) findCallLimits(p *policy, r *match.Request, out *envoyCall) {
	c, err := p.ReadCall(r.Descriptors[0])
	if errors.Is(err, match.ErrNoID) {
		out.fail(status.Error(codes.InvalidArgument, err.Error()))
		return
	}
	out.call = c
	c.Account = match.Account(c.Org, c.User, r.Descriptors)
	if err != nil {
		s.metrics.holds.malformed.Inc()
		s.rememberMalformed(c, err)
		out.answer, out.decided = wire.RefuseMalformed(c, err), true
		return
	}
	out.rules, out.asked = p.Rules, r.Descriptors[1:]
	out.matched = p.Match(out.asked, c.Account, c.Tier, match.OneCall())
	out.books = out.matched.Long && s.windows.on()
	out.take = store.Take{Account: c.Account, ID: c.ID, Buckets: out.matched.Buckets, Requests: 1, Input: c.Input, Output: c.Output,
		Fill: c.Fill, Facts: c.Facts(), Pool: s.part(p, limitpb.BalancePolicy_BALANCE_UNSPECIFIED, c.Tier, c.Provider),
		Provider: c.Provider, Moves: c.Moves}
	out.mode = p.outage.For(c.Route)
}

// reply tells Envoy what was decided.
func (s *Service) reply(e *envoyCall) {
	if e.err != nil {
		c := status.Convert(e.err)
		e.caller.Fail(c.Code(), c.Message())
		return
	}
	if e.answer == nil {
		e.answer = s.response(e)
		if e.others == nil {
			s.metrics.ofGateway(e.taken.Outcome)
		}
	}
	e.caller.Answer(e.answer.Message())
}

// response is the answer to a request that was decided.
func (s *Service) response(e *envoyCall) *wire.Response {
	if e.blind {
		return wire.AdmitOutage(e.call, e.mode, e.take.Input, e.taken.Output)
	}
	t := &e.taken
	e.learnRefusal()
	if e.others != nil {
		return s.foreignResponse(e)
	}
	d := wire.Decision{Limits: e.matched.Limits, States: t.States, Now: t.Now, Held: t.Held, Output: t.Output,
		Pool: wire.Pool{Present: t.Pool.Present, Left: t.Pool.Left(), Held: t.Pool.Held}}
	switch {
	case t.Outcome == store.Short, t.Outcome == store.NoPool:
		return wire.RefuseBalance(e.call, &d, t.Outcome == store.NoPool)
	case t.Outcome == store.Refused && e.call == nil:
		return wire.RefusePlain(&d, e.refusal)
	case t.Outcome == store.Refused:
		return wire.Refuse(e.call, &d, e.refusal)
	}
	var r *wire.Response
	if e.call == nil {
		r = wire.AdmitPlain(&d)
	} else {
		r = wire.Admit(e.call, &d)
	}
	if over := e.quotasExceeded(); len(over) > 0 {
		r.AddQuotas(over)
	}
	return r
}

// quotasExceeded are the quota_mode rules that the request is over.
func (e *envoyCall) quotasExceeded() []string {
	if len(e.shadow) == 0 {
		return nil
	}
	var over []string
	for _, l := range e.matched.Limits {
		if l.Rule.Quota && slices.Contains(e.shadow, l.Rule.Name) {
			over = append(over, l.Rule.Name)
		}
	}
	return over
}
