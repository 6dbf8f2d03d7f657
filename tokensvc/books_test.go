package tokensvc_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
	"github.com/leaky-tokens/leaky-tokens/tokensvc"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/ledger"
)

// post sends a JSON body as who.
func (w *world) post(path, body string, who *principal.Principal, key string) answer {
	w.t.Helper()
	r, err := http.NewRequestWithContext(w.t.Context(), http.MethodPost, w.url+path, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	identity, err := w.signer.Mint(*who, tokensvc.Audience, time.Now())
	if err != nil {
		w.t.Fatal(err)
	}
	r.Header.Set(attributes.HeaderIdentity, identity)
	r.Header.Set("Content-Type", "application/json")
	if key != "" {
		r.Header.Set("Idempotency-Key", key)
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		w.t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	a := answer{status: res.StatusCode, header: res.Header}
	if err := json.Unmarshal(text, &a.body); err != nil {
		w.t.Fatalf("POST %s: want a JSON object, got %q", path, text)
	}
	return a
}

const (
	grantPath  = "/api/v1/admin/pools/grant"
	adjustPath = "/api/v1/admin/pools/adjust"
	refundPath = "/api/v1/admin/pools/refund"
	orgPath    = "/api/v1/tokens/quota/org"
)

func (w *world) balanced() {
	w.t.Helper()
	if got, err := ledger.Verify(w.t.Context(), w.pool); err != nil || len(got) > 0 {
		w.t.Errorf("want books without differences, got %v, %v", got, err)
	}
	if got := w.call("GET", "/api/v1/admin/ledger/verify", admin()); got.status != 200 || got.body["balanced"] != true {
		w.t.Errorf("verify: want balanced, got %d %v", got.status, got.body)
	}
}

func TestAdminRefusalsLeaveNothing(t *testing.T) {
	t.Parallel()
	w := migrated(t)
	const owner = `"userId":"` + alice + `","provider":"openai","reason":"x",`
	for name, tc := range map[string]struct {
		path, body string
		who        *principal.Principal
		status     int
		message    string
	}{
		"a user": {grantPath, `{` + owner + `"tokens":1}`, user(alice), 403, "role ADMIN is required"},
		"a user, org": {orgPath, `{"orgId":"` + acme + `","provider":"openai","tokens":1}`, member(alice, acme), 403,
			"role ADMIN is required"},
		"no owner": {grantPath, `{"provider":"openai","reason":"x","tokens":1}`, admin(), 400, "userId or orgId is required"},
		"two owners": {grantPath, `{` + owner + `"orgId":"` + acme + `","tokens":1}`, admin(), 400,
			"userId and orgId exclude each other"},
		"bad user": {grantPath, `{"userId":"x","provider":"openai","reason":"x","tokens":1}`, admin(), 400, "invalid userId"},
		"nobody": {grantPath, `{"userId":"00000000-0000-0000-0000-000000000000","provider":"openai","reason":"x","tokens":1}`,
			admin(), 400, "invalid userId"},
		"no provider": {grantPath, `{"userId":"` + alice + `","reason":"x","tokens":1}`, admin(), 400, "provider is required"},
		"unknown provider": {grantPath, `{"userId":"` + alice + `","provider":"acme","reason":"x","tokens":1}`, admin(), 400,
			"unknown provider"},
		"no tokens":       {grantPath, `{` + owner + `"x":1}`, admin(), 400, "tokens must be positive"},
		"zero":            {grantPath, `{` + owner + `"tokens":0}`, admin(), 400, "tokens must be positive"},
		"negative":        {refundPath, `{` + owner + `"tokens":-1}`, admin(), 400, "tokens must be positive"},
		"zero adjustment": {adjustPath, `{` + owner + `"tokens":0}`, admin(), 400, "tokens must not be zero"},
		"2^63":            {grantPath, `{` + owner + `"tokens":9223372036854775808}`, admin(), 400, "tokens has the wrong type"},
		"2^63-1":          {grantPath, `{` + owner + `"tokens":9223372036854775807}`, admin(), 400, "tokens exceed what a pool can hold"},
		"-2^63":           {adjustPath, `{` + owner + `"tokens":-9223372036854775808}`, admin(), 400, "tokens exceed what a pool can hold"},
		"fraction":        {grantPath, `{` + owner + `"tokens":1.5}`, admin(), 400, "tokens has the wrong type"},
		"blank reason": {grantPath, `{"userId":"` + alice + `","provider":"openai","reason":"  ","tokens":1}`, admin(), 400,
			"reason is required"},
		"NUL in reason": {grantPath, `{"userId":"` + alice + `","provider":"openai","reason":"a\u0000b","tokens":1}`, admin(), 400,
			"reason must be at most 500 bytes without control characters"},
		"long reference": {grantPath, `{` + owner + `"tokens":1,"reference":"` + strings.Repeat("r", 101) + `"}`, admin(), 400,
			"reference must be at most 100 bytes without control characters"},
		"expired": {grantPath, `{` + owner + `"tokens":1,"expiresAt":"2020-01-01T00:00:00Z"}`, admin(), 400,
			"expiresAt must be in the future, and of tokens that are given"},
		"bad date":           {grantPath, `{` + owner + `"tokens":1,"expiresAt":"soon"}`, admin(), 400, ""},
		"take from no pool":  {adjustPath, `{` + owner + `"tokens":-1}`, admin(), 404, "quota not found"},
		"org without an org": {orgPath, `{"provider":"openai","tokens":1}`, admin(), 400, "orgId is required"},
		"malformed":          {grantPath, `{`, admin(), 400, "malformed JSON"},
	} {
		// One after the other: parallel ones would begin after the look at what is written.
		t.Run(name, func(t *testing.T) {
			got := w.with(t).post(tc.path, tc.body, tc.who, "")
			if got.status != tc.status || tc.message != "" && got.body["message"] != tc.message {
				t.Errorf("want %d %q, got %d %v", tc.status, tc.message, got.status, got.body)
			}
		})
	}
	var rows int
	if err := w.pool.QueryRow(t.Context(), `SELECT (SELECT count(*) FROM token_ledger) + (SELECT count(*) FROM token_pool_states) + (SELECT count(*) FROM token_outbox)`).Scan(&rows); err != nil || rows != 0 {
		t.Errorf("want nothing written, got %d rows, %v", rows, err)
	}
}

func TestAdminGrantsAdjustsAndRefunds(t *testing.T) {
	t.Parallel()
	w := migrated(t)
	order := func(tokens int, reference string) string {
		return fmt.Sprintf(`{"userId":"%s","provider":" OpenAI ","tokens":%d,"reason":"a reason","reference":"%s"}`, alice, tokens, reference)
	}
	var wg sync.WaitGroup
	for range 8 { // the same order at once
		wg.Go(func() {
			if got := w.post(grantPath, order(1000, "g1"), admin(), ""); got.status != 200 || got.body["totalTokens"] != 1000. ||
				got.body["reference"] != "grant:g1" {
				t.Errorf("grant: want 200 and 1000 tokens, got %d %v", got.status, got.body)
			}
		})
	}
	wg.Wait()
	if got := w.post(grantPath, order(999, "g1"), admin(), ""); got.status != 409 ||
		got.body["message"] != "reference reuse with different payload" {
		t.Errorf("want 409 for another payload, got %d %v", got.status, got.body)
	}
	if got := w.post(adjustPath, order(-400, ""), admin(), "a1"); got.status != 200 || got.body["remainingTokens"] != 600. {
		t.Errorf("adjust: want 600 left, got %d %v", got.status, got.body)
	}
	if got := w.post(adjustPath, order(-601, "a2"), admin(), ""); got.status != 409 {
		t.Errorf("want 409 for more than is there, got %d %v", got.status, got.body)
	}
	if got := w.post(refundPath, order(50, "r1"), admin(), ""); got.status != 200 || got.body["totalTokens"] != 650. {
		t.Errorf("refund: want 650, got %d %v", got.status, got.body)
	}
	if got := w.post(orgPath, `{"orgId":"`+acme+`","provider":"openai","tokens":77}`, admin(), "o1"); got.status != 201 ||
		got.body["orgId"] != acme || got.body["totalTokens"] != 77. {
		t.Errorf("org: want 201 and 77, got %d %v", got.status, got.body)
	}
	if got := w.call("GET", "/api/v1/tokens/quota?provider=openai", user(alice)); got.body["totalTokens"] != 650. ||
		got.body["remainingTokens"] != 650. {
		t.Errorf("want the owner to see 650, got %v", got.body)
	}
	w.balanced()
}

// A grant is a quota that refills, unless it says otherwise, and a pool keeps its way.
func TestGrantsRefill(t *testing.T) {
	t.Parallel()
	w := migrated(t)
	order := func(provider, refill string) string {
		return fmt.Sprintf(`{"userId":"%s","provider":"%s","tokens":100,"reason":"a reason"%s}`, alice, provider, refill)
	}
	for _, tc := range []struct {
		body    string
		status  int
		refills bool
	}{
		{order("openai", ""), 200, true}, {order("openai", `,"refill":"window"`), 200, true}, {order("openai", `,"refill":"never"`), 409, false},
		{order("gemini", `,"refill":"never"`), 200, false}, {order("gemini", ""), 200, false}, {order("gemini", `,"refill":"window"`), 409, false},
		{order("qwen", `,"refill":"daily"`), 400, false},
	} {
		got := w.post(grantPath, tc.body, admin(), "")
		if got.status != tc.status || tc.status == 200 && (got.body["resetTime"] != nil) != tc.refills {
			t.Errorf("%s: want %d, refills %t, got %d %v", tc.body, tc.status, tc.refills, got.status, got.body)
		}
	}
	if got := w.post(adjustPath, `{"userId":"`+alice+`","provider":"openai","tokens":-1,"reason":"x","refill":"window"}`, admin(), ""); got.status != 400 {
		t.Errorf("of tokens that are taken: want 400, got %d %v", got.status, got.body)
	}
	w.balanced()
}

func TestLedgerPages(t *testing.T) {
	t.Parallel()
	w := migrated(t)
	for i := range 7 {
		w.post(grantPath, fmt.Sprintf(`{"userId":"%s","provider":"openai","tokens":%d,"reason":"n"}`, alice, i+1), admin(), "")
	}
	w.post(orgPath, `{"orgId":"`+acme+`","provider":"openai","tokens":5}`, admin(), "")
	const path = "/api/v1/tokens/ledger?provider=openai"
	var seen []float64
	cursor := ""
	for page := 0; page < 10; page++ {
		got := w.call("GET", path+"&limit=3"+cursor, user(alice))
		if got.status != 200 {
			t.Fatalf("want 200, got %d %v", got.status, got.body)
		}
		for _, item := range got.body["items"].([]any) {
			entry := item.(map[string]any)
			seen = append(seen, entry["tokens"].(float64))
			if entry["kind"] != "adjustment" || entry["reason"] != "n" || entry["actor"] != bob {
				t.Errorf("want the reason and who it was, got %v", entry)
			}
		}
		next, more := got.body["nextCursor"].(string)
		if !more {
			break
		}
		cursor = "&cursor=" + next
		w.post(grantPath, fmt.Sprintf(`{"userId":"%s","provider":"openai","tokens":100,"reason":"between the pages"}`, alice), admin(), "")
	}
	if want := "[7 6 5 4 3 2 1]"; fmt.Sprint(seen) != want {
		t.Errorf("want %s, newest first, each once, got %v", want, seen)
	}
	for name, tc := range map[string]struct {
		query  string
		who    *principal.Principal
		status int
	}{
		"another's":       {"&userId=" + alice, user(bob), 403},
		"any by admin":    {"&userId=" + alice, admin(), 200},
		"org by member":   {"&orgId=" + acme, member(bob, acme), 200},
		"org by stranger": {"&orgId=" + acme, user(alice), 403},
		"two owners":      {"&orgId=" + acme + "&userId=" + alice, admin(), 400},
		"bad cursor":      {"&cursor=x", user(alice), 400},
		"zero cursor":     {"&cursor=0", user(alice), 400},
		"huge cursor":     {"&cursor=9223372036854775808", user(alice), 400},
		"bad limit":       {"&limit=x", user(alice), 400},
		"no such account": {"", user(bob), 200},
	} {
		if got := w.call("GET", path+tc.query, tc.who); got.status != tc.status {
			t.Errorf("%s: want %d, got %d %v", name, tc.status, got.status, got.body)
		}
	}
	w.balanced()
}
