package limits_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// TestRoutes drives a plain Envoy through each kind of use that envoyproxy/ratelimit is put
// to. The steps of a kind share limits; each kind has a service and an Envoy of its own.
func TestRoutes(t *testing.T) {
	t.Parallel()
	type step struct {
		path, headers string // "name: value, name: value"
		passes        int
		then          bool // the next is refused
	}
	for name, steps := range map[string][]step{
		"without a limit":        {{"/free", "", 5, false}},
		"no header, no limit":    {{"/one", "", 5, false}},
		"limited by a header":    {{"/one", "foo: a", 2, true}, {"/one", "foo: b", 2, true}},
		"the strictest of two":   {{"/two", "foo: a, bar: b, baz: strict", 3, true}},
		"shadow refuses nobody":  {{"/two", "foo: a, baz: shady", 6, false}, {"/two", "foo: a, baz: strict", 3, true}},
		"unlimited":              {{"/two", "foo: a, bay: b", 9, false}},
		"closed":                 {{"/two", "foo: a, bar: closed", 0, true}},
		"replaced by a wider":    {{"/four", "foo: a, bar: closed, source: proxy, destination: open", 2, true}},
		"replaces only when met": {{"/four", "foo: a, bar: closed, source: proxy, destination: wide", 0, true}},
		"replaced ones count on": {{"/four", "foo: a, bar: one, source: proxy, destination: wide", 2, true}, {"/four", "foo: a, bar: one, source: proxy, destination: none", 1, true}},
		"replaces several":       {{"/five", "foo: a, bar: one, source: proxy, destination: fake, category: account", 4, true}, {"/two", "foo: a, bar: one", 1, true}},
		"quota of all services":  {{"/quota", "", 2, true}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, url := routes(t)
			for _, s := range steps {
				n := s.passes
				if s.then {
					n++
				}
				for i := range n {
					r, _ := get(t, url+s.path, headersOf(s.headers))
					if want := i < s.passes; (r.StatusCode == http.StatusOK) != want {
						t.Fatalf("%s with %q, request %d: want it admitted %t, got %s", s.path, s.headers, i+1, want, r.Status)
					}
				}
			}
		})
	}
}

// routes runs the Envoy of testdata before an app that tells its path.
func routes(t *testing.T) (*service, string) {
	t.Helper()
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.URL.Path) }))
	t.Cleanup(app.Close)
	s := start(t, "", "testdata/routes.yaml")
	url, _ := plainEnvoy(t, "testdata/routes-envoy.yaml", app.URL, s.addr)
	return s, url
}

func headersOf(text string) map[string]string {
	all := map[string]string{}
	for one := range strings.SplitSeq(text, ", ") {
		if name, value, ok := strings.Cut(one, ": "); ok {
			all[name] = value
		}
	}
	return all
}

// TestQuotaChargedAfterTheCall asks with 0 and charges 1 after: a service of two a minute
// serves a third, which is under way when the second is charged.
func TestQuotaChargedAfterTheCall(t *testing.T) {
	t.Parallel()
	s, url := routes(t)
	for n := range 3 {
		if r, _ := get(t, url+"/tokenquota", nil); r.StatusCode != http.StatusOK {
			t.Fatalf("request %d: %s", n+1, r.Status)
		}
		s.charged(t, "service_second", n+1)
	}
	if r, _ := get(t, url+"/tokenquota", nil); r.StatusCode != http.StatusTooManyRequests {
		t.Errorf("above the quota: %s", r.Status)
	}
	s.now.Add(60e6)
	if r, _ := get(t, url+"/tokenquota", nil); r.StatusCode != http.StatusOK {
		t.Errorf("a minute later: %s", r.Status)
	}
}

// TestServiceChosenByQuota routes by the metadata of those that have room: the first service
// first, the second when that is over, nobody when both are, and the first again later.
func TestServiceChosenByQuota(t *testing.T) {
	t.Parallel()
	s, url := routes(t)
	for n, want := range []string{"/first", "/first", "/second", "/second", "/second"} {
		if r, body := get(t, url+"/services", nil); r.StatusCode != http.StatusOK || body != want {
			t.Fatalf("request %d: want %s, got %s %s", n+1, want, r.Status, body)
		}
		if n < 2 {
			s.charged(t, "service_first", n+1)
		} else {
			s.charged(t, "service_second", n-1)
		}
	}
	if r, body := get(t, url+"/services", nil); r.StatusCode != http.StatusTooManyRequests {
		t.Errorf("both are over: %s %s", r.Status, body)
	}
	s.now.Add(60e6)
	if r, body := get(t, url+"/services", nil); r.StatusCode != http.StatusOK || body != "/first" {
		t.Errorf("a minute later: %s %s", r.Status, body)
	}
}

// TestDetailedMetricBehindEnvoy labels hits with the value that was sent.
func TestDetailedMetricBehindEnvoy(t *testing.T) {
	t.Parallel()
	s, url := routes(t)
	for range 3 {
		get(t, url+"/detail", map[string]string{"detail": "seen"})
	}
	for level, want := range map[string]float64{"total": 3, "within": 2, "over": 1} {
		testenv.Eventually(t, level, func() bool {
			return s.counter(t, "leaky_ratelimit_rule_hits_total", "detail_seen", "shop", level) == want
		})
	}
}
