package identity

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// endpoints are all that identity serves to callers, with the members that their bodies have.
func endpoints(user, org string) []struct {
	method, path string
	members      []string
} {
	return []struct {
		method, path string
		members      []string
	}{
		{"POST", "/api/v1/auth/register", []string{"username", "email", "password"}},
		{"POST", "/api/v1/auth/login", []string{"username", "password"}},
		{"POST", refreshPath, []string{"refreshToken"}},
		{"POST", logoutPath, []string{"refreshToken"}},
		{"POST", passwordPath, []string{"current", "new"}},
		{"POST", keysPath, []string{"userId", "name", "expiresAt", "orgId"}},
		{"GET", keysPath, nil},
		{"DELETE", keysPath, nil},
		{"GET", "/api/v1/me", nil},
		{"POST", orgsPath, []string{"name"}},
		{"GET", orgsPath, nil},
		{"GET", orgsPath + "/" + org + "/members", nil},
		{"POST", orgsPath + "/" + org + "/members", []string{"userId", "role", "team"}},
		{"DELETE", orgsPath + "/" + org + "/members/" + user, nil},
		{"GET", "/api/v1/admin/users", nil},
		{"PUT", "/api/v1/admin/users/" + user + "/roles", []string{"roles"}},
		{"POST", "/api/v1/admin/users/" + uuid.NewString() + "/disable", nil},
		{"POST", "/api/v1/admin/users/" + uuid.NewString() + "/enable", nil},
		{"GET", "/api/v1/admin/audit", nil},
		{"GET", "/api/v1/admin/keys", nil},
	}
}

// values are JSON values that a member must survive.
func values() map[string]string {
	return map[string]string{
		"null": `null`, "empty": `""`, "blank": `"  "`, "number": `1`, "huge number": `1e400`, "negative": `-1`, "bool": `true`, "object": `{}`,
		"array": `[]`,
		"NUL":   `"a\u0000b"`, "control": `"a\u0007b"`, "newline": `"a\nSet-Cookie: x=1"`, "direction": `"a\u202eb"`, "lone surrogate": `"\ud800"`,
		"confusable": `"аdmin"`, "full width": `"ａｄｍｉｎ"`, "long": `"` + strings.Repeat("a", 40000) + `"`,
		"SQL":      `"x' OR 1=1; DROP TABLE users; --"`,
		"template": `"{{.}}${jndi:ldap://x}"`, "path": `"../../etc/passwd"`, "uuid in braces": `"{` + uuid.NewString() + `}"`,
		"date": `"9999-12-31T23:59:59Z"`, "far date": `"99999-01-01T00:00:00Z"`,
	}
}

// Whatever comes, the answer is a clear one and never a 5xx.
func TestHostileBodies(t *testing.T) {
	t.Parallel()
	cfg, signer := settings(t, testenv.Postgres(t))
	cfg.Auth.Throttle.Failures, cfg.Auth.Throttle.Addresses, cfg.Auth.Throttle.Registers = 1000, 100_000, 100_000
	b := launch(t, cfg, signer)
	b.waitReady()
	b.passwords.cost = params{memory: 64, time: 1, threads: 1}
	ann := b.join("ann")
	org := b.makeOrg(ann, "ours")
	boss := &principal.Principal{UserID: ann.UserID, Roles: []string{"ADMIN", "USER"}}
	for _, e := range endpoints(ann.UserID, org) {
		if e.members == nil {
			continue
		}
		bodies := map[string]string{
			"nothing": ``, "array": `[]`, "string": `"x"`, "null": `null`, "cut": `{"` + e.members[0] + `":`, "two": `{}{}`, "comment": `{/**/}`,
			"not UTF-8": "{\"a\":\"\xff\"}",
			"deep":      strings.Repeat(`{"a":`, 5000) + "1" + strings.Repeat("}", 5000), "deep arrays": `{"` + e.members[0] + `":` +
				strings.Repeat("[", 30000),
			"large": `{"a":"` + strings.Repeat("a", 70<<10) + `"}`, "many members": "{" + strings.Repeat(`"a":1,`, 9000) + `"a":1}`,
		}
		for _, member := range e.members {
			for name, value := range values() {
				bodies[member+" "+name] = fmt.Sprintf(`{%q:%s}`, member, value)
			}
		}
		twice := fmt.Sprintf(`{%q:"a",%q:"b"}`, e.members[0], e.members[0])
		if r := b.call(e.method, e.path, twice, boss); r.status != http.StatusBadRequest {
			t.Errorf("%s %s, %s: want 400, got %d", e.method, e.path, twice, r.status)
		}
		for name, body := range bodies {
			r := b.call(e.method, e.path, body, boss)
			if r.status >= 500 || strings.Contains(r.text, "SQLSTATE") || strings.Contains(r.text, "goroutine") {
				t.Errorf("%s %s, %s: %d %s", e.method, e.path, name, r.status, r.text)
			}
			if r.status >= 400 && r.header.Get("Content-Type") != "application/problem+json" {
				t.Errorf("%s %s, %s: content type %q", e.method, e.path, name, r.header.Get("Content-Type"))
			}
		}
		for _, media := range []string{"", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data",
			"application/json, text/plain", "nonsense;;"} {
			req, err := http.NewRequestWithContext(t.Context(), e.method, b.url+e.path, strings.NewReader(`{"username":"a"}`))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Content-Type", media)
			b.as(req, boss)
			if r := b.send(req); r.status != http.StatusUnsupportedMediaType {
				t.Errorf("%s %s as %q: want 415, got %d", e.method, e.path, media, r.status)
			}
		}
	}
}

func TestHostileQueriesAndPaths(t *testing.T) {
	t.Parallel()
	b := start(t)
	ann := b.join("ann")
	org := b.makeOrg(ann, "ours")
	boss := &principal.Principal{UserID: ann.UserID, Roles: []string{"ADMIN", "USER"}}
	texts := []string{"", "\x00", "a\x00", "%", "%00", "'", strings.Repeat("a", 5000), "-1", "9223372036854775808", "1e9", "\u202e",
		"\xff\xfe", "../..", "null", "[]"}
	for _, e := range endpoints(ann.UserID, org) {
		if e.method != http.MethodGet && e.method != http.MethodDelete {
			continue
		}
		for _, name := range []string{"userId", "apiKeyId", "after", "limit", "q", "role", "disabled", "actor", "action", "target", "since",
			"until", "before"} {
			for _, text := range texts {
				query := url.Values{name: {text}}
				if r := b.call(e.method, e.path+"?"+query.Encode(), nil, boss); r.status >= 500 {
					t.Errorf("%s %s?%s: %d %s", e.method, e.path, query.Encode(), r.status, r.text)
				}
			}
		}
	}
	for _, text := range texts {
		for _, path := range []string{orgsPath + "/" + url.PathEscape(text) + "/members", "/api/v1/admin/users/" + url.PathEscape(text) +
			"/roles"} {
			for _, method := range []string{"GET", "PUT", "DELETE", "TRACE", "PROPFIND"} {
				if r := b.call(method, path, nil, boss); r.status >= 500 || r.status < 300 {
					t.Errorf("%s %s: %d", method, path, r.status)
				}
			}
		}
	}
}

// Nothing but the anonymous endpoints answers a caller without a signed identity, also on
// identity's own port.
func TestNothingWithoutAnIdentity(t *testing.T) {
	t.Parallel()
	b := start(t)
	ann := b.join("ann")
	org := b.makeOrg(ann, "ours")
	open := map[string]bool{"/api/v1/auth/register": true, "/api/v1/auth/login": true, refreshPath: true, logoutPath: true}
	for _, e := range endpoints(ann.UserID, org) {
		if open[e.path] {
			continue
		}
		r := b.call(e.method, e.path, `{}`, nil)
		if r.status != http.StatusUnauthorized || r.header.Get("Www-Authenticate") != "Bearer" {
			t.Errorf("%s %s: want 401 with a challenge, got %d", e.method, e.path, r.status)
		}
	}
	for _, header := range []string{"X-Forwarded-For", "X-Envoy-External-Address", "X-Leaky-Identity"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, b.url+"/internal/revocations", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set(header, "192.0.2.1")
		if r := b.send(req); r.status != http.StatusNotFound {
			t.Errorf("revocations with %s: want 404, got %d", header, r.status)
		}
	}
}
