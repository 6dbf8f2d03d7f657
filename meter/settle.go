package meter

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/retry"
)

// Limiter is the part of ratelimit that the meter needs. Settle MUST be idempotent by
// request id and answer in the order asked.
type Limiter interface {
	Renew(ctx context.Context, in *limitpb.RenewRequest, opts ...grpc.CallOption) (*limitpb.RenewResponse, error)
	ReportRatios(ctx context.Context, in *limitpb.ReportRatiosRequest, opts ...grpc.CallOption) (*limitpb.ReportRatiosResponse, error)
	Settle(ctx context.Context, in *limitpb.SettleRequest, opts ...grpc.CallOption) (*limitpb.SettleResponse, error)
}

// unsettled is said while calls are not settled.
const unsettled = "settling waits for ratelimit"

const settleTimeout = 5 * time.Second

// settleAll settles what the verdicts ask for and gives the books' word on each. It tries
// until it succeeds or ctx ends: lines are never given up, except ones ratelimit refuses
// as malformed, which get a nil.
func (m *Meter) settleAll(ctx context.Context, verdicts []verdict) ([]*limitpb.Settled, error) {
	asked := make([]*limitpb.Settlement, 0, len(verdicts))
	for i := range verdicts {
		if e := &verdicts[i].event; verdicts[i].settle {
			asked = append(asked, &limitpb.Settlement{RequestId: e.RequestID, Account: e.Account, Charged: e.Charged})
		}
	}
	if len(asked) == 0 {
		return nil, nil
	}
	return m.settleSome(ctx, asked)
}

func (m *Meter) settleSome(ctx context.Context, asked []*limitpb.Settlement) ([]*limitpb.Settled, error) {
	var answer []*limitpb.Settled
	err := retry.Policy{First: 50 * time.Millisecond, Most: time.Second}.Do(ctx, func(ctx context.Context) (err error) {
		answer, err = m.settleOnce(ctx, asked)
		if status.Code(err) == codes.InvalidArgument {
			return retry.Permanent(err)
		}
		return err
	}, func(_ int, err error) {
		m.settleUp.Store(false)
		m.metrics.retries.WithLabelValues("settle").Inc()
		lag := m.tail.lag()
		m.metrics.lag.Set(float64(lag))
		m.said.Warn(ctx, unsettled, err, slog.Int64("waiting_bytes", lag))
	})
	if status.Code(err) == codes.InvalidArgument && ctx.Err() == nil {
		return m.settleHalves(ctx, asked, err)
	}
	if err == nil {
		m.said.Over(ctx, unsettled, "settling goes on")
		m.settleUp.Store(true)
	}
	return answer, err
}

func (m *Meter) settleOnce(ctx context.Context, asked []*limitpb.Settlement) ([]*limitpb.Settled, error) {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	answer, err := m.cfg.Limiter.Settle(ctx, &limitpb.SettleRequest{Settlements: asked, Some: true})
	if err != nil {
		return nil, err
	}
	if got := len(answer.GetSettled()); got != len(asked) {
		return nil, fmt.Errorf("settle: asked for %d, answered %d", len(asked), got)
	}
	return answer.GetSettled(), nil
}

// settleHalves finds the settlement that ratelimit refuses to take, so that one bad line
// does not hold up the others.
func (m *Meter) settleHalves(ctx context.Context, asked []*limitpb.Settlement, cause error) ([]*limitpb.Settled, error) {
	if len(asked) == 1 {
		m.metrics.settled.WithLabelValues("refused").Inc()
		m.said.Warn(ctx, "ratelimit refuses a settlement", fmt.Errorf("request %s: %w", asked[0].GetRequestId(), cause))
		return []*limitpb.Settled{nil}, nil
	}
	half := len(asked) / 2
	first, err := m.settleSome(ctx, asked[:half])
	if err != nil {
		return nil, err
	}
	second, err := m.settleSome(ctx, asked[half:])
	return append(first, second...), err
}

// outcome says whether an event is published after the books have spoken, and mends it
// where they say otherwise.
func (m *Meter) outcome(v *verdict, s *limitpb.Settled) bool {
	if s == nil {
		return false
	}
	m.metrics.settled.WithLabelValues(statusName(s.GetStatus())).Inc()
	e := &v.event
	e.Pool = drawn(s)
	switch s.GetStatus() {
	case limitpb.Settled_AWAY:
		m.keepAway(v)
		return false
	case limitpb.Settled_LATE:
		// The sweeper charged by its policy and may have said so in an event of its own: this one
		// replaces it, and is the same however often it is made.
		if s.GetTakenUs() == 0 {
			return false // forgotten: nothing could be corrected
		}
		agree(e, s.GetCharged())
		e.Version, e.Timestamp = 1, time.UnixMicro(s.GetTakenUs()).UTC()
	case limitpb.Settled_UNKNOWN:
		if v.orphan {
			m.keepOrphan(v)
			return false
		}
		if v.outage {
			m.keepOrphan(v)
			return v.tries == 0 // the event need not wait for the books
		}
		// Redis lost the hold, or has forgotten it: the provider's count still counts, also where the
		// sweeper has told another since. An estimate may differ from one that was told before.
		if e.Source != usage.FromEstimate && time.Since(e.Timestamp) > m.cfg.HoldLife {
			e.Version = 1
		}
		return true
	case limitpb.Settled_SETTLED:
		if v.outage && v.tries > 0 {
			return false // published before
		}
	case limitpb.Settled_DUPLICATE:
		if v.orphan && s.GetHeld() == 0 && s.GetCharged() == 0 {
			return false // it was refused, and what Redis may have taken for it is given back
		}
		agree(e, s.GetCharged()) // settled before a crash: the same event again
	}
	if e.Held == 0 {
		e.Held = s.GetHeld()
	}
	return true
}

// drawn is what the event says of the pool; nothing when the books do not know the hold.
func drawn(s *limitpb.Settled) usage.Pool {
	switch s.GetDrawn() {
	case limitpb.Settled_DRAWN_POOL:
		return usage.PoolDrawn
	case limitpb.Settled_DRAWN_NONE:
		return usage.PoolNone
	}
	return ""
}

// agree takes over what the books have charged: an estimate made anew may differ from the
// one that was settled.
func agree(e *usage.Event, charged int64) {
	if e.Charged == charged || charged < 0 {
		return
	}
	e.Charged = charged
	e.Input = min(e.Input, charged)
	e.Output = charged - e.Input
}

func statusName(s limitpb.Settled_Status) string {
	switch s {
	case limitpb.Settled_SETTLED:
		return "settled"
	case limitpb.Settled_DUPLICATE:
		return "duplicate"
	case limitpb.Settled_LATE:
		return "late"
	case limitpb.Settled_UNKNOWN:
		return "unknown"
	case limitpb.Settled_AWAY:
		return "away"
	}
	return "unspecified"
}
