package xds_test

import (
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
)

// TestPreflightsNeedNoCredential: pages that may call are told so, also in refusals, and others are not.
func TestPreflightsNeedNoCredential(t *testing.T) {
	t.Parallel()
	g := start(t, func(c *config.Config) {
		c.Gateway.CORS.Origins = []string{"https://app.example", "http://localhost:5173"}
	}, nil)
	for origin, may := range map[string]bool{"https://app.example": true, "http://localhost:5173": true, "https://app.example.evil.example": false,
		"http://app.example": false, "null": false} {
		want := ""
		if may {
			want = origin
		}
		for _, path := range []string{chatPath, genPath, "/v1/models", "/api/v1/me", "/nowhere"} {
			reached := g.back.count()
			a := g.do(t, "OPTIONS", path, "", "Authorization", "", "Origin", origin, "Access-Control-Request-Method", "POST",
				"Access-Control-Request-Headers", "authorization,x-stainless-os")
			if a.status != 200 || a.header.Get("Access-Control-Allow-Origin") != want || a.header.Get("Access-Control-Allow-Credentials") != "" ||
				may && a.header.Get("Access-Control-Allow-Headers") != "authorization, *" || g.back.count() != reached {
				t.Errorf("preflight of %s from %s: got %d %v", path, origin, a.status, a.header)
			}
			a = g.do(t, "GET", path, "", "Authorization", "", "Origin", origin)
			if a.status != 401 || a.header.Get("Access-Control-Allow-Origin") != want {
				t.Errorf("%s from %s: want a refusal that the page may read: %v, got %d %v", path, origin, may, a.status, a.header)
			}
		}
		if a := g.do(t, "POST", chatPath, body(""), "Origin", origin); a.status != 200 || a.header.Get("Access-Control-Allow-Origin") != want {
			t.Errorf("a call from %s: got %d %v", origin, a.status, a.header)
		}
		for _, path := range []string{"/oauth2/token", "/.well-known/openid-configuration", "/oauth2/authorize"} {
			a := g.do(t, "OPTIONS", path, "", "Authorization", "", "Origin", origin, "Access-Control-Request-Method", "POST")
			if g.back.last(t).method != "OPTIONS" || a.header.Get("Access-Control-Allow-Origin") != "" {
				t.Errorf("%s is identity's to answer, got %d %v", path, a.status, a.header)
			}
		}
	}
}

func TestCORSIsOffByDefaultAndOpenByAStar(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		origins []string
		want    string
	}{"off": {nil, ""}, "every origin": {[]string{"*"}, "https://any.example"}} {
		g := start(t, func(cfg *config.Config) { cfg.Gateway.CORS.Origins = c.origins }, nil)
		a := g.do(t, "OPTIONS", chatPath, "", "Authorization", "", "Origin", "https://any.example", "Access-Control-Request-Method", "POST")
		if a.status != 200 || a.header.Get("Access-Control-Allow-Origin") != c.want {
			t.Errorf("%s: got %d %v", name, a.status, a.header)
		}
	}
}
