package e2e

import (
	"strconv"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/stacktest"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// Paths of the token API.
const (
	pathConsume  = "/api/v1/tokens/consume"
	pathPurchase = "/api/v1/tokens/purchase"
	pathQuota    = "/api/v1/tokens/quota"
	pathLedger   = "/api/v1/tokens/ledger"
)

// number is a header that is a whole number and is there once.
func number(t *testing.T, r answer, name string) int64 {
	t.Helper()
	values := r.header.Values(name)
	if len(values) != 1 {
		t.Fatalf("want %s once, got %q", name, values)
	}
	n, err := strconv.ParseInt(values[0], 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// byKey and byToken are the two credentials of an account, as headers.
func byKey(who stacktest.Account) []string   { return []string{"X-Api-Key", who.Key} }
func byToken(who stacktest.Account) []string { return []string{"Authorization", "Bearer " + who.JWT} }

// purchase is what GET /api/v1/tokens/purchase/{id} answers.
type purchase struct {
	ID, UserID, Provider, Status, Reason string
	OrgID, IdempotencyKey                *string
	Tokens                               int64
	CreatedAt, UpdatedAt                 time.Time
}

// told reads what is there, and asks again, as clients do, where nobody can tell just now.
func told(t *testing.T, path string, dst any, header ...string) {
	t.Helper()
	testenv.Eventually(t, path+" is answered", func() bool {
		r := request(t, "GET", path, "", nil, header...)
		if r.status != 200 && r.status != 503 {
			t.Fatalf("%s: want 200, got %d %s", path, r.status, r.text)
		}
		if r.status == 200 {
			r.into(t, dst)
		}
		return r.status == 200
	})
}

// settledPurchase waits until a purchase is at its end.
func settledPurchase(t *testing.T, id string, header ...string) purchase {
	t.Helper()
	var p purchase
	testenv.Eventually(t, "the end of purchase "+id, func() bool {
		p = purchase{}
		told(t, pathPurchase+"/"+id, &p, header...)
		return p.Status == "COMPLETED" || p.Status == "FAILED"
	})
	return p
}

// ordered posts a purchase that must be taken and gives its id.
func ordered(t *testing.T, body map[string]any, header ...string) string {
	t.Helper()
	r := request(t, "POST", pathPurchase, "", body, header...)
	var answer struct{ SagaID string }
	if r.status != 202 {
		t.Fatalf("want 202, got %d %s", r.status, r.text)
	}
	r.into(t, &answer)
	return answer.SagaID
}

// buy gives an account tokens as anybody gets them: by a purchase. The limiter is told of it after the
// purchase's end; what follows may count on it.
func buy(t *testing.T, who stacktest.Account, provider string, tokens int64) {
	t.Helper()
	before := creditsOf(t, who, provider)
	id := ordered(t, map[string]any{"provider": provider, "tokens": tokens}, byKey(who)...)
	if p := settledPurchase(t, id, byKey(who)...); p.Status != "COMPLETED" {
		t.Fatalf("want COMPLETED, got %+v", p)
	}
	testenv.Eventually(t, "the limiter hears of purchase "+id, func() bool {
		return creditsOf(t, who, provider) >= before+tokens
	})
}

// creditsOf is what a pool was ever given, as far as the limiter knows.
func creditsOf(t *testing.T, who stacktest.Account, provider string) int64 {
	t.Helper()
	var m me
	told(t, "/api/v1/me", &m, byKey(who)...)
	for _, b := range m.Balances {
		if b.Provider == provider {
			return b.Credits
		}
	}
	return 0
}

// quota is what GET /api/v1/tokens/quota answers.
type quota struct {
	UserID, OrgID, Provider      string
	TotalTokens, RemainingTokens int64 // what calls under way hold is no longer there
	BookedTokens                 int64 // by the ledger
	ResetTime                    *time.Time
	UpdatedAt                    time.Time
}

func quotaOf(t *testing.T, who stacktest.Account, query string) quota {
	t.Helper()
	var q quota
	told(t, pathQuota+query, &q, byToken(who)...)
	return q
}

// consumed is what consume answers with 200 and 429.
type consumed struct {
	Allowed                                bool
	Capacity, Used, Remaining, WaitSeconds int64
	Timestamp                              time.Time
	ProviderResponse                       map[string]any
}

// newOrg makes an organisation of the owner with members.
func newOrg(t *testing.T, owner stacktest.Account, members ...stacktest.Account) string {
	t.Helper()
	var org struct{ ID string }
	mustCall(t, 201, "POST", "/api/v1/orgs", owner.JWT, map[string]string{"name": "org of " + owner.ID}, &org)
	mustCall(t, 201, "POST", "/api/v1/orgs/"+org.ID+"/teams", owner.JWT, map[string]string{"name": "core"}, nil)
	for _, m := range members {
		mustCall(t, 202, "POST", "/api/v1/orgs/"+org.ID+"/members", owner.JWT, map[string]string{"userId": m.ID, "role": "MEMBER",
			"team": "core"}, nil)
		mustCall(t, 201, "POST", "/api/v1/orgs/"+org.ID+"/invitations/accept", m.JWT, nil, nil)
	}
	return org.ID
}
