package consume

import (
	"context"
	"log/slog"
	"net/http"

	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/retry"
)

// mostUndecided is how many calls wait to be corrected; of more the log tells.
const mostUndecided = 1000

// undecided is a call whose booking failed, as far as was known in time.
type undecided struct {
	event       usage.Event
	correlation string
}

// withdraw has a call corrected that its caller got no answer of and their tokens back. Its event may be
// booked all the same: a frozen NATS reads later what its socket has, and Postgres may have committed
// and not been able to say so. No later call has this one's id, since Envoy gives each its own.
func (a *API) withdraw(ctx context.Context, c call, held *limitpb.HoldResponse) {
	e := a.event(c, held, "", http.StatusServiceUnavailable)
	e.Version, e.Charged, e.Allowed, e.Reason, e.Source = 1, 0, false, outcomeUnbooked, usage.FromUnstarted
	select {
	case a.undecided <- undecided{e, c.correlation}:
	default:
		a.said.Say(ctx, slog.LevelError, "a call that was not booked may be charged", nil, slog.String("request_id", c.id),
			slog.Int64("tokens", c.tokens))
	}
}

// Run corrects calls whose booking is undecided, until ctx ends. The books take a correction before or
// after what it replaces, so that it does not matter when that comes, or whether. Those that wait when
// the process ends are lost.
func (a *API) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case u := <-a.undecided:
			retry.Away().Forever(ctx, a.said, "correct calls that were not booked", func(ctx context.Context) error {
				ctx, cancel := context.WithTimeout(ctx, bookTimeout)
				defer cancel()
				return a.cfg.Books.Correct(ctx, u.event, u.correlation)
			}, retry.Waiting(func() int64 { return 1 + int64(len(a.undecided)) }))
		}
	}
}
