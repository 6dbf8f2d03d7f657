package ratelimit

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/balance"
	"github.com/leaky-tokens/leaky-tokens/internal/grpcbatch"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/bucket"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/match"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/store"
)

// admission is one request on its way through the only path to a decision. Envoy's calls
// (envoy.go) and tokensvc's (hold.go) enter it with take made, and read the result off it.
//
//	entrance        makes take: whose buckets, which, and how much of each
//	admit           one round trip to Redis for all that came together
//	admitUnknown    asks the token service first, where Redis does not know the pool, is not
//	                believed about it, or refuses for want of money; and the books, where Redis
//	                has lost what long limits count
//	withoutRedis    lets leases or the route's outage mode decide
//	conclude        counts, and finds what refused
type admission struct {
	rules   *match.Rules
	asked   []match.Descriptor // whose limits were looked for
	matched match.Matched
	take    store.Take
	books   bool              // long limits are among matched, and the books know what was used of them
	mode    config.OutageMode // of its route; closed where nobody but Redis may decide
	caller  *grpcbatch.Call   // whose patience may end before the decision; nil: it waits

	// The result.
	decided bool // Redis need not be asked (again)
	taken   store.Taken
	refusal match.Refusal // of taken's outcome Refused
	shadow  []string      // rules in shadow or quota mode that would have refused
	unknown bool          // somebody must be asked first: what the account owns, or what it used
	dry     *store.Taken  // Redis' refusal for want of money, which that is asked about

	lost     bool  // a long limit has no bucket, and Redis may have lost one
	doubtful bool  // what Redis decided is not believed, and undone first
	blind    bool  // admitted without Redis, with taken's Output granted
	err      error // a gRPC status; makes Envoy answer as the route's failure mode says
}

// admit decides about all that are not decided yet, in one round trip to Redis. Those whose
// account's pool is not known there are left unknown: admitUnknown takes longer.
func (s *Service) admit(ctx context.Context, all []*admission) {
	begun := s.trust.begun()
	takes := make([]store.Take, 0, len(all))
	for _, a := range all {
		if a.decided {
			continue
		}
		if why := s.notWritten(a); why != nil {
			s.withoutRedis(ctx, a, why)
			continue
		}
		if a.unknown = s.doubts(&a.take) || s.windows.doubts(a); !a.unknown {
			takes = append(takes, a.take)
		}
	}
	if len(takes) == 0 {
		return
	}
	bounded, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	taken, err := s.store.HoldAll(bounded, takes)
	next := 0
	for _, a := range all {
		if a.decided || a.unknown {
			continue
		}
		if err != nil {
			s.withoutRedis(ctx, a, err)
			continue
		}
		t := taken[next]
		next++
		switch {
		case errors.Is(t.Err, store.ErrUnavailable):
			s.withoutRedis(ctx, a, t.Err)
		case t.Err != nil:
			s.metrics.holds.failed.Inc()
			a.fail(unavailable(t.Err))
		case a.take.ID != "" && (a.take.Pool != store.PoolNone || a.books) && s.trust.begun() != begun: // the call itself found another Redis
			a.unknown, a.doubtful = true, true
		case t.Outcome == store.Lost:
			s.windows.lost()
			a.unknown, a.lost = true, true
		case s.checks(&a.take, &t):
			a.unknown = true
			if dry(t.Outcome) {
				a.dry = &t
			}
		default:
			s.conclude(ctx, a, t)
		}
	}
}

// admitUnknown decides about a call of which Redis did not know what its account owns, or used.
func (s *Service) admitUnknown(ctx context.Context, a *admission) {
	bounded, cancel := context.WithTimeout(ctx, balance.AskWithin(s.timeout)+s.timeout)
	defer cancel()
	a.unknown = false
	t, err := s.holdRebuilt(bounded, a)
	// Redis may have gone away meanwhile. A route that is open would get through Envoy whatever
	// is answered, so who owns what is not waited for either: else nobody would count the call.
	if errors.Is(err, store.ErrUnavailable) && (a.mode == config.OutageOpen || !errors.Is(err, errBalance)) {
		s.withoutRedis(ctx, a, err)
		return
	}
	if err != nil {
		s.metrics.holds.failed.Inc()
		s.log.LogAttrs(ctx, slog.LevelDebug, "no decision", slog.String("account", a.take.Account), slog.Any("error", err))
		a.fail(unavailable(err))
		return
	}
	s.conclude(ctx, a, t)
}

// ends reports whether a refusal is the last that is heard of a hold: Envoy asks once for each call. The
// token service asks again under the same id, and Envoy does for a call that moves to another model.
func (a *admission) ends() bool { return a.take.ID != "" && a.caller != nil && !a.take.Moves }

// withoutRedis decides about a request while Redis does not answer, as its route says.
func (s *Service) withoutRedis(ctx context.Context, a *admission, why error) {
	a.taken.Output, a.blind = s.leases.Admit(a.mode, a.take)
	s.rememberBlind(a)
	if !a.blind {
		if a.ends() && store.Unanswered(why) { // Redis may have taken it, or may yet
			s.leases.Owe(ctx, store.Revocation{Take: a.take})
		}
		s.metrics.holds.failed.Inc()
		s.metrics.outage.WithLabelValues(string(a.mode), "refused").Inc()
		a.fail(unavailable(why))
		return
	}
	s.metrics.outage.WithLabelValues(string(a.mode), "admitted").Inc()
	a.decided = true
}

// conclude takes over what Redis said.
func (s *Service) conclude(ctx context.Context, a *admission, t store.Taken) {
	a.taken, a.decided = t, true
	s.count(t.Outcome)
	if a.take.Pool != store.PoolNone {
		s.meters.has(a.take.Account, a.take.Provider) // also where another process asked for it
	}
	if a.mode == config.OutageLease {
		s.leases.Observe(&a.take, t.Outcome)
	}
	a.shadow = s.recordShadow(ctx, a)
	a.refusal = match.Refusal{Wait: bucket.Never}
	switch {
	case t.Outcome == store.Refused:
		a.refusal = a.matched.Blame(t.States, a.cost(), t.Now, soon())
		s.metrics.refused(a.rules.Set().Domain(), a.refusal.Label)
	case a.late() && !t.Outcome.Refuses() && a.mode != config.OutageOpen: // there it passed all the same
		s.giveBack(ctx, a.take)
		a.fail(status.Error(codes.DeadlineExceeded, "the decision came too late"))
	}
	s.remember(a)
	if s.log.Enabled(ctx, slog.LevelDebug) && a.take.ID != "" {
		s.log.LogAttrs(ctx, slog.LevelDebug, "call decided", slog.String("request_id", a.take.ID), slog.String("account", a.take.Account),
			slog.String("outcome", t.Outcome.String()), slog.String("rule", a.refusal.Label))
	}
}

// late reports whether the caller of a held request gave up before it was decided.
func (a *admission) late() bool { return a.take.ID != "" && a.caller != nil && a.caller.Late() }

// cost is what the request asked of its limits.
func (a *admission) cost() match.Cost {
	return match.Cost{Requests: a.take.Requests, Input: a.take.Input, Output: a.take.Output, Fill: a.take.Fill}
}

func (a *admission) fail(err error) { a.err, a.decided = err, true }

// giveBack releases a hold that came to stand when Envoy had given up waiting: it
// answered 503 and nothing will be served.
func (s *Service) giveBack(ctx context.Context, t store.Take) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.timeout)
	defer cancel()
	if _, err := s.store.Settle(ctx, []store.Settlement{{Account: t.Account, ID: t.ID}}); err != nil {
		if !t.Moves {
			s.leases.Owe(ctx, store.Revocation{Take: t})
		}
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

// soon is how long to wait when only the holds of running calls are in the way, in
// microseconds: they may give back room any moment. It is random, so that the refused do
// not return at once.
func soon() int64 { return 100_000 + rand.Int64N(150_000) }

// unavailable gives a store's error its gRPC code, so that callers know what to repeat.
func unavailable(err error) error {
	if errors.Is(err, store.ErrUnavailable) || errors.Is(err, errUnwritten) {
		return status.Error(codes.Unavailable, err.Error())
	}
	return status.Error(codes.Internal, err.Error())
}
