package saga

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/leaky-tokens/leaky-tokens/internal/retry"
	"github.com/leaky-tokens/leaky-tokens/internal/tracing"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/ledger"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/payment"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/tokensdb"
)

// errLost says that the lease went to another worker, who goes on from what is written.
var errLost = errors.New("the lease is lost")

// carry takes a claimed purchase as far as it goes now. What was answered but not written
// when the process dies is asked again by the next worker.
func (s *Service) carry(ctx context.Context, row Saga) {
	// A step that began is ended, also on shutdown. It is in the trace of the order.
	work := tracing.Parent(context.WithoutCancel(ctx), row.Traceparent)
	for {
		if ctx.Err() != nil {
			s.release(work, row)
			return
		}
		action := position(row).Next()
		if action == None {
			return
		}
		next, err := s.step(work, row, action)
		switch {
		case errors.Is(err, errLost):
			return
		case err != nil:
			s.later(work, next, action, err)
			return
		}
		row = next
		if row.NextAt == nil || row.LeaseToken == nil {
			return
		}
	}
}

func position(row Saga) Position {
	return Position{Status: Status(row.Status), Backward: row.Backward, Asked: row.Asks > 0}
}

func orderOf(row Saga) payment.Order {
	return payment.Order{Purchase: row.ID, Account: account(row), Amount: row.Amount, Currency: row.Currency, ID: row.PaymentID}
}

// step does one action and writes what came of it. After an error the row is where it was, with what
// was learned of the payment; the database may be a step further, if the answer to its COMMIT was lost.
func (s *Service) step(ctx context.Context, row Saga, action Action) (Saga, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timing.Step)
	defer cancel()
	s.cfg.Boundary(string(action) + " before")
	switch action {
	case Allocate:
		return s.allocate(ctx, row)
	case Abandon:
		return s.advance(ctx, row, action, Decision{To: Failed, Backward: true, Reason: row.Failure})
	case Authorize, Capture, Void, None:
	}
	got, err := s.ask(ctx, row, action)
	if err != nil {
		return row, err
	}
	s.cfg.Boundary(string(action) + " answered")
	if got.ID != "" {
		row.PaymentID = got.ID
	}
	decision := Decide(position(row), action, orderOf(row), got)
	switch {
	case decision.Park:
		return s.park(ctx, row, action, decision.Reason)
	case decision.Retry:
		return row, errors.New(decision.Reason)
	}
	return s.advance(ctx, row, action, decision)
}

// ask calls the payment. Somebody who may have asked before first looks at what came of
// it, since a provider remembers idempotency keys only so long.
func (s *Service) ask(ctx context.Context, row Saga, action Action) (payment.State, error) {
	o := orderOf(row)
	if row.Asks > 1 {
		found, err := s.cfg.Payments.Find(ctx, o)
		if err != nil {
			return found, fmt.Errorf("find payment: %w", err)
		}
		if found.Status != payment.Absent && !Decide(position(row), action, o, found).Retry {
			return found, nil
		}
		if found.ID != "" {
			o.ID = found.ID
		}
	}
	call := map[Action]func(context.Context, payment.Order) (payment.State, error){Authorize: s.cfg.Payments.Authorize,
		Capture: s.cfg.Payments.Capture, Void: s.cfg.Payments.Void}[action]
	got, err := call(ctx, o)
	if err != nil {
		return got, fmt.Errorf("%s payment: %w", action, err)
	}
	return got, nil
}

// allocate credits the tokens, or turns back when the account may not have them.
func (s *Service) allocate(ctx context.Context, row Saga) (Saga, error) {
	next, err := s.advance(ctx, row, Allocate, Decision{To: TokensAllocated})
	if errors.Is(err, errRefused) {
		return s.advance(ctx, row, Allocate, undo(PaymentReserved, "%v", err))
	}
	return next, err
}

// advance writes a decision: the new state, what it does to the ledger, the step for
// people and the events, all or nothing.
func (s *Service) advance(ctx context.Context, row Saga, action Action, d Decision) (Saga, error) {
	from := Status(row.Status)
	next := row
	next.Status, next.Backward, next.Asks, next.Attempts = string(d.To), d.Backward, 1, 0
	if next.Failure == "" || d.To == Completed {
		next.Failure = d.Reason
	}
	err := pgx.BeginFunc(ctx, s.cfg.Pool, func(tx pgx.Tx) error {
		db := tokensdb.New(tx)
		at, err := db.AdvanceSaga(ctx, tokensdb.AdvanceSagaParams{ID: row.ID, LeaseToken: row.LeaseToken, Status: next.Status,
			Backward: next.Backward,
			Failure:  next.Failure, PaymentID: next.PaymentID, Finished: d.To.Final(), Lease: interval(s.cfg.Timing.Lease)})
		if errors.Is(err, pgx.ErrNoRows) {
			return errLost
		}
		if err != nil {
			return fmt.Errorf("write step: %w", err)
		}
		next.UpdatedAt = at
		if err := s.book(ctx, tx, from, next); err != nil {
			return err
		}
		err = db.WriteSagaStep(ctx, tokensdb.WriteSagaStepParams{SagaID: row.ID, Status: next.Status, Action: string(action), Detail: d.Reason,
			Attempts: row.Attempts + 1})
		if err != nil {
			return fmt.Errorf("write step: %w", err)
		}
		if err := publish(ctx, tx, next, eventsOf(from, d.To)); err != nil {
			return err
		}
		s.cfg.Boundary(string(action) + " uncommitted")
		return nil
	})
	if err != nil {
		return row, err
	}
	s.cfg.Boundary(string(action) + " committed")
	if d.To.Final() {
		next.NextAt, next.LeaseToken = nil, nil
		s.finished(ctx, next)
	}
	return next, nil
}

// book moves the tokens that a step moves.
func (s *Service) book(ctx context.Context, tx pgx.Tx, from Status, next Saga) error {
	switch to := Status(next.Status); {
	case from == PaymentReserved && to == TokensAllocated:
		return s.credit(ctx, tx, next)
	case from == TokensAllocated && to == Failed:
		if err := ledger.Reverse(ctx, tx, next.ID.String(), next.Failure); err != nil {
			return fmt.Errorf("take tokens back: %w", err)
		}
	}
	return nil
}

// credit puts the tokens into the pool and then holds the pool, which is locked by that,
// against the tier's cap: of two purchases at once that fit one by one, the second is refused here.
func (s *Service) credit(ctx context.Context, tx pgx.Tx, row Saga) error {
	c := ledger.Purchase{UserID: row.UserID, Provider: row.Provider, Tokens: row.Tokens, Reference: row.ID.String(), Reason: "purchase",
		Policy: s.cfg.Policy(), Refill: row.Refill}
	if row.OrgID != nil {
		c.OrgID = *row.OrgID
	}
	err := ledger.Credit(ctx, tx, c)
	if errors.Is(err, ledger.ErrOverflow) || errors.Is(err, ledger.ErrRefill) {
		return fmt.Errorf("%w: %w", errRefused, err)
	}
	if err != nil {
		return fmt.Errorf("credit tokens: %w", err)
	}
	if row.QuotaMax <= 0 {
		return nil
	}
	holds, err := holdings(ctx, tokensdb.New(tx), row)
	if err == nil && holds > row.QuotaMax {
		err = fmt.Errorf("%w: the pool would hold %d tokens, and the tier may hold %d", errRefused, holds, row.QuotaMax)
	}
	return err
}

func account(row Saga) string {
	if row.OrgID != nil {
		return ledger.Account(row.UserID, *row.OrgID)
	}
	return ledger.Account(row.UserID, uuid.Nil)
}

func (s *Service) finished(ctx context.Context, row Saga) {
	count, level := s.metrics.completed, slog.LevelInfo
	if Status(row.Status) == Failed {
		count = s.metrics.failed
	}
	count.WithLabelValues(row.Provider).Inc()
	s.metrics.seconds.Observe(row.UpdatedAt.Sub(row.CreatedAt).Seconds())
	s.cfg.Log.LogAttrs(ctx, level, "purchase finished", slog.String("saga", row.ID.String()), slog.String("status", row.Status),
		slog.String("reason", row.Failure))
}

// park leaves a purchase where it is until a person says how to go on.
func (s *Service) park(ctx context.Context, row Saga, action Action, reason string) (Saga, error) {
	err := pgx.BeginFunc(ctx, s.cfg.Pool, func(tx pgx.Tx) error {
		db := tokensdb.New(tx)
		written, err := db.ParkSaga(ctx, tokensdb.ParkSagaParams{ID: row.ID, LeaseToken: row.LeaseToken, Reason: reason,
			PaymentID: row.PaymentID, Status: row.Status, Backward: row.Backward})
		if err := fenced(written, err); err != nil {
			return err
		}
		return db.WriteSagaStep(ctx, tokensdb.WriteSagaStepParams{SagaID: row.ID, Status: row.Status, Action: "park", Detail: string(action) +
			": " + reason, Attempts: row.Attempts + 1})
	})
	if err != nil {
		return row, fmt.Errorf("park purchase: %w", err)
	}
	s.cfg.Log.LogAttrs(ctx, slog.LevelError, "purchase is parked and waits for a person", slog.String("saga", row.ID.String()),
		slog.String("status", row.Status),
		slog.String("action", string(action)), slog.String("reason", reason))
	row.NextAt, row.LeaseToken = nil, nil
	return row, nil
}

// later tries again after a while, each time longer, and parks after the last try. When the database
// is away, too, the lease runs out and another worker finds the purchase as it was.
//
// The cause may be an answer to COMMIT that was lost. Then the step is written and this row is an old
// one: nothing of it is put over the new one, which is given back to be claimed as it is.
func (s *Service) later(ctx context.Context, row Saga, action Action, cause error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timing.Step)
	defer cancel()
	reason := shorten(cause.Error())
	if int(row.Attempts)+1 >= s.cfg.Attempts {
		switch _, err := s.park(ctx, row, action, reason); {
		case errors.Is(err, errLost):
			s.release(ctx, row)
		case err != nil:
			s.said.Warn(ctx, "purchase could not be parked; its lease will run out", err, slog.String("saga", row.ID.String()))
		}
		return
	}
	wait := s.wait(int(row.Attempts))
	err := fenced(tokensdb.New(s.cfg.Pool).RetrySagaLater(ctx, tokensdb.RetrySagaLaterParams{ID: row.ID, LeaseToken: row.LeaseToken,
		LastError: reason, PaymentID: row.PaymentID, Wait: interval(wait), Status: row.Status, Backward: row.Backward}))
	if errors.Is(err, errLost) {
		s.release(ctx, row)
		return
	}
	time.AfterFunc(wait, s.awake) // not to wait for the poll; when it fires after the end, nobody looks
	s.said.Warn(ctx, "purchase is tried again", errors.Join(cause, err), slog.String("saga", row.ID.String()),
		slog.String("action", string(action)), slog.Int("attempt", int(row.Attempts)+1))
}

// wait is the pause after the given number of failed tries, between half and the whole of
// it at random so that replicas do not come back in step.
func (s *Service) wait(attempts int) time.Duration {
	return retry.Policy{First: s.cfg.Timing.Backoff, Most: s.cfg.Timing.BackoffMax, Spread: true}.After(attempts)
}

// release gives a claim back, which does nothing to one that is somebody else's by now.
func (s *Service) release(ctx context.Context, row Saga) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timing.Step)
	defer cancel()
	if err := tokensdb.New(s.cfg.Pool).ReleaseSaga(ctx, tokensdb.ReleaseSagaParams{ID: row.ID, LeaseToken: row.LeaseToken}); err != nil {
		s.said.Warn(ctx, "purchase was not released; its lease will run out", err, slog.String("saga", row.ID.String()))
	}
}

// fenced turns a write that met no row into errLost.
func fenced(written int64, err error) error {
	if err == nil && written == 0 {
		return errLost
	}
	return err
}

func interval(d time.Duration) pgtype.Interval {
	return pgtype.Interval{Microseconds: d.Microseconds(), Valid: true}
}

// shorten keeps an error readable in a table.
func shorten(text string) string {
	const most = 500
	if len(text) > most {
		return text[:most]
	}
	return text
}
