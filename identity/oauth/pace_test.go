package oauth

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"
)

// few is a limiter that lets so many requests of each caller pass.
type few struct {
	most int

	mu    sync.Mutex
	asked map[string]int // by "route key=value"
}

func (f *few) ShouldRateLimit(_ context.Context, r *rlsv3.RateLimitRequest, _ ...grpc.CallOption) (*rlsv3.RateLimitResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	e := r.GetDescriptors()[0].GetEntries()
	who := e[1].GetValue() + " " + e[2].GetKey() + "=" + e[2].GetValue()
	if f.asked == nil {
		f.asked = map[string]int{}
	}
	if f.asked[who]++; f.asked[who] <= f.most {
		return &rlsv3.RateLimitResponse{OverallCode: rlsv3.RateLimitResponse_OK}, nil
	}
	return &rlsv3.RateLimitResponse{OverallCode: rlsv3.RateLimitResponse_OVER_LIMIT,
		Statuses: []*rlsv3.RateLimitResponse_DescriptorStatus{{DurationUntilReset: durationpb.New(30 * time.Second)}}}, nil
}

// TestRequestsAreCountedByClientOnceItHasProvedWhoItIs: others at its address take nothing from it.
func TestRequestsAreCountedByClientOnceItHasProvedWhoItIs(t *testing.T) {
	t.Parallel()
	b := start(t)
	job := registration{Name: "job", GrantTypes: []string{grantClient}, Scopes: []string{"tokens.read"}}
	busy, calm, phone := b.app(job), b.app(job), b.app(registration{Name: "phone", Public: true, GrantTypes: []string{grantDevice},
		Scopes: []string{"openid"}})
	limiter, off := &few{most: 3}, false
	b.cfg.Limiter, b.cfg.LimitsOff = limiter, func() bool { return off }
	introspect := func(m made, secret string) reply {
		return b.post("/oauth2/introspect", url.Values{"token": {"x"}}, func(r *http.Request) { r.SetBasicAuth(m.ID, secret) })
	}
	for range 3 {
		if r := introspect(busy, busy.Secret); r.status != http.StatusOK {
			t.Fatalf("want it within its limit, got %d %s", r.status, r.text)
		}
		wantError(t, introspect(busy, "wrong"), http.StatusUnauthorized, "invalid_client")
	}
	over := introspect(busy, busy.Secret)
	wantError(t, over, http.StatusTooManyRequests, "temporarily_unavailable")
	if over.header.Get("Retry-After") != "30" {
		t.Errorf("want the limiter's wait, got %v", over.header)
	}
	wantError(t, introspect(busy, "wrong"), http.StatusTooManyRequests, "temporarily_unavailable")
	wantError(t, b.post("/oauth2/device_authorization", url.Values{"client_id": {phone.ID}}), http.StatusTooManyRequests,
		"temporarily_unavailable")
	if r := introspect(calm, calm.Secret); r.status != http.StatusOK {
		t.Errorf("another client at the address pays: %d %s", r.status, r.text)
	}
	if n := limiter.asked["sign-in-client client="+busy.ID]; n != 4 {
		t.Errorf("want 4 counted for the client, got %v", limiter.asked)
	}
	if n := limiter.asked["sign-in-unproven remote_address=127.0.0.1"]; n != 5 {
		t.Errorf("want 5 counted for the address, got %v", limiter.asked)
	}
	off = true
	if r := introspect(busy, busy.Secret); r.status != http.StatusOK {
		t.Errorf("counting is off: %d %s", r.status, r.text)
	}
}

// TestWhatIsNotThereIsToldInTheWordsOfOAuth2, and to people by a page.
func TestWhatIsNotThereIsToldInTheWordsOfOAuth2(t *testing.T) {
	t.Parallel()
	b := start(t)
	for name, c := range map[string]struct {
		method, path, allow string
		status              int
	}{
		"path":      {"GET", "/oauth2/nowhere", "", http.StatusNotFound},
		"method":    {"GET", "/oauth2/token", "OPTIONS, POST", http.StatusMethodNotAllowed},
		"metadata":  {"GET", "/.well-known/nothing", "", http.StatusNotFound},
		"key set":   {"POST", "/oauth2/jwks", "GET, HEAD, OPTIONS", http.StatusMethodNotAllowed},
		"below one": {"POST", "/oauth2/token/x", "", http.StatusNotFound},
	} {
		r := b.send(b.request(c.method, c.path, http.NoBody))
		wantError(t, r, c.status, "invalid_request")
		if r.body["status"] != float64(c.status) || r.body["path"] != c.path || r.body["message"] == "" || r.header.Get("Allow") != c.allow {
			t.Errorf("%s: want the members of a problem and Allow %q, got %v %s", name, c.allow, r.header, r.text)
		}
	}
	page := b.send(b.request("DELETE", "/oauth2/authorize", http.NoBody))
	if page.status != http.StatusMethodNotAllowed || !strings.HasPrefix(page.header.Get("Content-Type"), "text/html") ||
		page.header.Get("Allow") != "GET, HEAD, POST" {
		t.Errorf("want a page, got %d %v %s", page.status, page.header, page.text)
	}
}
