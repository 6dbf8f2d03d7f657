package ratelimit

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/balance"
	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
	"github.com/leaky-tokens/leaky-tokens/internal/grpcbatch"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/bucket"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/store"
)

// decision is one request of Envoy's on its way to an answer.
type decision struct {
	asked *grpcbatch.Call
	call  *call // nil on a route without tokens
	matched
	rules  *rules
	asks   []descriptor // whose limits were looked for
	take   store.Take
	shadow []string // rules in shadow or quota mode that would have refused
	answer *response
	// unknown says that the token service must be asked what the account owns.
	unknown bool
	mode    config.OutageMode // of its route
	err     error             // makes Envoy answer as the route's failure mode says
}

// settled reports whether Redis need not be asked.
func (d *decision) settled() bool { return d.answer != nil || d.err != nil }

// prepare reads a request and finds its limits.
func (s *Service) prepare(p *policy, r *request) decision {
	rules := p.domains[r.domain]
	if rules == nil {
		return decision{err: status.Errorf(codes.InvalidArgument, "domain %q is not served here", r.domain)}
	}
	if rules == p.rules && len(r.descriptors) > 0 && len(r.descriptors[0]) > 0 && r.descriptors[0][0].Key == attributes.Hold {
		return s.prepareCall(p, r)
	}
	org, user, tier := callers(r.descriptors)
	account := accountOf(org, user, r.descriptors)
	d := decision{matched: rules.match(r.descriptors, account, tier, counting{hits: int64(max(1, r.hits)), own: r.own})}
	d.take = store.Take{Account: account, Buckets: d.buckets, Requests: int64(max(1, r.hits))}
	d.mode = p.outage.For(routeOf(r.descriptors))
	return d
}

// prepareCall is prepare for a call that uses tokens.
func (s *Service) prepareCall(p *policy, r *request) decision {
	c, err := p.readCall(r.descriptors[0])
	if errors.Is(err, errNoID) {
		return decision{err: status.Error(codes.InvalidArgument, err.Error())}
	}
	if err != nil {
		s.metrics.holds.malformed.Inc()
		c.account = accountOf(c.org, c.user, r.descriptors)
		s.rememberMalformed(c, err)
		return decision{call: c, answer: c.malformed(err)}
	}
	c.account = accountOf(c.org, c.user, r.descriptors)
	d := decision{call: c, rules: p.rules, asks: r.descriptors[1:], matched: p.match(r.descriptors[1:], c.account, c.tier,
		counting{tokens: true, hits: 1})}
	d.take = store.Take{Account: c.account, ID: c.id, Buckets: d.buckets, Requests: 1, Input: c.input, Output: c.output, Fill: c.fill,
		Facts: c.facts(),
		Pool:  s.part(p, limitpb.BalancePolicy_BALANCE_UNSPECIFIED, c.tier, c.provider), Provider: c.provider}
	d.mode = p.outage.For(c.route)
	return d
}

// decideAll answers all that are not answered yet, in one round trip to Redis.
func (s *Service) decideAll(ctx context.Context, all []decision) {
	takes := make([]store.Take, 0, len(all))
	for i := range all {
		if !all[i].settled() {
			takes = append(takes, all[i].take)
		}
	}
	if len(takes) == 0 {
		return
	}
	bounded, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	taken, err := s.store.HoldAll(bounded, takes)
	next := 0
	for i := range all {
		d := &all[i]
		if d.settled() {
			continue
		}
		if err != nil {
			s.withoutRedis(d, err)
			continue
		}
		t := taken[next]
		next++
		switch {
		case errors.Is(t.Err, store.ErrUnavailable):
			s.withoutRedis(d, t.Err)
		case t.Err != nil:
			s.metrics.holds.failed.Inc()
			d.err = unavailable(t.Err)
		case t.Outcome == store.Missing:
			d.unknown = true
		default:
			s.conclude(ctx, d, t)
		}
	}
}

// decideUnknown decides about a call whose account's pool was not known to Redis.
func (s *Service) decideUnknown(ctx context.Context, d *decision) {
	bounded, cancel := context.WithTimeout(ctx, balance.AskTimeout+s.timeout)
	defer cancel()
	t, err := s.holdKnown(bounded, d.take)
	// Redis may have gone away meanwhile. A route that is open would get through Envoy whatever
	// is answered, so who owns what is not waited for either: else nobody would count the call.
	if errors.Is(err, store.ErrUnavailable) && (d.mode == config.OutageOpen || !errors.Is(err, errBalance)) {
		s.withoutRedis(d, err)
		return
	}
	if err != nil {
		s.metrics.holds.failed.Inc()
		s.log.LogAttrs(ctx, slog.LevelDebug, "no decision", slog.String("account", d.take.Account), slog.Any("error", err))
		d.err = unavailable(err)
		return
	}
	s.conclude(ctx, d, t)
}

// conclude makes the answer of what Redis said.
func (s *Service) conclude(ctx context.Context, d *decision, t store.Taken) {
	s.count(t.Outcome)
	if d.mode == config.OutageLease {
		s.lendFor(&d.take, t.Outcome)
	}
	d.shadow = s.record(ctx, d.matched, t, d.take)
	no := refused{wait: bucket.Never}
	switch {
	case t.Outcome == store.Short, t.Outcome == store.NoPool:
		d.answer = d.call.refuseBalance(d.matched, t)
	case t.Outcome == store.Refused:
		no = s.blame(d.matched, t, d.take)
		s.metrics.refused(no.label)
		if d.call == nil {
			d.answer = plainRefuse(d.matched, t, no)
		} else {
			d.answer = d.call.refuse(d.matched, t, no)
		}
	case d.call == nil:
		d.answer = plainAdmit(d.matched, t)
	case d.asked != nil && d.asked.Late() && d.mode != config.OutageOpen: // there it passed all the same
		s.giveBack(ctx, d.call)
		d.err = status.Error(codes.DeadlineExceeded, "the decision came too late")
	default:
		d.answer = d.call.admit(d.matched, t)
	}
	if d.call != nil {
		s.remember(d, t, no)
	}
	if len(d.shadow) > 0 && d.err == nil && !t.Outcome.Refuses() {
		d.tellQuota()
	}
}

// giveBack releases a hold that came to stand when Envoy had given up waiting: it
// answered 503 and nothing will be served.
func (s *Service) giveBack(ctx context.Context, c *call) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.timeout)
	defer cancel()
	if _, err := s.store.Settle(ctx, []store.Settlement{{Account: c.account, ID: c.id}}); err != nil {
		s.log.LogAttrs(ctx, slog.LevelWarn, "hold of an abandoned call stands until it expires", slog.String("request_id", c.id),
			slog.Any("error", err))
	}
	s.metrics.holds.abandoned.Inc()
}

// count counts what came of a hold.
func (s *Service) count(o store.Outcome) {
	switch o {
	case store.Refused:
		s.metrics.holds.refused.Inc()
	case store.Short, store.NoPool:
		s.metrics.holds.balance.Inc()
	case store.Repeated:
		s.metrics.holds.repeated.Inc()
	default:
		s.metrics.holds.admitted.Inc()
	}
}

// soon is how long to wait when only the holds of running calls are in the way: they
// may give back room any moment. It is random, so that the refused do not return at once.
func (s *Service) soon() int64 { return 100*milli + rand.Int64N(150*milli) }
