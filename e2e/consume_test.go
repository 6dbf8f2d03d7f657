package e2e

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// TestConsumeSpendsByKeyAndToken: contract 4.4, 200, with either credential and every
// spelling of one caller, which all share one bucket.
func TestConsumeSpendsByKeyAndToken(t *testing.T) {
	t.Parallel()
	who := newAccount(t)
	buy(t, who, "openai", 5000)
	var ids []string
	begun := time.Now()
	for i, tc := range []struct {
		name, body string
		header     []string
	}{
		{"key", `{"provider":"openai","tokens":100,"prompt":"hi"}`, byKey(who)},
		{"token", `{"provider":"openai","tokens":100,"prompt":"hi"}`, byToken(who)},
		{"both of one user", `{"provider":"openai","tokens":100,"prompt":"hi"}`, append(byKey(who), byToken(who)...)},
		{"own id", `{"userId":"` + who.ID + `","provider":"openai","tokens":100,"prompt":"hi"}`, byKey(who)},
		{"own id in capitals", `{"userId":"` + strings.ToUpper(who.ID) + `","provider":"openai","tokens":100,"prompt":"hi"}`, byToken(who)},
		{"provider with capitals and blanks", `{"provider":" OpenAI ","tokens":100,"prompt":"hi"}`, byKey(who)},
		{"blank organisation", `{"orgId":"  ","provider":"openai","tokens":100,"prompt":"hi"}`, byKey(who)},
		{"invented request id", `{"provider":"openai","tokens":100,"prompt":"hi"}`, append(byKey(who), "X-Request-Id", uuid.Nil.String())},
		{"the same once more", `{"provider":"openai","tokens":100,"prompt":"hi"}`, append(byKey(who), "X-Request-Id", uuid.Nil.String())},
	} {
		r := request(t, "POST", pathConsume, "", tc.body, append(tc.header, "X-Correlation-Id", "corr-"+who.KeyID)...)
		if r.status != 200 {
			t.Fatalf("%s: want 200, got %d %s", tc.name, r.status, r.text)
		}
		var got consumed
		r.into(t, &got)
		// The bucket drains meanwhile.
		most := int64(100 * (i + 1))
		if !got.Allowed || got.Capacity != 1000 || got.Used > most || got.Used < most-tenASecond(begun) || got.Remaining != 1000-got.Used ||
			got.WaitSeconds != 0 || got.Timestamp.IsZero() {
			t.Errorf("%s: want %d used, less what has drained, got %s", tc.name, most, r.text)
		}
		if got.ProviderResponse["message"] != "Stubbed OpenAI response" || fmt.Sprint(got.ProviderResponse["received"]) != "map[prompt:hi]" {
			t.Errorf("%s: the provider's answer is %v", tc.name, got.ProviderResponse)
		}
		for name, want := range map[string]int64{"Limit": 1000, "Remaining": got.Remaining, "Used": got.Used, "Reset": 0} {
			if n := number(t, r, "X-TokenBucket-"+name); n != want {
				t.Errorf("%s: X-TokenBucket-%s: want %d, got %d", tc.name, name, want, n)
			}
		}
		// The gateway's own counter stands beside it, once.
		if number(t, r, "X-RateLimit-Limit") != 100000 || number(t, r, "X-RateLimit-Remaining") > 99999 || r.header.Get("Retry-After") != "" {
			t.Errorf("%s: headers %v", tc.name, r.header)
		}
		if got := r.header.Values("X-Correlation-Id"); !slices.Equal(got, []string{"corr-" + who.KeyID}) {
			t.Errorf("%s: correlation id %q", tc.name, got)
		}
		ids = append(ids, r.header.Get("X-Request-Id"))
	}
	for _, id := range ids {
		if row := booked(t, who, "openai", id); !row.Allowed || row.Tokens != 100 || row.Source != "requested" || row.Status != 200 {
			t.Errorf("the books say %+v", row)
		}
	}
	testenv.Eventually(t, "nine calls in the ledger", func() bool {
		return quotaOf(t, who,
			"?provider=openai").RemainingTokens == 4100
	})
}

// tenASecond is the most tokens by which a limit of ten a second has changed since then.
func tenASecond(begun time.Time) int64 { return int64(math.Ceil(10 * time.Since(begun).Seconds())) }

// TestConsumeRefusesBadInput: contract 4.4, 400 and beside it 401, 403, 405, 415. Nothing
// is spent and nothing else is asked.
func TestConsumeRefusesBadInput(t *testing.T) {
	t.Parallel()
	who, other := newAccount(t), newAccount(t)
	buy(t, who, "openai", 5000)
	foreign := newOrg(t, other)
	for _, tc := range []struct {
		body, message string
		status        int
		header        []string
	}{
		{body: ``, status: 400, message: "malformed JSON"},
		{body: `{"provider":`, status: 400, message: "malformed JSON"},
		{body: `[]`, status: 400, message: "malformed JSON"},
		{body: `{"userId":" ","provider":"openai","tokens":1}`, status: 400, message: "userId is required"},
		{body: `{"tokens":1}`, status: 400, message: "provider is required"},
		{body: `{"provider":" ","tokens":1}`, status: 400, message: "provider is required"},
		{body: `{"provider":"openai"}`, status: 400, message: "tokens must be positive"},
		{body: `{"provider":"openai","tokens":0}`, status: 400, message: "tokens must be positive"},
		{body: `{"provider":"openai","tokens":-1}`, status: 400, message: "tokens must be positive"},
		{body: `{"provider":"openai","tokens":10001}`, status: 400, message: "at most 10000"},
		{body: `{"provider":"openai","tokens":9223372036854775808}`, status: 400, message: "tokens"},
		{body: `{"provider":"openai","tokens":1.5}`, status: 400, message: "tokens"},
		{body: `{"provider":"openai","tokens":"5"}`, status: 400, message: "tokens"},
		{body: `{"userId":"me","provider":"openai","tokens":1}`, status: 400, message: "invalid userId"},
		{body: `{"userId":"{` + who.ID + `}","provider":"openai","tokens":1}`, status: 400, message: "invalid userId"},
		{body: `{"userId":"` + strings.ReplaceAll(who.ID, "-", "") + `","provider":"openai","tokens":1}`, status: 400, message: "invalid userId"},
		{body: `{"orgId":"us","provider":"openai","tokens":1}`, status: 400, message: "invalid orgId"},
		{body: `{"provider":"nobody","tokens":1}`, status: 400, message: "unknown provider"},
		{body: `{"provider":"openai/../gemini","tokens":1}`, status: 400, message: "unknown provider"},
		{body: `{"provider":"` + strings.Repeat("x", 10<<10) + `","tokens":1}`, status: 400, message: "unknown provider"},
		{body: `{"provider":"openai","tokens":1001}`, status: 400, message: "tokens exceed bucket capacity"},
		{body: `provider=openai&tokens=1`, status: 415, header: []string{"Content-Type", "application/x-www-form-urlencoded"}},
		{body: `{"userId":"` + other.ID + `","provider":"openai","tokens":1}`, status: 403},
		{body: `{"orgId":"` + foreign + `","provider":"openai","tokens":1}`, status: 403},
		{body: `{"orgId":"` + uuid.NewString() + `","provider":"openai","tokens":1}`, status: 403},
	} {
		wantProblem(t, request(t, "POST", pathConsume, "", tc.body, append(byKey(who), tc.header...)...), tc.status, tc.message)
	}
	const ok = `{"provider":"openai","tokens":1}`
	wantProblem(t, request(t, "POST", pathConsume, "", ok), 401, "")
	wantProblem(t, request(t, "POST", pathConsume, "", ok, "X-User-Id", who.ID, "X-User-Roles", "ADMIN"), 401, "")
	if r := request(t, "GET", pathConsume, "", nil, byKey(who)...); r.status != 405 || r.header.Get("Allow") != "POST" {
		t.Errorf("want 405, got %d %s", r.status, r.text)
	}
	var got consumed
	request(t, "POST", pathConsume, "", ok, byKey(who)...).into(t, &got)
	if got.Used != 1 {
		t.Errorf("want nothing but the last call in the bucket, got %+v", got)
	}
}

// TestConsumeRefusalsAreOnTheBooks: contract 4.4, 402 and 429, each with an event that
// says why and what was asked for, and nothing spent (decision 13).
func TestConsumeRefusalsAreOnTheBooks(t *testing.T) {
	t.Parallel()
	who := newAccount(t)
	refused := func(r answer, status int, reason string, tokens int64) {
		t.Helper()
		if r.status != status {
			t.Fatalf("want %d, got %d %s", status, r.status, r.text)
		}
		if row := booked(t, who, "openai", r.header.Get("X-Request-Id")); row.Allowed || row.Reason != reason || row.Tokens != tokens ||
			row.Status != status || row.Source != "refused" {
			t.Errorf("the books say %+v", row)
		}
	}
	r := request(t, "POST", pathConsume, "", `{"provider":"openai","tokens":70}`, byKey(who)...)
	wantProblem(t, r, 402, "insufficient token quota")
	refused(r, 402, "quota_insufficient", 70)

	buy(t, who, "openai", 950)
	if r = request(t, "POST", pathConsume, "", `{"provider":"openai","tokens":900}`, byKey(who)...); r.status != 200 {
		t.Fatalf("want 200, got %d %s", r.status, r.text)
	}
	r = request(t, "POST", pathConsume, "", `{"provider":"openai","tokens":51}`, byToken(who)...)
	wantProblem(t, r, 402, "insufficient token quota")
	refused(r, 402, "quota_insufficient", 51)

	buy(t, who, "openai", 9000)
	r = request(t, "POST", pathConsume, "", `{"provider":"openai","tokens":1000}`, byToken(who)...)
	refused(r, 429, "rate_limited", 1000)
	var got consumed
	r.into(t, &got)
	if got.Allowed || got.Capacity != 1000 || got.Used > 900 || got.Remaining != 1000-got.Used || got.WaitSeconds < 1 ||
		got.WaitSeconds > 90 || len(got.ProviderResponse) != 0 || got.ProviderResponse == nil {
		t.Errorf("want a refusal with the bucket, got %s", r.text)
	}
	if number(t, r, "Retry-After") != got.WaitSeconds || number(t, r, "X-TokenBucket-Reset") != got.WaitSeconds ||
		number(t, r, "X-TokenBucket-Limit") != 1000 ||
		number(t, r, "X-TokenBucket-Remaining") != got.Remaining || number(t, r, "X-TokenBucket-Used") != got.Used ||
		number(t, r, "X-RateLimit-Limit") != 100000 {
		t.Errorf("headers %v for %s", r.header, r.text)
	}
	// Who waits as long as they are told passes: at once where the bucket has leaked enough meanwhile.
	fits := got.Remaining + 15
	body := fmt.Sprintf(`{"provider":"openai","tokens":%d}`, fits)
	testenv.Eventually(t, "room for who waited", func() bool {
		r := request(t, "POST", pathConsume, "", body, byKey(who)...)
		r.into(t, &got)
		if r.status != 200 && (r.status != 429 || got.WaitSeconds > 2) {
			t.Fatalf("want a wait of at most 2 s, got %d %s", r.status, r.text)
		}
		return r.status == 200
	})
	spent := 900 + fits
	testenv.Eventually(t, "the admitted calls alone in the ledger",
		func() bool { return quotaOf(t, who, "?provider=openai").RemainingTokens == 9950-spent })
}

// TestConsumeAdmitsExactlyWhatFits sends more calls at once than the bucket, or the pool,
// has room for, with both credentials and both spellings of the id.
func TestConsumeAdmitsExactlyWhatFits(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name    string
		pool    int64
		tokens  int64
		room    int64 // tokens that fit
		drains  bool  // by ten a second
		refusal int
	}{
		{"the bucket of 1000", 50_000, 125, 1000, true, 429},
		{"the pool of 550", 550, 100, 550, false, 402},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			who := newAccount(t)
			buy(t, who, "openai", tc.pool)
			got := map[int]int64{}
			var mu sync.Mutex
			var wg sync.WaitGroup
			begun := time.Now()
			for i := range 40 {
				wg.Go(func() {
					header, id := byKey(who), who.ID
					if i%2 == 0 {
						header = byToken(who)
					}
					if i%3 == 0 {
						id = strings.ToUpper(id)
					}
					r, err := tryRequest(t.Context(), "POST", pathConsume, "", map[string]any{"userId": id, "provider": "openai", "tokens": tc.tokens},
						header...)
					mu.Lock()
					defer mu.Unlock()
					if err != nil {
						t.Error(err)
					}
					got[r.status]++
				})
			}
			wg.Wait()
			least, most := tc.room/tc.tokens, tc.room/tc.tokens
			if tc.drains {
				most = (tc.room + tenASecond(begun)) / tc.tokens
			}
			if got[200] < least || got[200] > most || got[200]+got[tc.refusal] != 40 {
				t.Errorf("want %d to %d admitted and %d for the others, got %v", least, most, tc.refusal, got)
			}
			want := tc.pool - got[200]*tc.tokens
			testenv.Eventually(t, "the admitted calls in the ledger",
				func() bool { return quotaOf(t, who, "?provider=openai").RemainingTokens == want })
		})
	}
}

// TestConsumeStrategies: contract 4.5. The leaky bucket is the other tests'; the sandbox
// gives qwen a token bucket and gemini a window of a day.
func TestConsumeStrategies(t *testing.T) {
	t.Parallel()
	withinOneDay(t)
	who := newAccount(t)
	for _, tc := range []struct {
		provider        string
		shortest, until int64 // wait, in seconds
	}{
		{"qwen", 50, 50}, // a balance that is full at first and refills by 10 a second
		{"gemini", 1, 86400},
	} {
		buy(t, who, tc.provider, 4000)
		var got consumed
		begun := time.Now()
		for _, tokens := range []int{600, 400} {
			r := request(t, "POST", pathConsume, "", map[string]any{"provider": tc.provider, "tokens": tokens}, byKey(who)...)
			r.into(t, &got)
			if r.status != 200 || got.Capacity != 1000 {
				t.Fatalf("%s: want 200, got %d %s", tc.provider, r.status, r.text)
			}
		}
		if got.Remaining > tenASecond(begun) {
			t.Errorf("%s: want nothing left but what was refilled, got %+v", tc.provider, got)
		}
		r := request(t, "POST", pathConsume, "", map[string]any{"provider": tc.provider, "tokens": 500}, byKey(who)...)
		r.into(t, &got)
		if r.status != 429 || got.WaitSeconds < tc.shortest-tenASecond(begun)/10-1 || got.WaitSeconds > tc.until {
			t.Errorf("%s: want 429 with its wait, got %d %s", tc.provider, r.status, r.text)
		}
		wantProblem(t, request(t, "POST", pathConsume, "", map[string]any{"provider": tc.provider, "tokens": 1001}, byKey(who)...), 400,
			"tokens exceed bucket capacity")
	}
}

// TestTiersScaleTheBucket: contract 4.7, the tier with the highest priority decides.
func TestTiersScaleTheBucket(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		roles    []string
		capacity int64
	}{{nil, 1000}, {[]string{"SILVER"}, 2000}, {[]string{"SILVER", "GOLD"}, 4000}, {[]string{"GOLD", "ADMIN"}, 2000}, {[]string{"TINY"}, 1}} {
		who := newAccount(t, tc.roles...)
		buy(t, who, "openai", 5000)
		r := request(t, "POST", pathConsume, "", `{"provider":"openai","tokens":1}`, byKey(who)...)
		if got := number(t, r, "X-TokenBucket-Limit"); got != tc.capacity {
			t.Errorf("%v: want %d, got %d: %d %s", tc.roles, tc.capacity, got, r.status, r.text)
		}
	}
}

// TestConsumeForAnOrganisation: contract 4.3. Members spend the organisation's pool, by its
// id or by a key that is bound to it; who is no member does not.
func TestConsumeForAnOrganisation(t *testing.T) {
	t.Parallel()
	admin, owner, member, stranger := newAccount(t, "ADMIN"), newAccount(t), newAccount(t), newAccount(t)
	org, other := newOrg(t, owner, member), newOrg(t, owner)
	body := func(org string, tokens int) map[string]any {
		return map[string]any{"orgId": org, "provider": "openai", "tokens": tokens}
	}
	wantProblem(t, request(t, "POST", pathConsume, "", body(org, 10), byKey(member)...), 402, "insufficient token quota")
	mustCall(t, 201, "POST", "/api/v1/tokens/quota/org", admin.JWT, body(org, 5000), nil)
	testenv.Eventually(t, "the grant, which the refusal before it does not hide", func() bool {
		return request(t, "POST", pathConsume, "", body(org, 1), byToken(member)...).status == 200
	})

	var key struct{ APIKey string }
	mustCall(t, 201, "POST", "/api/v1/auth/api-keys", member.JWT, map[string]string{"name": "bound", "orgId": org}, &key)
	bound := []string{"X-Api-Key", key.APIKey}
	for _, tc := range []struct {
		name   string
		body   map[string]any
		header []string
		status int
	}{
		{"member by token", body(org, 100), byToken(member), 200},
		{"member by key", body(strings.ToUpper(org), 100), byKey(member), 200},
		{"bound key that names it", body(org, 100), bound, 200},
		{"bound key that names none", body("", 100), bound, 200},
		{"bound key that names another", body(other, 100), bound, 403},
		{"owner", body(org, 999), byToken(owner), 200},
		{"the organisation's own bucket is full", body(org, 200), byToken(owner), 429},
		{"stranger", body(org, 1), byToken(stranger), 403},
		{"no pool of their own", body("", 1), byToken(member), 402},
		{"the owner's other organisation has no pool", body(other, 1), byToken(owner), 402},
	} {
		r := request(t, "POST", pathConsume, "", tc.body, tc.header...)
		if r.status != tc.status {
			t.Fatalf("%s: want %d, got %d %s", tc.name, tc.status, r.status, r.text)
		}
		if tc.status == 429 && number(t, r, "X-TokenBucket-Limit") != 1500 {
			t.Errorf("%s: want the bucket that refused, got %v", tc.name, r.header)
		}
	}
	testenv.Eventually(t, "the organisation's calls in the ledger", func() bool {
		var q quota
		mustCall(t, 200, "GET", pathQuota+"/org?provider=openai&orgId="+org, member.JWT, nil, &q)
		return q.RemainingTokens == 5000-1400 && q.OrgID == org
	})
	mustCall(t, 403, "GET", pathQuota+"/org?provider=openai&orgId="+org, stranger.JWT, nil, nil)
	mustCall(t, 204, "DELETE", "/api/v1/orgs/"+org+"/members/"+member.ID, owner.JWT, nil, nil)
	testenv.Eventually(t, "the end of a membership", func() bool {
		return request(t, "POST", pathConsume, "", body(org, 1), byKey(member)...).status == 403
	})
	var r answer // the key ended with the membership, of which extauthz hears for itself
	testenv.Eventually(t, "the end of the bound key", func() bool {
		r = request(t, "POST", pathConsume, "", body(org, 1), bound...)
		return r.status == 401
	})
	wantProblem(t, r, 401, "")
}
