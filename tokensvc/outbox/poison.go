package outbox

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/balance"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/retry"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/tokensdb"
)

// parkedAtOnce is how many parked balances one look tries again.
const parkedAtOnce = 100

// failure is an event that was not confirmed.
type failure struct {
	event tokensdb.PendingEventsRow
	err   error
}

// judge counts what is poison against its events. The error is an outage, if there is one.
func (r *Relay) judge(ctx context.Context, q *tokensdb.Queries, failed []failure) (refused int, outage error, err error) {
	asking, cancel := context.WithTimeout(ctx, ackWait)
	defer cancel()
	stream, outage := usage.EnsureStream(asking, r.js)
	if outage != nil {
		return 0, outage, nil
	}
	for _, f := range failed {
		if !usage.Poison(f.err, f.event.Subject, stream.CachedInfo().Config.Subjects) {
			outage = fmt.Errorf("publish %s: %w", f.event.Subject, f.err)
			continue
		}
		if err := r.refused(ctx, q, f); err != nil {
			return refused, outage, err
		}
		refused++
	}
	return refused, outage, nil
}

// refused notes that JetStream would not have an event; after too many times it is parked.
func (r *Relay) refused(ctx context.Context, q *tokensdb.Queries, f failure) error {
	wait := retry.Policy{First: 100 * time.Millisecond, Most: 51200 * time.Millisecond}.After(int(f.event.Attempts))
	err := q.MarkFailed(ctx, tokensdb.MarkFailedParams{ID: f.event.ID, LastError: strings.ToValidUTF8(f.err.Error(), "?"),
		WaitSeconds: wait.Seconds(), MostAttempts: int32(r.cfg.Attempts)})
	if err != nil {
		return err
	}
	r.metrics.refused.Inc()
	if int(f.event.Attempts)+1 == r.cfg.Attempts {
		r.cfg.Log.LogAttrs(ctx, slog.LevelError, "parked an event that JetStream refuses", slog.String("id", f.event.ID.String()),
			slog.String("type", f.event.EventType), slog.String("subject", f.event.Subject), slog.Any("error", f.err))
	}
	return nil
}

// RetryParked tries parked balances again, and answers how many went through: without its
// state an account that has paid may be refused, so they are never given up. They stay
// counted as parked meanwhile, and may come after their successors, since states have
// versions. While another replica has them, this one does nothing.
func (r *Relay) RetryParked(ctx context.Context) (int, error) {
	link, err := r.lookAtStream(ctx)
	if err != nil {
		return 0, fmt.Errorf("retry parked events: %w", err)
	}
	through := 0
	err = pgx.BeginFunc(ctx, r.cfg.DB, func(tx pgx.Tx) error {
		q := tokensdb.New(tx)
		rows, err := q.ParkedEvents(ctx, tokensdb.ParkedEventsParams{Prefix: balance.SubjectPrefix, Most: parkedAtOnce})
		if err != nil || len(rows) == 0 {
			return err
		}
		parked := make([]tokensdb.PendingEventsRow, len(rows))
		for i, row := range rows {
			parked[i] = tokensdb.PendingEventsRow(row)
		}
		confirmed, failed := r.send(ctx, link, parked)
		through = len(confirmed)
		if len(failed) > 0 {
			if _, _, err := r.judge(ctx, q, failed); err != nil {
				return err
			}
		}
		return mark(ctx, q, confirmed)
	})
	if err != nil {
		return 0, fmt.Errorf("retry parked events: %w", err)
	}
	r.metrics.published.Add(float64(through))
	return through, nil
}
