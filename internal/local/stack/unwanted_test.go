package stack

import (
	"strings"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
)

func TestWhatIsLegalAndNotMeant(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		text string
		want []string // in this order; empty: nothing to say
	}{
		"the built-in file":           {text: "{}"},
		"a payment stub that moved":   {text: "services: {stub_payment: {http: 127.0.0.1:19094}}", want: []string{"purchases.payment.url"}},
		"a payment stub, both moved":  {text: "services: {stub_payment: {http: 127.0.0.1:19094}}\npurchases: {payment: {url: http://localhost:19094}}"},
		"a real payment provider":     {text: "purchases: {payment: {protocol: stripe, url: https://api.stripe.com}}"},
		"a stub that moved":           {text: "services: {stub_qwen: {http: 127.0.0.1:19091}}", want: []string{"providers.qwen.url"}},
		"a provider without a model":  {text: "providers: {a: {url: https://a.example}, b: {url: https://b.example}}\nmodels: [{name: m, provider: a}]", want: []string{"providers.b serves no model"}},
		"a key that is not set":       {text: "providers: {a: {url: https://a.example, api_key_env: NOT_SET_HERE}}\nmodels: [{name: m, provider: a}]", want: []string{"NOT_SET_HERE"}},
		"a secret that is not set":    {text: "auth: {upstreams: [{name: a, issuer: 'https://a.example', client_id: x, client_secret_env: NOT_SET_HERE}]}", want: []string{"auth.upstreams[0].client_secret_env"}},
		"what is bought comes back":   {text: "pools: {refill: window}", want: []string{"pools.refill is window"}},
		"a balance that nobody wants": {text: "flags: {token_service: {quota_enforcement: false}}\ntiers: {levels: {USER: {balance: required}}}", want: []string{"tiers.levels.USER.balance"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg, err := config.Parse([]byte(tc.text))
			if err != nil {
				t.Fatal(err)
			}
			p, err := New(Config{Leaky: cfg, StateDir: t.TempDir(), Getenv: func(string) string { return "" }})
			if err != nil {
				t.Fatal(err)
			}
			got := p.Unwanted()
			if len(got) != len(tc.want) {
				t.Fatalf("want %d warnings, got %q", len(tc.want), got)
			}
			for i, want := range tc.want {
				if !strings.Contains(got[i], want) {
					t.Errorf("want %q, got %q", want, got[i])
				}
			}
		})
	}
}
