package analytics

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
	"github.com/leaky-tokens/leaky-tokens/internal/tracing"
)

// Purchase is what is known of a purchase of tokens. Amounts are minor units of the currency.
type Purchase struct {
	SagaID    string    `json:"sagaId"`
	UserID    string    `json:"userId"`
	OrgID     string    `json:"orgId,omitzero"`
	Provider  string    `json:"provider"`
	Status    string    `json:"status"`
	Tokens    int64     `json:"tokens"`
	Amount    int64     `json:"amount"`
	Currency  string    `json:"currency"`
	Reason    string    `json:"reason,omitzero"` // why it failed
	CreatedAt time.Time `json:"createdAt"`
	UpdatedAt time.Time `json:"updatedAt"`
}

// purchaseEvent is one event of a purchase.
type purchaseEvent struct {
	Purchase
	id, kind string
}

// Bounds of what an event of a purchase may say.
const (
	longestPurchase     = 64 << 10 // bytes of a message
	longestPurchaseText = 2000     // bytes of a text in it
)

// decodePurchase unwraps an event of a purchase; what it refuses is poison.
func decodePurchase(message []byte) (e purchaseEvent, err error) {
	if len(message) > longestPurchase {
		return e, fmt.Errorf("%w: %d bytes, at most %d", usage.ErrMalformed, len(message), longestPurchase)
	}
	var env struct {
		SpecVersion string `json:"specversion"`
		ID          string `json:"id"`
		Type        string `json:"type"`
		Data        *struct {
			Purchase
			ID    string  `json:"id"`
			OrgID *string `json:"orgId"`
		} `json:"data"`
	}
	if err := json.Unmarshal(message, &env); err != nil {
		return e, fmt.Errorf("%w: %w", usage.ErrMalformed, err)
	}
	if env.SpecVersion != "1.0" || env.ID == "" || env.Type == "" || env.Data == nil {
		return e, fmt.Errorf("%w: specversion %q, id %q, type %q, or no data", usage.ErrMalformed, env.SpecVersion, env.ID, env.Type)
	}
	e = purchaseEvent{env.Data.Purchase, env.ID, env.Type}
	e.SagaID, e.Currency = env.Data.ID, strings.ToUpper(e.Currency)
	if env.Data.OrgID != nil {
		e.OrgID = *env.Data.OrgID
	}
	for _, id := range []string{e.SagaID, e.UserID} {
		if _, err := uuid.Parse(id); err != nil {
			return e, fmt.Errorf("%w: %.40q is no id", usage.ErrMalformed, id)
		}
	}
	for _, text := range []string{e.id, e.kind, e.OrgID, e.Provider, e.Status, e.Currency, e.Reason} {
		if len(text) > longestPurchaseText {
			return e, fmt.Errorf("%w: a text of %d bytes", usage.ErrMalformed, len(text))
		}
	}
	switch {
	case e.Provider == "" || e.Status == "" || e.Tokens < 0 || e.Amount < 0:
		return e, fmt.Errorf("%w: provider %.40q, status %.40q, %d tokens, amount %d", usage.ErrMalformed, e.Provider, e.Status,
			e.Tokens, e.Amount)
	}
	// Which of the two is later says nothing: they may be by the clocks of two replicas.
	for _, at := range []time.Time{e.CreatedAt, e.UpdatedAt} {
		if at.Year() < earliestYear || at.After(time.Now().Add(latestAhead)) {
			return e, fmt.Errorf("%w: times %s and %s", usage.ErrMalformed, e.CreatedAt, e.UpdatedAt)
		}
	}
	return e, nil
}

// purchaseBook is the handler that stores events of purchases.
type purchaseBook struct{ store *Store }

// Store implements usage.Handler.
func (b purchaseBook) Store(ctx context.Context, deliveries []usage.Delivery) (map[int]error, error) {
	refused := map[int]error{}
	var events []purchaseEvent
	for i, d := range deliveries {
		e, err := decodePurchase(d.Data)
		if err != nil {
			refused[i] = err
			continue
		}
		events = append(events, e)
	}
	if len(events) == 0 {
		return refused, nil
	}
	return refused, b.store.insertPurchases(ctx, events)
}

// insertPurchases writes events; one that is there already is the same row.
func (s *Store) insertPurchases(ctx context.Context, events []purchaseEvent) error {
	if !s.ready.Load() {
		return errNotReady
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	batch, err := s.conn.PrepareBatch(ctx, `INSERT INTO purchase_events (event_id, type, saga_id, user_id, org_id, provider, status, tokens, amount,
		currency, reason, created_at, updated_at)`)
	if err != nil {
		return fmt.Errorf("prepare purchases: %w", err)
	}
	defer batch.Close()
	for _, e := range events {
		if err := batch.Append(e.id, e.kind, e.SagaID, e.UserID, e.OrgID, e.Provider, e.Status, e.Tokens, e.Amount, e.Currency, e.Reason,
			e.CreatedAt.UTC(), e.UpdatedAt.UTC()); err != nil {
			return fmt.Errorf("append purchase: %w", err)
		}
	}
	if err := batch.Send(); err != nil {
		return fmt.Errorf("insert purchases: %w", err)
	}
	return nil
}

// DurablePurchases is the consumer of events of purchases, which all replicas share.
const DurablePurchases = "analytics-purchases"

// NewPurchaseConsumer makes the consumer that moves events of purchases from the stream to the store.
func NewPurchaseConsumer(js jetstream.JetStream, store *Store, metrics *Metrics, cfg ConsumerConfig) (*usage.Consumer, error) {
	if store == nil || metrics == nil {
		return nil, errors.New("make purchase consumer: Store and Metrics are needed")
	}
	return usage.NewConsumer(usage.ConsumerConfig{JetStream: js, Subjects: usage.SubjectsSaga, Durable: DurablePurchases,
		Positions:   store.Positions(DurablePurchases),
		Description: "insert events of purchases", Linger: linger, Outstanding: 1, Handler: purchaseBook{store}, DeadLettered: metrics.dead.Inc,
		Log: cfg.Log, Tracer: tracing.Tracer(cfg.Traces)})
}

// Purchases is the answer about purchases. Sums are of those that are completed, of the whole time.
type Purchases struct {
	WindowStart time.Time        `json:"windowStart"`
	WindowEnd   time.Time        `json:"windowEnd"`
	Count       int64            `json:"count"`     // of all
	Completed   int64            `json:"completed"` // of those
	Tokens      int64            `json:"completedTokens"`
	Amounts     map[string]int64 `json:"completedAmounts"` // by currency, minor units
	Items       []Purchase       `json:"items"`            // newest first
}

// step is the SQL by which events of one purchase are ordered. Its states are gone through in one
// direction alone, and several replicas make the steps, each by its own clock: so the state goes before
// the time. A state that is unknown here, of a later version, goes before none but its like.
const step = `(if(status IN ('COMPLETED', 'FAILED'), 4, indexOf(['STARTED', 'PAYMENT_RESERVED', 'TOKENS_ALLOCATED'], toString(status))), updated_at)`

// Purchases tells of purchases that were made in the time of a filter, at most so many by themselves.
func (s *Store) Purchases(ctx context.Context, f Filter, limit int) (Purchases, error) {
	answer := Purchases{WindowStart: f.From, WindowEnd: f.To, Amounts: map[string]int64{}, Items: []Purchase{}}
	if !s.ready.Load() {
		return answer, errNotReady
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	terms := []string{"created_at >= fromUnixTimestamp64Milli(?, 'UTC')", "created_at < fromUnixTimestamp64Milli(?, 'UTC')"}
	args := []any{f.From.UnixMilli(), f.To.UnixMilli()}
	for _, term := range []struct{ column, value string }{{"user_id", f.UserID}, {"org_id", f.OrgID}, {"provider", f.Provider}} {
		if term.value != "" {
			terms, args = append(terms, term.column+" = ?"), append(args, term.value)
		}
	}
	newest := strings.ReplaceAll(`SELECT saga_id, any(user_id) AS of_user, any(org_id) AS of_org, any(provider) AS of_provider,
		argMax(status, STEP) AS now, any(tokens) AS bought, any(amount) AS price, any(currency) AS money, argMax(reason, STEP) AS why,
		any(created_at) AS began, argMax(updated_at, STEP) AS changed FROM purchase_events FINAL WHERE `+strings.Join(terms, " AND ")+
		" GROUP BY saga_id", "STEP", step)
	if err := s.conn.QueryRow(ctx, `SELECT toInt64(count()), toInt64(countIf(now = 'COMPLETED')), sumIf(bought, now = 'COMPLETED'),
		sumMapIf(map(toString(money), price), now = 'COMPLETED') FROM (`+newest+")", args...).
		Scan(&answer.Count, &answer.Completed, &answer.Tokens, &answer.Amounts); err != nil {
		return answer, fmt.Errorf("sum up purchases: %w", err)
	}
	found, err := s.conn.Query(ctx, "SELECT saga_id, of_user, of_org, toString(of_provider), toString(now), bought, price, toString(money), why, began, changed FROM ("+
		newest+fmt.Sprintf(") ORDER BY began DESC, saga_id LIMIT %d", limit), args...)
	if err != nil {
		return answer, fmt.Errorf("query purchases: %w", err)
	}
	defer found.Close()
	for found.Next() {
		var p Purchase
		if err := found.Scan(&p.SagaID, &p.UserID, &p.OrgID, &p.Provider, &p.Status, &p.Tokens, &p.Amount, &p.Currency, &p.Reason, &p.CreatedAt,
			&p.UpdatedAt); err != nil {
			return answer, fmt.Errorf("scan purchase: %w", err)
		}
		answer.Items = append(answer.Items, p)
	}
	return answer, found.Err()
}

// purchases answers who bought what: the caller's own, an organisation's for its OWNER, all for ADMIN.
func (a *API) purchases(w http.ResponseWriter, r *http.Request, caller reader) error {
	p, err := parseParams(r.URL.RawQuery, "provider", "userId", "orgId", "from", "to", "limit")
	if err != nil {
		return err
	}
	f, err := caller.filter(r.Context(), p, false)
	if err != nil {
		return err
	}
	if err := p.span(&f, 30*day, time.Now()); err != nil {
		return err
	}
	limit, err := p.positive("limit", groupLimit, groupsAtMost)
	if err != nil {
		return err
	}
	answer, err := a.cfg.Store.Purchases(r.Context(), f, limit)
	if err != nil {
		return err
	}
	httpapi.WriteJSON(w, http.StatusOK, answer)
	return nil
}
