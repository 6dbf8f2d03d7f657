package saga

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/payment"
)

func order1(user, more string) string {
	return fmt.Sprintf(`{"userId":%q,"provider":"openai","tokens":1000%s}`, user, more)
}

const path = "/api/v1/tokens/purchase"

func TestPurchaseChecks(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	bound := user(alice)
	bound.OrgID = initech
	for name, tc := range map[string]struct {
		who     principal.Principal
		key     string
		body    string
		status  int
		message string
	}{
		"blank user":           {user(alice), "", `{"userId":" ","provider":"openai","tokens":1}`, 400, "userId is required"},
		"no provider":          {user(alice), "", `{"userId":"x","tokens":0}`, 400, "provider is required"},
		"blank provider":       {user(alice), "", `{"provider":" ","tokens":1}`, 400, "provider is required"},
		"no tokens":            {user(alice), "", `{"provider":"openai"}`, 400, "tokens must be positive"},
		"zero":                 {user(alice), "", `{"provider":"openai","tokens":0}`, 400, "tokens must be positive"},
		"negative":             {user(alice), "", `{"provider":"openai","tokens":-1}`, 400, "tokens must be positive"},
		"too many":             {user(alice), "", `{"provider":"openai","tokens":1000001}`, 400, "tokens must be at most 1000000"},
		"2^63":                 {user(alice), "", `{"provider":"openai","tokens":9223372036854775808}`, 400, "tokens has the wrong type"},
		"fraction":             {user(alice), "", `{"provider":"openai","tokens":1.5}`, 400, "tokens has the wrong type"},
		"text":                 {user(alice), "", `{"provider":"openai","tokens":"1"}`, 400, "tokens has the wrong type"},
		"long key":             {user(alice), strings.Repeat("k", 101), order1("x", ""), 400, "idempotency key too long"},
		"tab in key":           {user(alice), "a\tb", order1(alice, ""), 400, "invalid idempotency key"},
		"key that is no UTF-8": {user(alice), "a\xff", order1(alice, ""), 400, "invalid idempotency key"},
		"bad user":             {user(alice), "", order1("x", ""), 400, "invalid userId or orgId"},
		"user in braces":       {user(alice), "", order1("{"+alice+"}", ""), 400, "invalid userId or orgId"},
		"bad org":              {user(alice), "", order1(alice, `,"orgId":"x"`), 400, "invalid userId or orgId"},
		"unknown provider":     {user(alice), "", `{"provider":"nobody","tokens":1}`, 400, "unknown provider"},
		"somebody else":        {user(alice), "", order1(bob, ""), 403, "userId is not the caller's"},
		"no member":            {user(alice), "", order1(alice, `,"orgId":"`+initech+`"`), 403, "the caller is no member of this organisation"},
		"key of another org":   {bound, "", order1(alice, `,"orgId":"`+acme+`"`), 403, "the credential acts for another organisation"},
		"no JSON":              {user(alice), "", `{`, 400, "malformed JSON"},
		"an array":             {user(alice), "", `[]`, 400, "malformed JSON: an object is expected"},
		"retry by a user":      {user(alice), "", "", 403, "role ADMIN is required"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			at := path
			if tc.body == "" {
				at = "/api/v1/admin/sagas/" + uuid.NewString() + "/retry"
			}
			got := w.call(t, tc.who, "POST", at, tc.key, tc.body)
			if got.status != tc.status || got.body["message"] != tc.message {
				t.Errorf("want %d %q, got %d %s", tc.status, tc.message, got.status, got.text)
			}
		})
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		var rows int
		if err := w.pool.QueryRow(ctx, `SELECT (SELECT count(*) FROM token_purchase_saga) + (SELECT count(*) FROM token_purchase_key) + (SELECT count(*) FROM token_outbox)`).Scan(&rows); err != nil || rows != 0 {
			t.Errorf("a refused purchase must leave nothing, got %d rows, %v", rows, err)
		}
	})
}

func TestPurchaseSucceeds(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		who     principal.Principal
		body    string
		account string
	}{
		"own":           {user(alice), `{"provider":" OpenAI ","tokens":1500,"extra":1}`, "user:" + alice},
		"upper-case id": {user(alice), `{"userId":"` + strings.ToUpper(alice) + `","provider":"openai","tokens":1500}`, "user:" + alice},
		"for another":   {admin(), `{"userId":"` + alice + `","provider":"openai","tokens":1500}`, "user:" + alice},
		"for their org": {user(alice), `{"provider":"openai","tokens":1500,"orgId":"` + acme + `"}`, "org:" + acme},
		"by an org's key": {principal.Principal{UserID: bob, OrgID: initech, Roles: []string{"USER"}}, `{"provider":"openai","tokens":1500}`,
			"org:" + initech},
		"for any org": {admin(), `{"provider":"openai","tokens":1500,"orgId":"` + initech + `"}`, "org:" + initech},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nil)
			w.run()
			got := w.call(t, tc.who, "POST", path, "", tc.body)
			if got.status != 202 || got.body["status"] != "STARTED" || got.body["createdAt"] == nil || len(got.body) != 3 {
				t.Fatalf("want 202 STARTED, got %d %s", got.status, got.text)
			}
			id := got.body["sagaId"].(string)
			row := w.until(id, final)
			if row.Status != "COMPLETED" || row.Amount != 2 || account(row) != tc.account {
				t.Errorf("want it completed for 2 by %s, got %+v", tc.account, row)
			}
			if n := w.number(`SELECT sum(amount) FROM token_ledger WHERE account = $1 AND unit = 'token:openai' AND reference = $2`, tc.account,
				id); n != 1500 {
				t.Errorf("want 1500 tokens credited, got %d", n)
			}
			if s := w.payments.book[uuid.MustParse(id)]; s.Status != payment.Captured || s.Captured != 2 {
				t.Errorf("want 2 captured, got %+v", s)
			}
			rows, err := w.pool.Query(t.Context(), `SELECT event_type FROM token_outbox WHERE subject LIKE 'leaky.saga.v1.%' ORDER BY created_at, id`)
			if err != nil {
				t.Fatal(err)
			}
			var events []string
			for rows.Next() {
				var event string
				if err := rows.Scan(&event); err != nil {
					t.Fatal(err)
				}
				events = append(events, event)
			}
			if want := "TOKEN_PURCHASE_STARTED TOKEN_PAYMENT_RESERVED TOKEN_ALLOCATED TOKEN_PURCHASE_COMPLETED"; strings.Join(events, " ") != want {
				t.Errorf("want events %s, got %s", want, events)
			}
		})
	}
}

func TestPurchaseIsRead(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	own := w.buy(user(alice), `{"provider":"openai","tokens":1000}`)
	orgs := w.buy(principal.Principal{UserID: bob, OrgID: acme, Roles: []string{"USER"}}, `{"provider":"openai","tokens":1000}`)
	stranger := user("33333333-3333-4333-8333-333333333333")
	for name, tc := range map[string]struct {
		who    principal.Principal
		id     string
		status int
	}{
		"owner":          {user(alice), own, 200},
		"upper case":     {user(alice), strings.ToUpper(own), 200},
		"admin":          {admin(), own, 200},
		"stranger":       {stranger, own, 404},
		"member":         {user(alice), orgs, 200},
		"buyer":          {user(bob), orgs, 200},
		"other org":      {principal.Principal{UserID: alice, OrgID: initech, Roles: []string{"USER"}}, orgs, 404},
		"unknown":        {user(alice), uuid.NewString(), 404},
		"no UUID":        {user(alice), "x", 400},
		"another format": {user(alice), strings.ReplaceAll(own, "-", ""), 400},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := w.call(t, tc.who, "GET", path+"/"+tc.id, "", "")
			if got.status != tc.status {
				t.Fatalf("want %d, got %d %s", tc.status, got.status, got.text)
			}
			if got.status != 200 {
				return
			}
			for _, field := range []string{"id", "userId", "orgId", "provider", "tokens", "idempotencyKey", "status", "createdAt", "updatedAt"} {
				if _, ok := got.body[field]; !ok {
					t.Errorf("want %s in %s", field, got.text)
				}
			}
		})
	}
}

func TestIdempotency(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.run()
	first := w.call(t, user(alice), "POST", path, "  order 1 ", order1(alice, ""))
	w.until(first.body["sagaId"].(string), final)
	again := w.call(t, user(alice), "POST", path, "order 1", `{"tokens":1000,"provider":"OPENAI"}`)
	if first.status != 202 || again.status != 202 || again.text != first.text {
		t.Errorf("want the first answer again, %d %s, got %d %s", first.status, first.text, again.status, again.text)
	}
	other := w.call(t, user(alice), "POST", path, "order 1", `{"tokens":1001,"provider":"openai"}`)
	if other.status != 409 || other.body["message"] != "Idempotency key reuse with different payload" {
		t.Errorf("want 409, got %d %s", other.status, other.text)
	}
	if got := w.call(t, user(bob), "POST", path, "order 1", `{"tokens":5,"provider":"qwen"}`); got.status != 202 ||
		got.body["sagaId"] == first.body["sagaId"] {
		t.Errorf("another user's key is their own: want a purchase, got %d %s", got.status, got.text)
	}
	for range 2 {
		if got := w.call(t, user(alice), "POST", path, " ", order1(alice, "")); got.status != 202 || got.body["sagaId"] == first.body["sagaId"] {
			t.Errorf("a blank key is none: want a purchase of its own, got %d %s", got.status, got.text)
		}
	}
	if n := w.number(`SELECT count(*) FROM token_purchase_saga`); n != 4 {
		t.Errorf("want 4 purchases, got %d", n)
	}
}

func TestOneKeyInParallel(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *Config) { c.Timing.Step, c.Timing.Lease = time.Minute, 3*time.Minute }) // 200 of them, on any machine
	w.run()
	var wg sync.WaitGroup
	answers := make([]reply, 200)
	for i := range answers {
		wg.Go(func() { answers[i] = w.call(t, user(alice), "POST", path, "one", order1(alice, "")) })
	}
	wg.Wait()
	for i, got := range answers {
		if got.status != 202 || got.text != answers[0].text {
			t.Fatalf("answer %d: want %s, got %d %s", i, answers[0].text, got.status, got.text)
		}
	}
	w.until(answers[0].body["sagaId"].(string), final)
	if n := w.number(`SELECT count(*) FROM token_purchase_saga`); n != 1 {
		t.Errorf("want one purchase, got %d", n)
	}
	if n := w.number(`SELECT sum(remaining_tokens)::bigint FROM token_pools`); n != 1000 {
		t.Errorf("want one credit of 1000, got %d", n)
	}
}

func TestKeysArePurgedAfterTheirTime(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	first := w.call(t, user(alice), "POST", path, "old", order1(alice, ""))
	if _, err := w.pool.Exec(t.Context(), `UPDATE token_purchase_key SET created_at = now() - interval '23 hours 50 minutes'`); err != nil {
		t.Fatal(err)
	}
	if err := w.service.recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := w.call(t, user(alice), "POST", path, "old", order1(alice, "")); got.text != first.text {
		t.Errorf("within its time: want the first answer, got %s", got.text)
	}
	if _, err := w.pool.Exec(t.Context(), `UPDATE token_purchase_key SET created_at = now() - interval '24 hours 1 second'`); err != nil {
		t.Fatal(err)
	}
	if err := w.service.recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := w.call(t, user(alice), "POST", path, "old", order1(alice, "")); got.status != 202 || got.text == first.text {
		t.Errorf("after its time: want a new purchase, got %d %s", got.status, got.text)
	}
}

func TestPurchasesMayBeOff(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *Config) { c.Enabled = func() bool { return false } })
	if got := w.call(t, user(alice), "POST", path, "", order1(alice, "")); got.status != 503 || got.body["message"] != "purchases disabled" {
		t.Errorf("want 503, got %d %s", got.status, got.text)
	}
}

func TestTierCap(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *Config) { c.QuotaMax = func(string) int64 { return 2500 } })
	if got := w.call(t, user(alice), "POST", path, "", `{"provider":"openai","tokens":2501}`); got.status != 400 ||
		!strings.Contains(got.text, "at most 2500") {
		t.Errorf("want 400 with the cap, got %d %s", got.status, got.text)
	}
	// Three that fit one by one, taken before any is carried out: the third is refused at the credit, and its money given back.
	ids := []string{w.buy(user(alice), order1(alice, "")), w.buy(user(alice), order1(alice, "")), w.buy(user(alice), order1(alice, ""))}
	w.run()
	outcome := map[string]int{}
	for _, id := range ids {
		row := w.until(id, final)
		outcome[row.Status]++
		if s := w.payments.book[row.ID]; row.Status == "FAILED" && (s.Status != payment.Voided || !strings.Contains(row.Failure,
			"may hold 2500")) {
			t.Errorf("want it voided with the reason, got %+v, %s", s, row.Failure)
		}
	}
	if outcome["COMPLETED"] != 2 || outcome["FAILED"] != 1 {
		t.Errorf("want two completed and one failed, got %v", outcome)
	}
	if got := w.call(t, user(alice), "POST", path, "", order1(alice, "")); got.status != 400 {
		t.Errorf("want 400, got %d %s", got.status, got.text)
	}
}

func TestMembershipUnknown(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *Config) { c.Members = fakeMembers(nil) })
	if got := w.call(t, user(alice), "POST", path, "", order1(alice, `,"orgId":"`+acme+`"`)); got.status != 503 {
		t.Errorf("want 503 while identity is away, got %d %s", got.status, got.text)
	}
}

func TestClientLeavesBeforeTheAnswer(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.run()
	for i := range 20 {
		conn, err := net.Dial("tcp", strings.TrimPrefix(w.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		body := order1(alice, "")
		fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nIdempotency-Key: left-%d\r\nX-Test-Caller: {\"UserID\":%q,\"Roles\":[\"USER\"]}\r\nContent-Length: %d\r\n\r\n%s",
			path, i, alice, len(body), body)
		conn.Close()
	}
	for i := range 20 { // asked again, each is bought once, whether or not the first call got through
		got := w.call(t, user(alice), "POST", path, fmt.Sprintf("left-%d", i), order1(alice, ""))
		if got.status != http.StatusAccepted {
			t.Fatalf("want 202, got %d %s", got.status, got.text)
		}
		w.until(got.body["sagaId"].(string), final)
	}
	if n := w.number(`SELECT sum(remaining_tokens)::bigint FROM token_pools`); n != 20_000 {
		t.Errorf("want 20 credits of 1000, got %d", n)
	}
}
