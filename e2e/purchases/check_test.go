package purchases

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	stub "github.com/leaky-tokens/leaky-tokens/stubs/payment"
)

func sagaID(answer string) string {
	var body struct{ SagaID string }
	_ = json.Unmarshal([]byte(answer), &body) // an empty id is found out
	return body.SagaID
}

// settled waits until every purchase is finished.
func (w *world) settled(ctx context.Context, t *testing.T, ids []string) bool {
	t.Helper()
	for {
		var open int
		err := w.pool.QueryRow(ctx, `SELECT count(*) FROM token_purchase_saga WHERE id = ANY($1::uuid[]) AND status IN ('COMPLETED', 'FAILED')`,
			ids).Scan(&open)
		if err == nil && open == len(ids) {
			return true
		}
		if ctx.Err() != nil {
			t.Errorf("%d of %d purchases finished: %v\n%s", open, len(ids), errors.Join(err, ctx.Err()), w.dump(ids))
			return false
		}
		pause(ctx, 20*time.Millisecond)
	}
}

// dump is what is known of purchases, for a failure's report.
func (w *world) dump(ids []string) string {
	rows, err := w.pool.Query(context.Background(), `SELECT to_jsonb(s)::text FROM token_purchase_saga s WHERE id = ANY($1::uuid[])`, ids)
	if err != nil {
		return err.Error()
	}
	all, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return strings.Join(all, "\n") + fmt.Sprint(err)
}

// check holds one purchase against ledger, payment and events: completed with one credit and
// one capture, or failed with none and one void (or nothing reserved).
func (w *world) check(t *testing.T, id string, o order) (completed, ok bool) {
	t.Helper()
	ctx := context.Background()
	var status string
	var amount int64
	if err := w.pool.QueryRow(ctx, `SELECT status, amount FROM token_purchase_saga WHERE id = $1 AND tokens = $2 AND user_id = $3`, id,
		o.tokens, o.user).Scan(&status, &amount); err != nil {
		t.Errorf("%s: %v", id, err)
		return false, false
	}
	completed, ok = status == "COMPLETED", true
	var credits int
	var tokens int64
	if err := w.pool.QueryRow(ctx, `SELECT count(*) FILTER (WHERE amount > 0), COALESCE(sum(amount), 0)::bigint FROM token_ledger WHERE reference IN ($1::text, 'reverse:' || $1::text)`, id).Scan(&credits, &tokens); err != nil {
		t.Error(err)
		return completed, false
	}
	var paid stub.Payment
	for _, p := range w.payment.Payments() {
		if p.Reference == id {
			paid = p
		}
	}
	switch {
	case completed && (credits != 1 || tokens != o.tokens || paid.Status != stub.Captured || paid.Captures != 1 || paid.Voids != 0 ||
		paid.Captured != amount):
		t.Errorf("%s is completed with %d credits, %d tokens of %d, payment %+v", id, credits, tokens, o.tokens, paid)
		ok = false
	case !completed && (status != "FAILED" || credits > 1 || tokens != 0 || paid.Captures != 0 || paid.Captured != 0 || paid.Voids > 1 ||
		paid.Status == stub.Authorized):
		t.Errorf("%s is %s with %d credits, %d tokens, payment %+v", id, status, credits, tokens, paid)
		ok = false
	case amount != o.tokens*pricePerMillion/1_000_000:
		t.Errorf("%s costs %d for %d tokens", id, amount, o.tokens)
		ok = false
	}
	return completed, w.checkOutbox(t, id, completed, paid) && ok
}

// checkOutbox wants each event of the purchase's way once.
func (w *world) checkOutbox(t *testing.T, id string, completed bool, paid stub.Payment) bool {
	t.Helper()
	rows, err := w.pool.Query(context.Background(), `SELECT event_type FROM token_outbox WHERE aggregate_id = $1 AND subject LIKE 'leaky.saga.v1.%'`, id)
	if err != nil {
		t.Error(err)
		return false
	}
	events, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Error(err)
		return false
	}
	slices.Sort(events)
	got := strings.Join(events, " ")
	var want []string
	switch {
	case completed:
		want = []string{"TOKEN_ALLOCATED TOKEN_PAYMENT_RESERVED TOKEN_PURCHASE_COMPLETED TOKEN_PURCHASE_STARTED"}
	default: // nothing reserved; reserved; reserved and allocated
		want = []string{"TOKEN_PURCHASE_FAILED TOKEN_PURCHASE_STARTED",
			"PAYMENT_RELEASE_REQUESTED TOKEN_PAYMENT_RESERVED TOKEN_PURCHASE_FAILED TOKEN_PURCHASE_STARTED",
			"PAYMENT_RELEASE_REQUESTED TOKEN_ALLOCATED TOKEN_PAYMENT_RESERVED TOKEN_PURCHASE_FAILED TOKEN_PURCHASE_STARTED"}
		if paid.Voids == 1 {
			want = want[1:]
		}
	}
	if !slices.Contains(want, got) {
		t.Errorf("%s: want events %q, got %q", id, want, got)
		return false
	}
	return true
}

// checkAccounts: what was captured of an account is what its tokens cost, and its pools
// hold what was credited.
func (w *world) checkAccounts(t *testing.T, s schedule) bool {
	t.Helper()
	good := true
	users := map[string]bool{}
	for _, o := range s.orders {
		users[o.user] = true
	}
	for user := range users {
		var captured, tokens, pools int64
		for _, p := range w.payment.Payments() {
			if p.Account == "user:"+user {
				captured += p.Captured
			}
		}
		err := w.pool.QueryRow(context.Background(), `SELECT (SELECT COALESCE(sum(amount), 0) FROM token_ledger WHERE account = 'user:' || $1::text)::bigint,
			(SELECT COALESCE(sum(remaining_tokens), 0) FROM token_pools WHERE user_id = $1::uuid)::bigint`, user).Scan(&tokens, &pools)
		if err != nil || captured*1_000_000 != tokens*pricePerMillion || pools != tokens {
			t.Errorf("%s paid %d for %d tokens, and has %d: %v", user, captured, tokens, pools, err)
			good = false
		}
	}
	return good
}

// checkEvents wants every event of the outbox in JetStream, once, and those of one purchase in
// order.
func (w *world) checkEvents(t *testing.T) {
	t.Helper()
	if t.Failed() {
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	last := &slot{w: w, socket: w.socket(0)}
	running, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() { defer close(done); last.keep(running, t) }() // relays what the killed ones left
	for open := -1; open != 0 && ctx.Err() == nil; pause(ctx, 20*time.Millisecond) {
		if err := w.pool.QueryRow(ctx, `SELECT count(*) FROM token_outbox WHERE published_at IS NULL`).Scan(&open); err != nil {
			open = -1
		}
	}
	stop()
	<-done
	rows, err := w.pool.Query(ctx, `SELECT id FROM token_outbox WHERE subject LIKE 'leaky.saga.v1.%'`)
	if err != nil {
		t.Fatal(err)
	}
	written, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		t.Fatal(err)
	}
	seen, orders := w.stream(ctx, t)
	for _, id := range written {
		if !seen[id.String()] {
			t.Errorf("event %s was never published", id)
		}
	}
	if len(seen) != len(written) {
		t.Errorf("want %d events in the stream, got %d", len(written), len(seen))
	}
	checkOrder(t, orders)
}

// stream reads all purchase events: their ids, and the types of each purchase in order.
func (w *world) stream(ctx context.Context, t *testing.T) (map[string]bool, map[string][]string) {
	t.Helper()
	nc, err := nats.Connect(w.nats.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	consumer, err := js.OrderedConsumer(ctx, usage.Stream, jetstream.OrderedConsumerConfig{FilterSubjects: []string{usage.SubjectsSaga}})
	if err != nil {
		t.Fatal(err)
	}
	info, err := consumer.Info(ctx)
	if err != nil {
		t.Fatal(err)
	}
	seen, orders := map[string]bool{}, map[string][]string{}
	for range info.NumPending {
		m, err := consumer.Next(jetstream.FetchMaxWait(patience))
		if err != nil {
			t.Fatal(err)
		}
		id := m.Headers().Get(nats.MsgIdHdr)
		if seen[id] {
			t.Errorf("event %s is in the stream twice", id)
			continue
		}
		seen[id] = true
		var envelope struct {
			Type string
			Data struct{ ID string }
		}
		if err := json.Unmarshal(m.Data(), &envelope); err != nil || envelope.Data.ID == "" {
			t.Errorf("event %s: %v in %s", id, err, m.Data())
		}
		orders[envelope.Data.ID] = append(orders[envelope.Data.ID], strings.TrimPrefix(m.Subject(), "leaky.saga.v1."))
	}
	return seen, orders
}
