package saga

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"go.opentelemetry.io/otel/trace"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
	"github.com/leaky-tokens/leaky-tokens/internal/tracing"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/ledger"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/tokensdb"
)

// uniqueViolation is Postgres's code of it (its manual, appendix A).
const uniqueViolation = "23505"

// accepted is the answer to an order.
type accepted struct {
	SagaID    uuid.UUID `json:"sagaId"`
	Status    Status    `json:"status"`
	CreatedAt time.Time `json:"createdAt"`
}

// Purchase takes an order: it is written down with its event and its idempotency key in
// one transaction, and answered 202. Nothing waits for the payment.
func (s *Service) Purchase(w http.ResponseWriter, r *http.Request) error {
	if !s.cfg.Enabled() {
		return httpapi.Unavailable("purchases disabled")
	}
	who, _ := principal.From(r.Context())
	var b body
	if err := httpapi.ReadJSON(w, r, &b); err != nil {
		return err
	}
	o, err := b.read(who, r.Header.Values(headerKey), s.cfg.Providers())
	if err != nil {
		return err
	}
	if err := s.may(r.Context(), who, o); err != nil {
		return err
	}
	status, answer, err := s.take(r.Context(), who, o, r.Header.Get(httpapi.HeaderCorrelation))
	if err != nil {
		return s.storeError(r, err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(answer)
	return nil
}

// may checks for whom is bought: the caller, or anybody for an administrator; an
// organisation by its members. A credential bound to an organisation buys for no other.
func (s *Service) may(ctx context.Context, who principal.Principal, o order) error {
	admin := who.Is(principal.RoleAdmin)
	if o.user.String() != who.UserID && !admin {
		return httpapi.Fail(http.StatusForbidden, "userId is not the caller's")
	}
	if o.org == nil || admin || o.org.String() == who.OrgID {
		return nil
	}
	if who.OrgID != "" {
		return httpapi.Fail(http.StatusForbidden, "the credential acts for another organisation")
	}
	member, err := s.member(ctx, o.org.String(), who.UserID)
	if err == nil && !member {
		err = httpapi.Fail(http.StatusForbidden, "the caller is no member of this organisation")
	}
	return err
}

func (s *Service) member(ctx context.Context, org, user string) (bool, error) {
	answer, err := s.cfg.Members.Ask(ctx, org, user)
	if err != nil {
		s.said.Warn(ctx, "membership is not known", err)
		return false, httpapi.Unavailable("the membership cannot be checked now")
	}
	return answer.Member, nil
}

// take writes an order down and gives the answer, which is an earlier one's when its key
// was used before. Of two at once the loser waits for the winner and reads its answer.
func (s *Service) take(ctx context.Context, who principal.Principal, o order, correlation string) (status int, answer []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timing.Step)
	defer cancel()
	caller, err := uuid.Parse(who.UserID)
	if err != nil {
		return 0, nil, fmt.Errorf("read caller's id: %w", err)
	}
	row, err := s.draft(ctx, who, o)
	if err != nil {
		return 0, nil, err
	}
	row.CorrelationID, row.Traceparent = correlation, tracing.Text(trace.SpanContextFromContext(ctx))
	answer, err = json.Marshal(accepted{SagaID: row.ID, Status: Started, CreatedAt: row.CreatedAt})
	if err != nil {
		return 0, nil, fmt.Errorf("write answer: %w", err)
	}
	answer = append(answer, '\n')
	err = s.fits(ctx, row)
	if err == nil {
		s.cfg.Boundary("purchase before")
		err = s.write(ctx, caller, row, o, answer)
	}
	if _, refused := errors.AsType[*httpapi.Error](err); o.key != "" && (refused || keyTaken(err)) {
		// A repeated order is answered as before, also when the tier's cap is reached meanwhile.
		status, earlierAnswer, found := s.earlier(ctx, caller, o)
		if !refused || !errors.Is(found, pgx.ErrNoRows) {
			return status, earlierAnswer, found
		}
	}
	if err != nil {
		return 0, nil, err
	}
	s.cfg.Boundary("purchase committed")
	s.metrics.started.WithLabelValues(o.provider).Inc()
	s.awake()
	return http.StatusAccepted, answer, nil
}

// keyTaken reports whether somebody has the idempotency key.
func keyTaken(err error) bool {
	answer, ok := errors.AsType[*pgconn.PgError](err)
	return ok && answer.Code == uniqueViolation && answer.ConstraintName == "token_purchase_key_pkey"
}

// draft is the row of a new purchase, its price fixed. Its time is Postgres', as that of its steps
// is: whatever a replica takes for the time, no purchase ends before it begins.
func (s *Service) draft(ctx context.Context, who principal.Principal, o order) (Saga, error) {
	now, err := tokensdb.New(s.cfg.Pool).Clock(ctx)
	if err != nil {
		return Saga{}, fmt.Errorf("ask for the time: %w", err)
	}
	price := s.cfg.Price(o.provider)
	row := Saga{ID: s.cfg.NewID(), UserID: o.user, OrgID: o.org, Provider: o.provider, Tokens: o.tokens, Status: string(Started),
		CreatedAt: now.UTC(), UpdatedAt: now.UTC(),
		Amount: amount(o.tokens, price), Currency: s.cfg.Currency, Price: price, QuotaMax: s.cfg.QuotaMax(who.Tier), Refill: o.refill}
	if o.key != "" {
		row.IdempotencyKey = &o.key
	}
	return row, nil
}

// write puts down key, purchase and event in one transaction and one round trip.
func (s *Service) write(ctx context.Context, caller uuid.UUID, row Saga, o order, answer []byte) error {
	together := &queue{}
	db := tokensdb.New(together)
	if o.key != "" {
		err := db.TakePurchaseKey(ctx, tokensdb.TakePurchaseKeyParams{Owner: caller, Key: o.key, PayloadHash: o.hash(),
			Status: http.StatusAccepted, Answer: answer})
		if err != nil {
			return fmt.Errorf("take idempotency key: %w", err)
		}
	}
	err := db.InsertSaga(ctx, tokensdb.InsertSagaParams{ID: row.ID, UserID: row.UserID, OrgID: row.OrgID, Provider: row.Provider,
		Tokens:         row.Tokens,
		IdempotencyKey: row.IdempotencyKey, CreatedAt: row.CreatedAt, Amount: row.Amount, Currency: row.Currency, Price: row.Price,
		QuotaMax: row.QuotaMax, CorrelationID: row.CorrelationID, Traceparent: row.Traceparent, Refill: row.Refill})
	if err != nil {
		return fmt.Errorf("write purchase: %w", err)
	}
	if err := publish(ctx, together, row, []string{eventStarted}); err != nil {
		return err
	}
	if err := s.cfg.Pool.SendBatch(ctx, &together.batch).Close(); err != nil {
		return fmt.Errorf("write purchase: %w", err)
	}
	return nil
}

// queue is a transaction whose statements are sent together at the end: Postgres takes a batch
// for one transaction, so all of them happen or none. It can only execute, not ask.
type queue struct {
	pgx.Tx // nil: what is not below cannot be done in a batch
	batch  pgx.Batch
}

// Exec queues a statement; what it did is known when the batch was sent.
func (q *queue) Exec(_ context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	q.batch.Queue(sql, args...)
	return pgconn.CommandTag{}, nil
}

// earlier is the answer that was given under the key.
func (s *Service) earlier(ctx context.Context, caller uuid.UUID, o order) (int, []byte, error) {
	found, err := tokensdb.New(s.cfg.Pool).FindPurchaseKey(ctx, tokensdb.FindPurchaseKeyParams{Owner: caller, Key: o.key})
	if err != nil { // also: purged since a moment ago, then the client's next try is a new purchase
		return 0, nil, fmt.Errorf("read idempotency key: %w", err)
	}
	if !bytes.Equal(found.PayloadHash, o.hash()) {
		return 0, nil, httpapi.Fail(http.StatusConflict, "Idempotency key reuse with different payload")
	}
	return int(found.Status), found.Answer, nil
}

// fits holds a purchase against the pool that is there and the cap of the buyer's tier. The
// credit checks again.
func (s *Service) fits(ctx context.Context, row Saga) error {
	if row.Refill != "" {
		pool, err := ledger.Find(ctx, s.cfg.Pool, ledger.Key{Account: account(row), Provider: row.Provider})
		switch {
		case errors.Is(err, ledger.ErrNoPool): // it is made as stated
		case err != nil:
			return fmt.Errorf("read pool: %w", err)
		case pool.Refill() != row.Refill:
			return httpapi.Fail(http.StatusConflict, "the account has a pool that refills otherwise")
		}
	}
	if row.QuotaMax <= 0 {
		return nil
	}
	holds, err := holdings(ctx, tokensdb.New(s.cfg.Pool), row)
	if err != nil {
		return err
	}
	if row.Tokens > row.QuotaMax-holds {
		return bad("tokens exceed what the tier may hold: at most %d, and %d are there", row.QuotaMax, holds)
	}
	return nil
}

// holdings are the tokens of the pool a purchase goes to, as a cap counts them.
func holdings(ctx context.Context, db *tokensdb.Queries, row Saga) (holds int64, err error) {
	if row.OrgID != nil {
		holds, err = db.OrgHoldings(ctx, tokensdb.OrgHoldingsParams{Owner: *row.OrgID, Provider: row.Provider})
	} else {
		holds, err = db.UserHoldings(ctx, tokensdb.UserHoldingsParams{Owner: row.UserID, Provider: row.Provider})
	}
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read pool: %w", err)
	}
	return holds, nil
}
