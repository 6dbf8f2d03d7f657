package clientinfo

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestOf(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		header http.Header
		want   string
	}{
		"Envoy says": {http.Header{"X-Envoy-External-Address": {"203.0.113.7"}, "X-Forwarded-For": {"198.51.100.1"}}, "203.0.113.7"},
		"twice is nobody's": {http.Header{"X-Envoy-External-Address": {"203.0.113.7", "203.0.113.8"}, "X-Forwarded-For": {"198.51.100.1"}},
			"198.51.100.1"},
		"the last hop":           {http.Header{"X-Forwarded-For": {"10.0.0.1, 198.51.100.1"}}, "198.51.100.1"},
		"the last of many lines": {http.Header{"X-Forwarded-For": {"10.0.0.1", "10.0.0.2,198.51.100.1"}}, "198.51.100.1"},
		"with a port":            {http.Header{"X-Forwarded-For": {"198.51.100.1:4711"}}, "198.51.100.1"},
		"mapped":                 {http.Header{"X-Forwarded-For": {"::ffff:198.51.100.1"}}, "198.51.100.1"},
		"nonsense":               {http.Header{"X-Forwarded-For": {"me"}}, "192.0.2.1"},
		"nothing":                {http.Header{}, "192.0.2.1"},
		"without a zone":         {http.Header{"X-Forwarded-For": {"fe80::1%eth0"}}, "fe80::1"},
	} {
		r := httptest.NewRequest(http.MethodGet, "/", http.NoBody)
		r.Header, r.RemoteAddr = c.header, "192.0.2.1:1234"
		if got := Of(r).Text(); got != c.want {
			t.Errorf("%s: want %s, got %s", name, c.want, got)
		}
	}
}

func FuzzOf(f *testing.F) {
	f.Add("203.0.113.7", "10.0.0.1, 198.51.100.1", "curl/8")
	f.Add("", ",,,", strings.Repeat("ä", 5000))
	f.Fuzz(func(t *testing.T, external, forwarded, agent string) {
		r := httptest.NewRequest(http.MethodGet, "/", http.NoBody)
		r.Header = http.Header{"X-Envoy-External-Address": {external}, "X-Forwarded-For": {forwarded}, "User-Agent": {agent}}
		o := Of(r)
		if utf8.RuneCountInString(o.Agent) > maxAgent || !utf8.ValidString(o.Agent) || strings.Contains(o.Agent, "\x00") {
			t.Fatalf("agent %q", o.Agent)
		}
		if len(o.Text()) > 45 || o.Network() == "" {
			t.Fatalf("address %q of %q, %q", o.Text(), external, forwarded)
		}
	})
}
