package pools

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/google/uuid"
	"google.golang.org/grpc"

	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/ledger"
)

// limiter answers with one balance, or with an error.
type limiter struct {
	balance *limitpb.Balance
	err     error
}

func (l limiter) GetAccountState(context.Context, *limitpb.GetAccountStateRequest, ...grpc.CallOption) (*limitpb.GetAccountStateResponse,
	error) {
	return &limitpb.GetAccountStateResponse{Balances: []*limitpb.Balance{l.balance}}, l.err
}

// TestQuotaIsLive: what is told is what the next call may use, whichever side knows more.
func TestQuotaIsLive(t *testing.T) {
	t.Parallel()
	pool := ledger.Pool{Provider: "openai", Account: ledger.Account(uuid.New(), uuid.Nil), Total: 1000, Remaining: 900, Version: 5}
	for name, c := range map[string]struct {
		limiter         Limiter
		remaining, held int64
	}{
		"nobody to ask":         {nil, 900, 0},
		"it is away":            {limiter{err: errors.New("away")}, 900, 0},
		"it knows no pool":      {limiter{balance: &limitpb.Balance{}}, 900, 0},
		"nor anybody else":      {limiter{balance: &limitpb.Balance{Present: true, Unknown: true, Spent: 1000}}, 900, 0},
		"usage not booked":      {limiter{balance: &limitpb.Balance{Present: true, Version: 5, Credits: 1000, Spent: 300}}, 700, 0},
		"calls that run":        {limiter{balance: &limitpb.Balance{Present: true, Version: 5, Credits: 1000, Spent: 100, Held: 50}}, 850, 50},
		"usage it was not told": {limiter{balance: &limitpb.Balance{Present: true, Version: 5, Credits: 1000, Spent: 10}}, 900, 0},
		"a purchase not told":   {limiter{balance: &limitpb.Balance{Present: true, Version: 4, Credits: 200, Spent: 150}}, 850, 0},
		"a purchase not read":   {limiter{balance: &limitpb.Balance{Present: true, Version: 6, Credits: 3000, Spent: 100}}, 2900, 0},
		"overdrawn":             {limiter{balance: &limitpb.Balance{Present: true, Version: 5, Credits: 1000, Spent: 1500}}, -500, 0},
	} {
		api, answer := &API{cfg: Config{Limiter: c.limiter, Log: slog.New(slog.DiscardHandler)}}, answerOf(pool)
		api.live(t.Context(), pool, &answer)
		if answer.RemainingTokens != c.remaining || answer.HeldTokens != c.held || answer.BookedTokens != 900 || answer.TotalTokens != 1000 {
			t.Errorf("%s: want %d remaining, %d held and 900 booked, got %+v", name, c.remaining, c.held, answer)
		}
	}
}

func FuzzQuotaQuery(f *testing.F) {
	const me = "11111111-1111-4111-8111-111111111111"
	for _, seed := range []string{"", "userId=" + me + "&provider=openai", "userId=%00&provider=%ff", "orgId=" + strings.ToUpper(me) +
		"&provider=+A+",
		"userId={" + me + "}&provider=x", "userId=urn:uuid:" + me + "&provider=x", "userId=&userId=" + me + "&provider=' OR 1=1--"} {
		f.Add(seed)
	}
	who := principal.Principal{UserID: me, Roles: []string{principal.RoleUser}}
	f.Fuzz(func(t *testing.T, raw string) {
		values, err := url.ParseQuery(raw)
		if err != nil {
			return
		}
		for _, parse := range []func(url.Values, principal.Principal) (target, error){ofUser, ofOrg} {
			q, err := parse(values, who)
			if err == nil {
				err = (&API{}).mayRead(t.Context(), who, q)
			}
			if err != nil {
				refused, ok := errors.AsType[*httpapi.Error](err)
				if !ok || refused.Status != http.StatusBadRequest && refused.Status != http.StatusForbidden {
					t.Fatalf("want 400 or 403, got %v", err)
				}
				continue
			}
			if q.org != uuid.Nil || q.user.String() != me {
				t.Fatalf("want only the caller's own pool, got %+v", q)
			}
			if q.provider == "" || len(q.provider) > longestProvider || q.provider != strings.ToLower(strings.TrimSpace(q.provider)) {
				t.Fatalf("want a trimmed lower-case provider, got %q", q.provider)
			}
		}
	})
}
