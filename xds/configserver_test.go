package xds_test

import (
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/apitest"
)

// TestTheConfigServerShowsWhatIsLive as Spring Cloud Config's clients read it, and no secret.
func TestTheConfigServerShowsWhatIsLive(t *testing.T) {
	t.Parallel()
	const secret = "hunter-2"
	g := start(t, func(c *config.Config) {
		c.Stores.Postgres = "postgres://leaky:" + secret + "@db.example:5432/leaky?password=" + secret
		c.Stores.Redis = "::not a URL:" + secret
		c.Gateway.RequestHeaders = 77
	}, nil)
	handler := apitest.Handler(t, g.xds.Handler())
	for path, c := range map[string]struct {
		status int
		want   []string
	}{
		"/token-service/default":          {200, []string{`"name":"token-service"`, `"profiles":["default"]`, `"label":null`, `"gateway.max_request_headers":77`, `"stores.postgres":"postgres://db.example:5432/leaky"`}},
		"/application/dev,test/main":      {200, []string{`"profiles":["dev","test"]`, `"label":"main"`, `"models[0].name":`}},
		"/api-gateway-default.yml":        {200, []string{"max_request_headers: 77"}},
		"/envoy-production.properties":    {200, []string{"gateway.max_request_headers: 77\n", "providers.openai.protocol: openai\n", "gateway.rate_limit.whitelist[0]: /actuator/**\n"}},
		"/nobody/default":                 {404, []string{"no such application"}},
		"/api-gateway.yml":                {404, nil},
		"/token-service-default.yaml.txt": {404, nil},
		"/v1/config":                      {200, []string{`"versions"`}},
	} {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		if w.Code != c.status {
			t.Errorf("%s: want %d, got %d %s", path, c.status, w.Code, w.Body)
		}
		for _, want := range c.want {
			if !strings.Contains(w.Body.String(), want) {
				t.Errorf("%s: want %s, got %.2000s", path, want, w.Body)
			}
		}
		if strings.Contains(w.Body.String(), secret) {
			t.Errorf("%s shows a password", path)
		}
		if strings.HasSuffix(path, ".yml") && w.Code == 200 {
			var tree map[string]any
			if err := yaml.Unmarshal(w.Body.Bytes(), &tree); err != nil || tree["gateway"] == nil {
				t.Errorf("%s: want YAML, got %v", path, err)
			}
		}
	}
}
