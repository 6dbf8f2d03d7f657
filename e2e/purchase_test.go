package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/balance"
	events "github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// TestPurchaseIsAcceptedAndCompletes: contract 4.8, 202, and 4.9, 200, with both credentials.
func TestPurchaseIsAcceptedAndCompletes(t *testing.T) {
	t.Parallel()
	who, admin := newAccount(t), newAccount(t, "ADMIN")
	for i, header := range [][]string{byKey(who), byToken(who)} {
		r := request(t, "POST", pathPurchase, "", map[string]any{"userId": strings.ToUpper(who.ID), "provider": " OpenAI", "tokens": 700},
			append(header, "Idempotency-Key", fmt.Sprintf(" k%d ", i))...)
		var answer struct {
			SagaID, Status string
			CreatedAt      time.Time
		}
		if r.status != 202 {
			t.Fatalf("want 202, got %d %s", r.status, r.text)
		}
		if r.into(t, &answer); answer.Status != "STARTED" || answer.CreatedAt.IsZero() {
			t.Errorf("got %s", r.text)
		}
		p := settledPurchase(t, answer.SagaID, header...)
		if p.ID != answer.SagaID || p.UserID != who.ID || p.OrgID != nil || p.Provider != "openai" || p.Tokens != 700 ||
			p.Status != "COMPLETED" ||
			p.IdempotencyKey == nil || *p.IdempotencyKey != fmt.Sprintf("k%d", i) || !p.CreatedAt.Equal(answer.CreatedAt) ||
			p.UpdatedAt.Before(p.CreatedAt) {
			t.Errorf("got %+v", p)
		}
		if got := quotaOf(t, who, "?provider=openai"); got.TotalTokens != int64(700*(i+1)) || got.RemainingTokens != got.TotalTokens {
			t.Errorf("want %d tokens, got %+v", 700*(i+1), got)
		}
		if got := settledPurchase(t, strings.ToUpper(answer.SagaID), byToken(admin)...); got.ID != p.ID {
			t.Errorf("an administrator reads %+v", got)
		}
		stranger := newAccount(t)
		wantProblem(t, request(t, "GET", pathPurchase+"/"+answer.SagaID, "", nil, byKey(stranger)...), 404, "purchase not found")
		wantProblem(t, request(t, "GET", pathPurchase+"/"+answer.SagaID, "", nil), 401, "")
	}
	wantProblem(t, request(t, "GET", pathPurchase+"/"+uuid.NewString(), "", nil, byKey(who)...), 404, "purchase not found")
	for _, id := range []string{"x", "123", "{" + uuid.NewString() + "}", strings.Repeat("a", 300)} {
		wantProblem(t, request(t, "GET", pathPurchase+"/"+id, "", nil, byKey(who)...), 400, "invalid sagaId")
	}
}

// TestPurchaseRefusesBadInput: contract 4.8, 400, 401, 403, 415. Nothing is written.
func TestPurchaseRefusesBadInput(t *testing.T) {
	t.Parallel()
	who, other := newAccount(t), newAccount(t)
	org := newOrg(t, other)
	for _, tc := range []struct {
		body, message string
		status        int
		header        []string
	}{
		{body: ``, status: 400, message: "malformed JSON"},
		{body: `{"userId":"","provider":"openai","tokens":1}`, status: 400, message: "userId is required"},
		{body: `{"tokens":1}`, status: 400, message: "provider is required"},
		{body: `{"provider":"openai"}`, status: 400, message: "tokens must be positive"},
		{body: `{"provider":"openai","tokens":0}`, status: 400, message: "tokens must be positive"},
		{body: `{"provider":"openai","tokens":-7}`, status: 400, message: "tokens must be positive"},
		{body: `{"provider":"openai","tokens":1000001}`, status: 400, message: "at most 1000000"},
		{body: `{"provider":"openai","tokens":9223372036854775808}`, status: 400, message: "tokens"},
		{body: `{"provider":"openai","tokens":1e3}`, status: 400, message: "tokens"},
		{body: `{"provider":"nobody","tokens":1}`, status: 400, message: "unknown provider"},
		{body: `{"userId":"x","provider":"openai","tokens":1}`, status: 400, message: "invalid userId or orgId"},
		{body: `{"orgId":"x","provider":"openai","tokens":1}`, status: 400, message: "invalid userId or orgId"},
		{body: `{"provider":"openai","tokens":1}`, status: 400, message: "idempotency key too long", header: []string{"Idempotency-Key",
			strings.Repeat("k", 101)}},
		{body: `{"provider":"openai","tokens":1}`, status: 400, message: "invalid idempotency key", header: []string{"Idempotency-Key", "k\xff"}},
		{body: `tokens=1`, status: 415, header: []string{"Content-Type", "application/x-www-form-urlencoded"}},
		{body: `{"userId":"` + other.ID + `","provider":"openai","tokens":1}`, status: 403},
		{body: `{"orgId":"` + org + `","provider":"openai","tokens":1}`, status: 403},
	} {
		wantProblem(t, request(t, "POST", pathPurchase, "", tc.body, append(byKey(who), tc.header...)...), tc.status, tc.message)
	}
	wantProblem(t, request(t, "POST", pathPurchase, "", `{"provider":"openai","tokens":1}`), 401, "")
	wantProblem(t, request(t, "GET", pathQuota+"?provider=openai", "", nil, byKey(who)...), 404, "quota not found")
}

// TestPurchaseIsIdempotent: contract 4.8. A key is one caller's; the same order under it is
// answered with the same bytes, another one is refused, a blank key is none.
func TestPurchaseIsIdempotent(t *testing.T) {
	t.Parallel()
	who, other := newAccount(t), newAccount(t)
	key := []string{"Idempotency-Key", strings.Repeat("é", 50) + strings.Repeat("k", 50)}
	order := map[string]any{"provider": "openai", "tokens": 100}
	first := request(t, "POST", pathPurchase, "", order, append(byKey(who), key...)...)
	if first.status != 202 {
		t.Fatalf("want 202, got %d %s", first.status, first.text)
	}
	for name, body := range map[string]map[string]any{"the same": order, "their id stated": {"userId": strings.ToUpper(who.ID), "orgId": "",
		"provider": "OPENAI", "tokens": 100}} {
		if again := request(t, "POST", pathPurchase, "", body, append(byToken(who), key...)...); again.status != 202 || again.text != first.text {
			t.Errorf("%s: want the first answer, got %d %s", name, again.status, again.text)
		}
	}
	for _, body := range []map[string]any{{"provider": "openai", "tokens": 101}, {"provider": "gemini", "tokens": 100}} {
		wantProblem(t, request(t, "POST", pathPurchase, "", body, append(byKey(who), key...)...), 409,
			"Idempotency key reuse with different payload")
	}
	if theirs := request(t, "POST", pathPurchase, "", map[string]any{"provider": "openai", "tokens": 7},
		append(byKey(other), key...)...); theirs.status != 202 {
		t.Errorf("another caller's key is their own: want 202, got %d %s", theirs.status, theirs.text)
	}
	for range 2 {
		id := ordered(t, order, append(byKey(who), "Idempotency-Key", "   ")...)
		settledPurchase(t, id, byKey(who)...)
	}
	testenv.Eventually(t, "three purchases", func() bool { return quotaOf(t, who, "?provider=openai").TotalTokens == 300 })
}

// TestTwoHundredPostsWithOneKey give one saga, 200 equal answers and one credit, also as
// the account's very first.
func TestTwoHundredPostsWithOneKey(t *testing.T) {
	t.Parallel()
	who := newAccount(t)
	var mu sync.Mutex
	texts := map[string]int{}
	got := atOnce(t, 200, func(ctx context.Context, i int) (int, error) {
		header := byKey(who)
		if i%2 == 0 {
			header = byToken(who)
		}
		a, err := patientRequest(ctx, "POST", pathPurchase, "", map[string]any{"provider": "openai", "tokens": 40},
			append(header, "Idempotency-Key", "one")...)
		mu.Lock()
		defer mu.Unlock()
		texts[a.text]++
		return a.status, err
	})
	if got[202] != 200 || len(texts) != 1 {
		t.Fatalf("want 200 equal answers, got %v and %d texts", got, len(texts))
	}
	for text := range texts {
		var answer struct{ SagaID string }
		if err := json.Unmarshal([]byte(text), &answer); err != nil {
			t.Fatal(err)
		}
		if p := settledPurchase(t, answer.SagaID, byKey(who)...); p.Status != "COMPLETED" {
			t.Errorf("got %+v", p)
		}
	}
	if q := quotaOf(t, who, "?provider=openai"); q.TotalTokens != 40 {
		t.Errorf("want one credit, got %+v", q)
	}
}

// TestParallelFirstPurchases: contract 4.6. Purchases without a key that meet at an account
// without a pool all count, in one pool.
func TestParallelFirstPurchases(t *testing.T) {
	t.Parallel()
	who := newAccount(t)
	got := atOnce(t, 20, func(ctx context.Context, _ int) (int, error) {
		a, err := tryRequest(ctx, "POST", pathPurchase, "", map[string]any{"provider": "qwen", "tokens": 11}, byKey(who)...)
		return a.status, err
	})
	if got[202] != 20 {
		t.Fatalf("want 20 times 202, got %v", got)
	}
	testenv.Eventually(t, "all credits in one pool", func() bool {
		r := request(t, "GET", pathQuota+"?provider=qwen", "", nil, byKey(who)...)
		return r.status == 200 && strings.Contains(r.text, `"totalTokens":220,`)
	})
}

// TestPurchaseOfAClientWhoHangsUp: their order stands once, and their next try tells them so.
func TestPurchaseOfAClientWhoHangsUp(t *testing.T) {
	t.Parallel()
	who := newAccount(t)
	const body = `{"provider":"openai","tokens":60}`
	for range 5 {
		conn, err := net.Dial("tcp", strings.TrimPrefix(running.Gateway, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		_, err = fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: gateway\r\nX-Api-Key: %s\r\nIdempotency-Key: gone\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
			pathPurchase, who.Key, len(body), body)
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
	}
	id := ordered(t, map[string]any{"provider": "openai", "tokens": 60}, append(byKey(who), "Idempotency-Key", "gone")...)
	if p := settledPurchase(t, id, byKey(who)...); p.Status != "COMPLETED" {
		t.Errorf("got %+v", p)
	}
	if q := quotaOf(t, who, "?provider=openai"); q.TotalTokens != 60 {
		t.Errorf("want one credit, got %+v", q)
	}
}

// TestPurchaseForAnOrganisation: contract 4.3 and 4.9. A member buys for it, and members and
// administrators see the purchase, others do not.
func TestPurchaseForAnOrganisation(t *testing.T) {
	t.Parallel()
	owner, member, stranger := newAccount(t), newAccount(t), newAccount(t)
	org := newOrg(t, owner, member)
	id := ordered(t, map[string]any{"orgId": org, "provider": "openai", "tokens": 300}, byKey(member)...)
	if p := settledPurchase(t, id, byToken(owner)...); p.Status != "COMPLETED" || p.OrgID == nil || *p.OrgID != org || p.UserID != member.ID {
		t.Errorf("got %+v", p)
	}
	wantProblem(t, request(t, "GET", pathPurchase+"/"+id, "", nil, byKey(stranger)...), 404, "purchase not found")
	if q := quotaOf(t, owner, "/org?provider=openai&orgId="+strings.ToUpper(org)); q.OrgID != org || q.RemainingTokens != 300 {
		t.Errorf("got %+v", q)
	}
	wantProblem(t, request(t, "GET", pathQuota+"?provider=openai", "", nil, byKey(member)...), 404, "quota not found")
}

// TestDeclinedPurchaseFails: contract 4.10. The payment stub declines by the amount: no
// token is credited, the failure is replayed, and a reservation is released once.
func TestDeclinedPurchaseFails(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		tokens int // 10 of gemini's cost one unit
		types  []string
	}{
		{"declined", 4020, []string{"TOKEN_PURCHASE_STARTED", "TOKEN_PURCHASE_FAILED"}},
		{"declined at the capture", 4030, []string{"TOKEN_PURCHASE_STARTED", "TOKEN_PAYMENT_RESERVED", "TOKEN_ALLOCATED",
			"TOKEN_PURCHASE_FAILED", "PAYMENT_RELEASE_REQUESTED"}},
	} {
		who := newAccount(t)
		order, key := map[string]any{"provider": "gemini", "tokens": tc.tokens}, append(byKey(who), "Idempotency-Key", "k")
		first := request(t, "POST", pathPurchase, "", order, key...)
		id := ordered(t, order, key...)
		if p := settledPurchase(t, id, byKey(who)...); p.Status != "FAILED" || p.Reason == "" {
			t.Errorf("%s: got %+v", tc.name, p)
		}
		if again := request(t, "POST", pathPurchase, "", order, key...); again.text != first.text {
			t.Errorf("%s: want the first answer again, got %s", tc.name, again.text)
		}
		if r := request(t, "GET", pathQuota+"?provider=gemini", "", nil, byKey(who)...); r.status != 404 && !strings.Contains(r.text,
			`"totalTokens":0,`) {
			t.Errorf("%s: want no tokens, got %d %s", tc.name, r.status, r.text)
		}
		var types []string
		for _, e := range sagaEvents(t, id, tc.types[len(tc.types)-1]) {
			types = append(types, e.Type)
		}
		if !slices.Equal(types, tc.types) {
			t.Errorf("%s: want events %v, got %v", tc.name, tc.types, types)
		}
	}
}

// stackNATS connects to the stack's NATS.
func stackNATS(t *testing.T) *nats.Conn {
	t.Helper()
	conn, err := nats.Connect(exported(t, "LEAKY_NATS_URL"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	return conn
}

// stackStream opens the stack's JetStream.
func stackStream(t *testing.T) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(stackNATS(t))
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// following gives each message on a subject to use until that says it has seen enough.
func following(t *testing.T, subject string, use func(jetstream.Msg) (enough bool)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	lately := time.Now().Add(-2 * time.Minute) // before that came those of the other tests
	consumer, err := stackStream(t).OrderedConsumer(ctx, events.Stream, jetstream.OrderedConsumerConfig{FilterSubjects: []string{subject},
		DeliverPolicy: jetstream.DeliverByStartTimePolicy, OptStartTime: &lately})
	if err != nil {
		t.Fatal(err)
	}
	messages, err := consumer.Messages()
	if err != nil {
		t.Fatal(err)
	}
	stop := context.AfterFunc(ctx, messages.Stop)
	defer stop()
	defer messages.Stop()
	for {
		m, err := messages.Next()
		if err != nil {
			t.Fatalf("%s: not seen enough: %v", subject, err)
		}
		if use(m) {
			return
		}
	}
}

// sagaEvents are the events of a purchase up to the last type, their envelopes checked.
func sagaEvents(t *testing.T, id, last string) []events.Envelope {
	t.Helper()
	var found []events.Envelope
	following(t, events.SubjectsSaga, func(m jetstream.Msg) bool {
		var e events.Envelope
		var data purchase
		if err := json.Unmarshal(m.Data(), &e); err != nil {
			t.Fatalf("%s: %v", m.Data(), err)
		}
		if err := json.Unmarshal(e.Data, &data); err != nil {
			t.Fatalf("%s: %v", e.Data, err)
		}
		if data.ID != id {
			return false
		}
		if m.Subject() != "leaky.saga.v1."+e.Type || e.SpecVersion != "1.0" || e.ID == "" || m.Headers().Get("Nats-Msg-Id") != e.ID ||
			e.Time.IsZero() || e.Source != "/tokensvc" || e.DataContentType != "application/json" {
			t.Errorf("envelope on %s: %s", m.Subject(), m.Data())
		}
		found = append(found, e)
		return e.Type == last
	})
	return found
}

// TestPurchaseEvents: contract 4.10 and 12. One event for each step, in their order, in the
// envelope of the contract, with the correlation id of the request; the pool's new state
// for ratelimit; and the usage of consume.
func TestPurchaseEvents(t *testing.T) {
	t.Parallel()
	who := newAccount(t)
	correlation := "corr-" + who.ID
	header := append(byKey(who), "X-Correlation-Id", correlation)
	id := ordered(t, map[string]any{"provider": "openai", "tokens": 5000}, header...)
	var types, states []string
	for _, e := range sagaEvents(t, id, "TOKEN_PURCHASE_COMPLETED") {
		var data purchase
		if err := json.Unmarshal(e.Data, &data); err != nil {
			t.Fatal(err)
		}
		if data.UserID != who.ID || data.Provider != "openai" || data.Tokens != 5000 || e.CorrelationID != correlation {
			t.Errorf("got %+v with %s", e, e.Data)
		}
		types, states = append(types, e.Type), append(states, data.Status)
	}
	if want := []string{"TOKEN_PURCHASE_STARTED", "TOKEN_PAYMENT_RESERVED", "TOKEN_ALLOCATED",
		"TOKEN_PURCHASE_COMPLETED"}; !slices.Equal(types, want) {
		t.Errorf("want %v, got %v", want, types)
	}
	if want := []string{"STARTED", "PAYMENT_RESERVED", "TOKENS_ALLOCATED", "COMPLETED"}; !slices.Equal(states, want) {
		t.Errorf("want %v, got %v", want, states)
	}
	following(t, balance.Subject("openai"), func(m jetstream.Msg) bool {
		s, err := balance.Decode(m.Data())
		if err != nil {
			t.Fatal(err)
		}
		return s.Account == "user:"+who.ID && s.Present && s.Credits == 5000 && s.Version > 0
	})
	r := request(t, "POST", pathConsume, "", map[string]any{"provider": "openai", "tokens": 30}, header...)
	if r.status != 200 {
		t.Fatalf("want 200, got %d %s", r.status, r.text)
	}
	following(t, events.Subject("openai"), func(m jetstream.Msg) bool {
		e, err := events.Decode(m.Data())
		if err != nil {
			t.Fatalf("%s: %v", m.Data(), err)
		}
		if e.RequestID != r.header.Get("X-Request-Id") {
			return false
		}
		var envelope events.Envelope
		if err := json.Unmarshal(m.Data(), &envelope); err != nil {
			t.Fatal(err)
		}
		if e.UserID != who.ID || e.Charged != 30 || !e.Allowed || e.Route != "consume" || e.KeyID != who.KeyID || e.Pool != events.PoolDrawn ||
			envelope.CorrelationID != correlation || envelope.Type != events.TypeUsage {
			t.Errorf("got %s", m.Data())
		}
		return true
	})
}

// TestSagasOnTheCommandLine: leaky sagas shows what happened to a purchase.
func TestSagasOnTheCommandLine(t *testing.T) {
	t.Parallel()
	who := newAccount(t)
	id := ordered(t, map[string]any{"provider": "openai", "tokens": 90}, byKey(who)...)
	settledPurchase(t, id, byKey(who)...)
	out, err := running.Leaky(t.Context(), "sagas", "list", "--limit", "500") // others buy meanwhile
	if err != nil || !strings.Contains(out, id) || !strings.Contains(out, "user:"+who.ID) {
		t.Errorf("%v\n%s", err, out)
	}
	out, err = running.Leaky(t.Context(), "sagas", "show", id, "-o", "json")
	var shown struct {
		ID, Status string
		Steps      []struct{ Status string }
	}
	if err != nil || json.Unmarshal([]byte(out), &shown) != nil || shown.ID != id || shown.Status != "COMPLETED" || len(shown.Steps) != 3 {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err = running.Leaky(t.Context(), "sagas", "cancel", id); err == nil {
		t.Errorf("a finished purchase was cancelled:\n%s", out)
	}
	if out, err = running.Leaky(t.Context(), "sagas", "show", uuid.NewString()); err == nil || !strings.Contains(out, "not found") {
		t.Errorf("want not found, got %v\n%s", err, out)
	}
}
