package smoketest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// gateway answers as the real one does; its fields make it misbehave.
type gateway struct {
	mu      sync.Mutex
	calls   []string
	warmup  int    // 503 answers before the first good one
	metered string // tokens that analytics shows
	usage   string // of the chat answer
	refuse  string // path that answers 403
}

func (g *gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.warmup > 0 {
		g.warmup--
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	g.calls = append(g.calls, r.Method+" "+r.URL.Path+" "+r.Header.Get("Authorization"))
	if r.URL.Path == g.refuse {
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprint(w, `{"detail":"no"}`)
		return
	}
	switch r.Method + " " + r.URL.Path {
	case "POST /api/v1/auth/register":
		w.WriteHeader(http.StatusCreated)
		fmt.Fprint(w, `{"userId":"11111111-1111-4111-8111-111111111111","token":"jwt"}`)
	case "POST /api/v1/auth/api-keys":
		w.WriteHeader(http.StatusCreated)
		fmt.Fprint(w, `{"id":"22222222-2222-4222-8222-222222222222","apiKey":"leaky_key"}`)
	case "POST /v1/chat/completions":
		fmt.Fprint(w, `{"usage":`+g.usage+`}`)
	case "GET /api/v1/analytics/usage":
		if len(g.calls) < 6 { // not there at the first looks
			fmt.Fprint(w, `{"items":[{"userId":"someone else","tokens":1,"allowed":true}]}`)
			return
		}
		fmt.Fprint(w, `{"items":[{"userId":"11111111-1111-4111-8111-111111111111","tokens":`+g.metered+`,"allowed":true}]}`)
	case "DELETE /api/v1/auth/api-keys":
		if r.URL.Query().Get("apiKeyId") != "22222222-2222-4222-8222-222222222222" || r.URL.Query().Get("userId") != "11111111-1111-4111-8111-111111111111" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

func TestRun(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		g    *gateway
		want string // part of the error; empty: none
	}{
		{"the books agree", &gateway{usage: `{"total_tokens":23}`, metered: "23"}, ""},
		{"the gateway warms up", &gateway{usage: `{"total_tokens":23}`, metered: "23", warmup: 2}, ""},
		{"the books differ", &gateway{usage: `{"total_tokens":23}`, metered: "22"}, "the books say 22 tokens, the provider said 23"},
		{"no usage told", &gateway{usage: `{}`, metered: "0"}, "tells no usage"},
		{"refused", &gateway{usage: `{}`, metered: "0", refuse: "/v1/chat/completions"}, "403: no"},
		{"cannot register", &gateway{usage: `{}`, metered: "0", refuse: "/api/v1/auth/register"}, "register an account"},
		{"broken usage", &gateway{usage: `{"total_tokens":"x"}`, metered: "0"}, "call gpt"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(tc.g)
			defer server.Close()
			got, err := Run(t.Context(), Config{Gateway: server.URL, Model: "gpt", Provider: "openai"})
			if tc.want != "" {
				if err == nil || !strings.Contains(err.Error(), tc.want) {
					t.Errorf("want an error with %q, got %v", tc.want, err)
				}
				if err != nil && strings.Contains(err.Error(), "leaky_key") {
					t.Errorf("the error shows the key: %v", err)
				}
				return
			}
			if err != nil || got.Told != 23 || got.Metered != 23 {
				t.Fatalf("want 23 told and metered, got %+v, %v", got, err)
			}
			trace, err := json.Marshal(tc.g.calls)
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range []string{"POST /v1/chat/completions Bearer leaky_key", "DELETE /api/v1/auth/api-keys Bearer jwt"} {
				if !strings.Contains(string(trace), want) {
					t.Errorf("want the call %q in %s", want, trace)
				}
			}
		})
	}
}
