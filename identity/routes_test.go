package identity

import (
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/apitest"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

func TestWhatIdentityServesIsDescribed(t *testing.T) {
	t.Parallel()
	cfg, _ := settings(t, testenv.Postgres(t))
	cfg.Auth.ClientRegistration = config.ClientsOpen
	cfg.Auth.Upstreams, cfg.Upstreams = []config.AuthUpstream{{Name: "another", Issuer: "https://login.example", ClientID: "leaky"}}, []string{""}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	apitest.Routes(t, "identity", s.Handler().Patterns())
}
