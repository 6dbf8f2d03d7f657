package outbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/balance"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/retry"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/tokensdb"
)

// What JetStream refuses about a message itself (nats-server, server/errors.json). Every
// other refusal is about the stream, its storage or its server, and passes.
const (
	headerTooLarge  jetstream.ErrorCode = 10097
	messageTooLarge                     = jetstream.JSErrCodeStreamMessageExceedsMaximum
	otherStream     jetstream.ErrorCode = 10060 // another stream has the subject
)

// parkedAtOnce is how many parked balances one look tries again.
const parkedAtOnce = 100

// failure is an event that was not confirmed.
type failure struct {
	event tokensdb.PendingEventsRow
	err   error
}

// poison reports whether a failure is the event's own fault, so that trying again is no use.
// Everything else is an outage, which is held against no event: a full disk, a stream at its
// limits, a leader that is missing, an answer that did not come. subjects are the stream's.
func (f failure) poison(subjects []string) bool {
	if answer, ok := errors.AsType[*jetstream.APIError](f.err); ok {
		switch answer.ErrorCode {
		case headerTooLarge, messageTooLarge, otherStream:
			return true
		}
		return false
	}
	if errors.Is(f.err, jetstream.ErrNoStreamResponse) || errors.Is(f.err, nats.ErrNoResponders) {
		return !caught(subjects, f.event.Subject) // nobody can have it, and not only now
	}
	_, unencodable := errors.AsType[*json.MarshalerError](f.err)
	return unencodable || errors.Is(f.err, nats.ErrMaxPayload) || errors.Is(f.err, nats.ErrBadSubject)
}

// caught reports whether one of the filters takes the subject: * stands for one token, > for
// one or more at the end.
func caught(filters []string, subject string) bool {
	have := strings.Split(subject, ".")
	for _, filter := range filters {
		want := strings.Split(filter, ".")
		open := want[len(want)-1] == ">"
		if open {
			want = want[:len(want)-1]
		}
		if len(have) < len(want) || open == (len(have) == len(want)) {
			continue
		}
		matches := true
		for i, token := range want {
			matches = matches && (token == "*" || token == have[i])
		}
		if matches {
			return true
		}
	}
	return false
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
		if !f.poison(stream.CachedInfo().Config.Subjects) {
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
	through := 0
	err := pgx.BeginFunc(ctx, r.cfg.DB, func(tx pgx.Tx) error {
		q := tokensdb.New(tx)
		rows, err := q.ParkedEvents(ctx, tokensdb.ParkedEventsParams{Prefix: balance.SubjectPrefix, Most: parkedAtOnce})
		if err != nil || len(rows) == 0 {
			return err
		}
		parked := make([]tokensdb.PendingEventsRow, len(rows))
		for i, row := range rows {
			parked[i] = tokensdb.PendingEventsRow(row)
		}
		confirmed, failed := r.send(ctx, parked)
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
