package config

import (
	"strings"
	"testing"
	"time"
)

func TestAuthDefaults(t *testing.T) {
	t.Parallel()
	c, err := Parse([]byte("auth: {throttle: {failures: 9}}\n"))
	if err != nil {
		t.Fatal(err)
	}
	a := c.Auth
	if a.Throttle.Failures != 9 || a.Throttle.Addresses != 20 || a.RefreshTTL != 720*time.Hour || a.TokenTTL != time.Hour ||
		a.RotateAhead != time.Hour {
		t.Fatalf("got %+v", a)
	}
}

func TestAuthMistakes(t *testing.T) {
	t.Parallel()
	for text, key := range map[string]string{
		"issuer: \"\"": "auth.issuer", "audience: \"\"": "auth.audience", "token_ttl: 1s": "auth.token_ttl", "key_ttl: 3m": "auth.key_ttl",
		"refresh_ttl: 1s": "auth.refresh_ttl", "session_ttl: 9999h": "auth.session_ttl", "rotate_every: 1m": "auth.rotate_every",
		"rotate_ahead: 25h":  "auth.rotate_ahead",
		"offline_grace: 25h": "auth.offline_grace", "throttle: {failures: 0}": "auth.throttle.failures",
		"throttle: {addresses: 0}":  "auth.throttle.addresses",
		"throttle: {registers: -1}": "auth.throttle.registers", "throttle: {longest: 1ms}": "auth.throttle.longest",
		"throttle: {window: 1s}": "auth.throttle.window",
	} {
		if _, err := Parse([]byte("auth: {" + text + "}\n")); err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%s: want a mistake at %s, got %v", text, key, err)
		}
	}
	if _, err := Parse([]byte("auth: {rotate_every: 0s}\n")); err != nil {
		t.Errorf("0 is never: %v", err)
	}
}
