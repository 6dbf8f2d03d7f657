package config

import "testing"

func TestOAuthDefaultsFollowTheListeners(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		text        string
		url         string
		development bool
	}{
		"built-in":          {"", "http://127.0.0.1:8080", true},
		"other port":        {"gateway: {listen: '127.0.0.1:9000'}", "http://127.0.0.1:9000", true},
		"open to all":       {"gateway: {listen: '0.0.0.0:80'}", "http://127.0.0.1:80", false},
		"open to all, IPv6": {"gateway: {listen: '[::]:80'}", "http://127.0.0.1:80", false},
		"open, stated": {"gateway: {listen: '0.0.0.0:80'}\nauth: {public_url: 'https://tokens.example', development: true}",
			"https://tokens.example", true},
		"a service is open":  {"services: {meter: {http: '10.0.0.1:8086'}}", "http://127.0.0.1:8080", false},
		"not in development": {"auth: {development: false}", "http://127.0.0.1:8080", false},
	} {
		cfg, err := Parse([]byte(c.text))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if cfg.Auth.PublicURL != c.url || *cfg.Auth.Development != c.development {
			t.Errorf("%s: want %s, development %t, got %s, %t", name, c.url, c.development, cfg.Auth.PublicURL, *cfg.Auth.Development)
		}
	}
	for _, bad := range []string{"ftp://a", "http://", "https://a/path", "https://a/", "https://u@a", "https://a?b", "https://a#", "a"} {
		if _, err := Parse([]byte("auth: {public_url: '" + bad + "'}")); err == nil {
			t.Errorf("public_url %q was taken", bad)
		}
	}
}
