package consume

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/egress"
	"github.com/leaky-tokens/leaky-tokens/internal/netaddr"
)

// The tests of xds call providers through a real Envoy; here is what we make of answers.
func TestProviderAnswers(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name    string
		status  int
		reason  egress.Reason
		body    string
		failure string // empty: the body is the answer
	}{
		{"an object", 200, "", ` {"message":"hi"} `, ""},
		{"an array", 200, "", `[1]`, "no JSON object"},
		{"cut off", 200, "", `{"message":`, "no JSON object"},
		{"nothing", 200, "", ``, "no JSON object"},
		{"too large", 200, "", `{"m":"` + strings.Repeat("x", maxAnswer) + `"}`, "answer over"},
		{"its own error", 500, "", `{"secret":"stack"}`, "status 500"},
		{"its own refusal", 400, "", `{}`, "status 400"},
		{"breaker", 503, egress.BreakerOpen, `{}`, "breaker_open"},
		{"too slow", 504, egress.TimedOut, ``, "timeout"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var path, sent, correlation string
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				text, _ := io.ReadAll(r.Body)
				path, sent, correlation = r.URL.Path, string(text), r.Header.Get("X-Correlation-Id")
				if tc.reason != "" {
					w.Header().Set(egress.Header, string(tc.reason))
				}
				w.WriteHeader(tc.status)
				_, _ = io.WriteString(w, tc.body)
			}))
			t.Cleanup(server.Close)
			addr, err := netaddr.Parse(server.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			prompt := "say hi"
			got, err := NewEnvoy(addr, nil).Call(t.Context(), "openai", "c-1", &prompt)
			if path != "/openai/consume" || sent != `{"prompt":"say hi"}` || correlation != "c-1" {
				t.Errorf("sent %s %s with correlation %q", path, sent, correlation)
			}
			if tc.failure == "" {
				if err != nil || string(got) != strings.TrimSpace(tc.body) {
					t.Errorf("want %s, got %s %v", tc.body, got, err)
				}
				return
			}
			if !errors.Is(err, ErrProvider) || !strings.Contains(err.Error(), tc.failure) || strings.Contains(err.Error(), "stack") {
				t.Errorf("want a provider error with %q, got %v", tc.failure, err)
			}
		})
	}
}

func TestNoEnvoy(t *testing.T) {
	t.Parallel()
	_, err := NewEnvoy(netaddr.Addr{Network: "unix", Path: t.TempDir() + "/none.sock"}, nil).Call(t.Context(), "openai", "", nil)
	if !errors.Is(err, ErrProvider) {
		t.Errorf("want a provider error, got %v", err)
	}
}
