package pools

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
)

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
