package model_test

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/xds/model"
)

func build(t *testing.T, edit func(*config.Config), env map[string]string) (*model.Gateway, []model.Secret, error) {
	t.Helper()
	cfg, err := config.Parse(nil)
	if err != nil {
		t.Fatal(err)
	}
	if edit != nil {
		edit(cfg)
	}
	return model.Build(model.Input{Config: cfg, StateDir: "/state", Key: func(_ string, p config.ProviderKey) (string, error) {
		if key := strings.TrimSpace(env[p.APIKeyEnv]); key != "" { // as xds reads it
			return key, nil
		}
		return "", errors.New(p.APIKeyEnv + " is not set")
	}})
}

func provider(name string, change func(*config.Provider)) func(*config.Config) {
	return func(c *config.Config) {
		p := c.Providers[name]
		change(&p)
		c.Providers[name] = p
	}
}

func TestMistakesAreNamed(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		edit func(*config.Config)
		want string
	}{
		"no scheme":        {provider("openai", func(p *config.Provider) { p.URL = "api.openai.com" }), "providers.openai.url"},
		"other scheme":     {provider("openai", func(p *config.Provider) { p.URL = "ftp://x" }), "providers.openai.url"},
		"password in url":  {provider("openai", func(p *config.Provider) { p.URL = "http://a:b@x" }), "providers.openai.url"},
		"query in url":     {provider("openai", func(p *config.Provider) { p.URL = "http://x?api-version=1" }), "providers.openai.url"},
		"unknown provider": {func(c *config.Config) { c.Models[0].Provider = "nobody" }, `"nobody"`},
		"bad address":      {func(c *config.Config) { c.Services.Identity.HTTP, c.Services.Identity.Inner = "8081", "" }, "services.identity.http"},
	} {
		if _, _, err := build(t, c.edit, nil); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: want an error with %q, got %v", name, c.want, err)
		}
	}
}

// TestAProviderWithoutItsKeyIsDownAlone: nobody is called for it, nothing is held, and it is said.
func TestAProviderWithoutItsKeyIsDownAlone(t *testing.T) {
	t.Parallel()
	g, _, err := build(t, provider("gemini", func(p *config.Provider) { p.APIKeyEnv = "MISSING" }), nil)
	if err != nil || len(g.Problems) != 1 || g.Problems[0] != "providers.gemini is down: MISSING is not set" {
		t.Fatalf("want gemini down, got %+v %v", g.Problems, err)
	}
	calls := map[bool]int{}
	for _, r := range g.Routes {
		if r.LLM != nil && r.Match.Guarded {
			if down := r.LLM.Gemini; down != (r.Reply != nil && r.Reply.Status == 503 && r.LLM.Provider == "") {
				t.Errorf("%s: want a 503 %v, got %+v", r.Name, down, r.Reply)
			}
			calls[r.LLM.Gemini]++
		}
	}
	if calls[true] == 0 || calls[false] == 0 {
		t.Errorf("want routes of both protocols, got %v", calls)
	}
	for _, c := range g.Clusters {
		if strings.Contains(c.Stat, "gemini") && !strings.HasPrefix(c.Name, "stub-") {
			t.Errorf("want no cluster, got %s", c.Name)
		}
	}
}

func TestKeysGoIntoSecretsAndNowhereElse(t *testing.T) {
	t.Parallel()
	g, secrets, err := build(t, provider("openai", func(p *config.Provider) { p.APIKeyEnv = "K" }), map[string]string{"K": " sk-1\n"})
	if err != nil {
		t.Fatal(err)
	}
	if len(secrets) != 1 || secrets[0].Value != "sk-1" {
		t.Fatalf("want one trimmed secret, got %d", len(secrets))
	}
	for _, c := range g.Clusters {
		if want := c.Stat == "provider-openai" || c.Stat == "egress-openai"; (c.Credential == secrets[0].Name) != want {
			t.Errorf("cluster %s: credential %q", c.Name, c.Credential)
		}
	}
}

// TestClustersOfProvidersAreNamedByContent: a changed provider is another cluster.
func TestClustersOfProvidersAreNamedByContent(t *testing.T) {
	t.Parallel()
	names := func(g *model.Gateway) map[string]string {
		byStat := map[string]string{}
		for _, c := range g.Clusters {
			byStat[c.Stat] = c.Name
		}
		return byStat
	}
	before, _, err := build(t, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	after, _, err := build(t, provider("openai", func(p *config.Provider) { p.MaxRequests = 7 }), nil)
	if err != nil {
		t.Fatal(err)
	}
	if a, b := names(before), names(after); a["provider-openai"] == b["provider-openai"] || a["provider-gemini"] != b["provider-gemini"] {
		t.Errorf("want another name for openai alone, got %v and %v", a, b)
	}
}

func TestAModelOfTwoProvidersBelongsToTheFirst(t *testing.T) {
	t.Parallel()
	g, _, err := build(t, func(c *config.Config) {
		c.Models = []config.Model{{Name: "m", Provider: "openai"}, {Name: "m", Provider: "qwen"}}
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, r := range g.Routes {
		if r.Match.Path == "/v1/chat/completions" {
			for _, spelling := range r.Match.Models {
				got[spelling] += r.LLM.Provider
			}
		}
	}
	if len(got) != 3 || got["m"] != "openai" || got["openai/m"] != "openai" || got["qwen/m"] != "qwen" {
		t.Errorf("want m at openai and both full names, got %v", got)
	}
}

func TestNoServiceIsReachedWithoutARule(t *testing.T) {
	t.Parallel()
	g, _, err := build(t, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	public := map[string]bool{}
	for _, r := range g.Routes {
		if r.Rule == attributes.RulePublic && r.Forward != nil && !r.Match.Preflight {
			public[r.Match.Path+r.Match.Prefix] = true
		}
		if r.LLM != nil && r.Audience != "" {
			t.Errorf("route %s: a provider must not get an identity", r.Name)
		}
	}
	want := []string{"/.well-known/", "/api/v1/auth/", "/console", "/console/", "/docs", "/docs/", "/oauth2/", "/oauth2/authorize", "/oauth2/callback", "/oauth2/device", "/oauth2/end_session", "/oauth2/jwks",
		"/swagger-ui.html", "/swagger-ui/", "/v3/api-docs", "/v3/api-docs/"}
	if got := slices.Sorted(maps.Keys(public)); !slices.Equal(got, want) {
		t.Errorf("want the public paths %q, got %q", want, got)
	}
}
