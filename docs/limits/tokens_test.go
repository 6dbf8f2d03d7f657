package limits_test

import (
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// perCall is what each call of these tests uses.
const perCall = 30

// tokenApp states what a call used, and lets calls wait while its gate is shut.
func tokenApp(t *testing.T, gate *sync.RWMutex) string {
	t.Helper()
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		gate.RLock()
		defer gate.RUnlock()
		w.Header().Set("X-Tokens", strconv.Itoa(perCall))
	}))
	t.Cleanup(app.Close)
	return app.URL
}

// charged waits until a rule has counted so many tokens: Envoy charges after the answer.
func (s *service) charged(t *testing.T, rule string, tokens int) {
	t.Helper()
	testenv.Eventually(t, "what was used is charged", func() bool {
		return s.counter(t, "leaky_ratelimit_rule_hits_total", rule, "total") >= float64(tokens)
	})
}

// TestTokensBehindEnvoy asks with 0 and charges after, through a real Envoy: served until
// above the limit, refused then, and served again when it has drained.
func TestTokensBehindEnvoy(t *testing.T) {
	t.Parallel()
	for _, algorithm := range []string{"window", "leaky", "token"} {
		t.Run(algorithm, func(t *testing.T) {
			t.Parallel()
			s := start(t, "", "tokens.yaml")
			url, _ := plainEnvoy(t, "tokens-envoy.yaml", tokenApp(t, &sync.RWMutex{}), s.addr)
			rule, user := algorithm+"-tokens", map[string]string{"X-User": "ann"}
			for n := range 4 {
				r, _ := get(t, url+"/"+algorithm, user)
				if left := max(0, 100-perCall*n); r.StatusCode != http.StatusOK || r.Header.Get("X-Ratelimit-Remaining") != strconv.Itoa(left) {
					t.Fatalf("call %d: want it served with %d left, got %s %v", n+1, left, r.Status, r.Header)
				}
				s.charged(t, rule, perCall*(n+1))
			}
			for range 3 {
				r, _ := get(t, url+"/"+algorithm, user)
				if r.StatusCode != http.StatusTooManyRequests || r.Header.Get("Retry-After") == "" {
					t.Errorf("above the limit: %s %v", r.Status, r.Header)
				}
			}
			if r, _ := get(t, url+"/"+algorithm, map[string]string{"X-User": "bob"}); r.StatusCode != http.StatusOK {
				t.Errorf("another user: %s", r.Status)
			}
			s.now.Add(3600e6 / 2) // a bucket leaks 50 or 25 of 120; a window stands
			if r, _ := get(t, url+"/"+algorithm, user); (r.StatusCode == http.StatusOK) != (algorithm != "window") {
				t.Errorf("half an hour later: %s", r.Status)
			}
			s.now.Add(3600e6 / 2)
			if r, _ := get(t, url+"/"+algorithm, user); r.StatusCode != http.StatusOK {
				t.Errorf("an hour later: %s", r.Status)
			}
		})
	}
}

// TestTokensOfManyAtOnce has 64 callers under way at once: they overshoot by what these use,
// and by nothing that comes later.
func TestTokensOfManyAtOnce(t *testing.T) {
	t.Parallel()
	const callers = 64
	s := start(t, "", "tokens.yaml")
	var gate sync.RWMutex
	url, _ := plainEnvoy(t, "tokens-envoy.yaml", tokenApp(t, &gate), s.addr)
	for _, algorithm := range []string{"window", "leaky", "token"} {
		var served, refused atomic.Int64
		wave := func() {
			var group sync.WaitGroup
			for range callers {
				group.Go(func() {
					switch r, _ := get(t, url+"/"+algorithm, map[string]string{"X-User": "ann"}); r.StatusCode {
					case http.StatusOK:
						served.Add(1)
					case http.StatusTooManyRequests:
						refused.Add(1)
					default:
						t.Errorf("%s", r.Status)
					}
				})
			}
			group.Wait()
		}
		wave()
		if n := served.Load(); n < 4 || n+refused.Load() != callers {
			t.Errorf("%s: %d served and %d refused of %d", algorithm, n, refused.Load(), callers)
		}
		s.charged(t, algorithm+"-tokens", perCall*int(served.Load()))
		before := served.Load()
		wave()
		if served.Load() != before {
			t.Errorf("%s: %d calls served above the limit, when none was under way", algorithm, served.Load()-before)
		}
	}
}
