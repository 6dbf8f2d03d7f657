package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
)

const (
	fuzzed  = 4000 // requests
	workers = 4
)

// operation is one endpoint as a schema would have it: its parameters with their kinds.
type operation struct {
	method, path string            // {user}, {org}, {client} are filled in
	body         map[string]string // JSON members or form fields: kind by name
	query        map[string]string
	form         bool
	weight       int // of ten; a password is dear to check
}

func operations() []operation {
	page := map[string]string{"limit": "number", "after": "uuid"}
	return []operation{
		{"POST", "/api/v1/auth/register", map[string]string{"username": "name", "email": "email", "password": "text"}, nil, false, 2},
		{"POST", "/api/v1/auth/login", map[string]string{"username": "name", "password": "text"}, nil, false, 1},
		{"POST", "/api/v1/auth/refresh", map[string]string{"refreshToken": "token"}, nil, false, 10},
		{"POST", "/api/v1/auth/logout", map[string]string{"refreshToken": "token"}, nil, false, 10},
		{"POST", "/api/v1/auth/password", map[string]string{"current": "text", "new": "text"}, nil, false, 1},
		{"POST", keysPath, map[string]string{"userId": "uuid", "name": "text", "expiresAt": "date", "orgId": "uuid"}, nil, false, 10},
		{"GET", keysPath, nil, map[string]string{"userId": "uuid"}, false, 10},
		{"DELETE", keysPath, nil, map[string]string{"userId": "uuid", "apiKeyId": "uuid"}, false, 10},
		{"GET", "/api/v1/me", nil, map[string]string{"x": "text"}, false, 3},
		{"POST", orgsPath, map[string]string{"name": "text"}, nil, false, 10},
		{"GET", orgsPath, nil, page, false, 3},
		{"GET", orgsPath + "/{org}/members", nil, page, false, 10},
		{"POST", orgsPath + "/{org}/members", map[string]string{"userId": "uuid", "username": "name", "role": "role", "team": "text"}, nil, false, 10},
		{"PATCH", orgsPath + "/{org}", map[string]string{"name": "text"}, nil, false, 5},
		{"POST", orgsPath + "/{org}/teams", map[string]string{"name": "text"}, nil, false, 5},
		{"DELETE", orgsPath + "/{org}/teams/x", nil, nil, false, 5},
		{"DELETE", orgsPath + "/{org}/members/{user}", nil, nil, false, 10},
		{"GET", "/api/v1/admin/users", nil, map[string]string{"limit": "number", "after": "name", "q": "text", "role": "role",
			"disabled": "bool"}, false, 10},
		{"PUT", "/api/v1/admin/users/{user}/roles", map[string]string{"roles": "list"}, nil, false, 10},
		{"POST", "/api/v1/admin/users/{user}/disable", nil, nil, false, 5},
		{"POST", "/api/v1/admin/users/{user}/enable", nil, nil, false, 5},
		{"GET", "/api/v1/admin/audit", nil, map[string]string{"actor": "uuid", "action": "text", "target": "text", "since": "date",
			"until": "date", "before": "number", "limit": "number"}, false, 10},
		{"GET", "/api/v1/admin/keys", nil, page, false, 3},
		{"GET", "/api/v1/admin/clients", nil, map[string]string{"after": "name", "limit": "number"}, false, 10},
		{"POST", "/api/v1/admin/clients", map[string]string{"name": "text", "public": "bool", "redirectUris": "list", "grantTypes": "list",
			"scopes": "list", "ownerId": "uuid", "orgId": "uuid", "resourceServer": "bool"}, nil, false, 10},
		{"GET", "/api/v1/admin/clients/{client}", nil, nil, false, 10},
		{"DELETE", "/api/v1/admin/clients/{client}", nil, nil, false, 5},
		{"POST", "/api/v1/admin/clients/{client}/secret", nil, nil, false, 5},
		{"POST", "/oauth2/token", map[string]string{"grant_type": "grant", "client_id": "name", "client_secret": "token", "code": "token",
			"code_verifier": "text", "redirect_uri": "uri", "refresh_token": "token", "device_code": "token", "scope": "text"}, nil, true, 10},
		{"POST", "/oauth2/introspect", map[string]string{"token": "token", "client_id": "name", "client_secret": "token"}, nil, true, 10},
		{"POST", "/oauth2/revoke", map[string]string{"token": "token", "token_type_hint": "text", "client_id": "name"}, nil, true, 10},
		{"POST", "/oauth2/device_authorization", map[string]string{"client_id": "name", "scope": "text"}, nil, true, 10},
		{"GET", "/oauth2/authorize", nil, map[string]string{"client_id": "name", "redirect_uri": "uri", "response_type": "text",
			"scope": "text", "state": "text", "code_challenge": "token", "code_challenge_method": "text", "nonce": "text", "prompt": "text"},
			false, 10},
		{"POST", "/oauth2/authorize", map[string]string{"form": "token", "username": "name", "password": "text", "decision": "text"}, nil, true,
			5},
		{"GET", "/oauth2/device", nil, map[string]string{"user_code": "text"}, false, 5},
		{"POST", "/oauth2/device", map[string]string{"user_code": "text", "form": "token"}, nil, true, 5},
		{"GET", "/oauth2/userinfo", nil, nil, false, 3},
		{"GET", "/oauth2/jwks", nil, map[string]string{"x": "text"}, false, 1},
		{"GET", "/.well-known/openid-configuration", nil, map[string]string{"x": "text"}, false, 1},
	}
}

// gen makes inputs: mostly sound ones with something wrong, so that they get past the first check.
type gen struct {
	*rand.Rand
	user, org string
	tokens    []string
}

func (g gen) pick(from ...string) string { return from[g.IntN(len(from))] }

// odd is a text that somebody should trip over.
func (g gen) odd() string {
	switch g.IntN(6) {
	case 0:
		return g.pick("", " ", "\x00", "a\x00b", "\a", "a\nSet-Cookie: x=1", "\u202eb", "\ufeff", "аdmin", "ａｄｍｉｎ", "\u0130", "e\u0301",
			"\U0001f4a7", "null", "[]", "{}")
	case 1:
		return g.pick("x' OR 1=1; DROP TABLE users; --", `"; select pg_sleep(9); --`, "{{.}}", "${jndi:ldap://x}", "../../etc/passwd", "%s%n",
			"<script>", "%00", "a%2fb", `\`, "*", "_", "%")
	case 2:
		return g.pick("0", "-1", "1e400", "9223372036854775808", "1.5", "NaN", "-0", "0x10", "00000000-0000-0000-0000-000000000000",
			"99999-01-01T00:00:00Z", "0000-00-00T00:00:00Z", "2030-02-30T00:00:00Z", "-262144-01-01T00:00:00Z")
	case 3:
		return strings.Repeat(g.pick("a", "é", "\U0001f4a7", " ", "."), 1+g.IntN(300))
	}
	text := make([]rune, 1+g.IntN(20))
	for i := range text {
		text[i] = rune(g.IntN(0x2500))
	}
	return string(text)
}

func (g gen) sound(kind string) string {
	switch kind {
	case "name":
		return "f" + strconv.Itoa(g.IntN(1e9))
	case "email":
		return "f" + strconv.Itoa(g.IntN(1e9)) + "@example.com"
	case "uuid":
		return g.pick(g.user, g.org, uuid.NewString())
	case "number":
		return strconv.Itoa(g.IntN(2000) - 5)
	case "date":
		return time.Unix(g.Int64N(1<<34), 0).UTC().Format(time.RFC3339)
	case "role":
		return g.pick("OWNER", "MEMBER", "USER", "ADMIN", "GOLD")
	case "bool":
		return g.pick("true", "false")
	case "grant":
		return g.pick("client_credentials", "authorization_code", "refresh_token", grantDevice)
	case "token":
		return g.pick(g.tokens...)
	case "uri":
		return g.pick(callback, "http://127.0.0.1:80/cb", "https://evil.example/", "javascript:alert(1)")
	case "list":
		return g.pick("USER", "tokens.read", "client_credentials", "authorization_code", "offline_access", callback)
	}
	return g.pick("tokens.read", "code", "S256", "allow", "correct horse 9", "ordinary text")
}

func (g gen) text(kind string) string {
	if g.IntN(3) == 0 {
		return g.odd()
	}
	return g.sound(kind)
}

// value is a JSON value for a member.
func (g gen) value(kind string, depth int) any {
	switch n := g.IntN(12); {
	case n == 0:
		return nil
	case n == 1:
		return []any{1, -1.5, 1e300, int64(1) << 62, 0}[g.IntN(5)]
	case n == 2:
		return g.IntN(2) == 0
	case n == 3 && depth < 20:
		return map[string]any{g.odd(): g.value(kind, depth+1)}
	case n == 4 && depth < 20 || kind == "list" && n < 10:
		list := make([]any, g.IntN(4))
		for i := range list {
			if list[i] = g.text(kind); g.IntN(5) == 0 {
				list[i] = g.value("text", depth+1)
			}
		}
		return list
	case kind == "bool":
		return g.IntN(2) == 0
	}
	return g.text(kind)
}

// fields picks some of the members or parameters.
func (g gen) fields(of map[string]string) []string {
	var names []string
	for name := range of {
		if g.IntN(6) > 0 {
			names = append(names, name)
		}
	}
	return names
}

func (g gen) encode(of map[string]string) string {
	values := url.Values{}
	for _, name := range g.fields(of) {
		for range 1 + g.IntN(10)/9 {
			values.Add(name, g.text(of[name]))
		}
	}
	return values.Encode()
}

// damage changes a few bytes of a text, now and then.
func (g gen) damage(text string) string {
	if g.IntN(10) > 0 || text == "" {
		return text
	}
	b := []byte(text)
	switch g.IntN(3) {
	case 0:
		return text[:g.IntN(len(text))]
	case 1:
		b[g.IntN(len(b))] = byte(g.IntN(256))
		return string(b)
	}
	at := g.IntN(len(b))
	return text[:at] + g.pick("{", "}", `"`, ",", "[", "\\", "&", "=", "%") + text[at:]
}

// request makes one call of an operation.
func (g gen) request(op operation, credentials []string) (method, path, credential string, body any, header []string) {
	method, path, credential = op.method, op.path, g.pick(credentials...)
	for name, sound := range map[string]string{"{user}": g.user, "{org}": g.org, "{client}": "app-" + strconv.Itoa(g.IntN(100))} {
		if g.IntN(3) == 0 {
			sound = g.text("uuid")
		}
		path = strings.ReplaceAll(path, name, url.PathEscape(sound))
	}
	if query := g.encode(op.query); query != "" {
		path += "?" + query
	}
	switch {
	case op.form:
		body, header = g.damage(g.encode(op.body)), []string{"Content-Type", "application/x-www-form-urlencoded"}
	case op.body != nil:
		members := map[string]any{}
		for _, name := range g.fields(op.body) {
			members[name] = g.value(op.body[name], 0)
		}
		text, _ := json.Marshal(members) // of plain values: never fails
		body = g.damage(string(text))
	}
	if g.IntN(20) == 0 {
		method = g.pick("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "PROPFIND")
	}
	if g.IntN(20) == 0 {
		header = append(header, "Content-Type", g.pick("text/plain", "application/xml", "application/json; charset=utf-16", "nonsense;;", ""))
	}
	if g.IntN(20) == 0 {
		header = append(header, g.pick("Accept", "Accept-Language", "If-Match", "Range", "X-Correlation-Id", "Traceparent", "Cookie",
			"X-Forwarded-For", "Origin", "Referer", "User-Agent"), printableASCII(g.odd()))
	}
	return method, path, credential, body, header
}

// printableASCII is what a Go client sends in a header.
func printableASCII(text string) string {
	return strings.Map(func(c rune) rune {
		if c < 0x20 || c > 0x7e {
			return -1
		}
		return c
	}, text)
}

// fault says what is wrong with an answer, whatever was asked.
func fault(method, path string, a answer) string {
	switch {
	case a.status >= 500:
		return "a 5xx"
	case leak(a) != "":
		return leak(a)
	case a.header.Get("X-Content-Type-Options") != "nosniff":
		return "no security headers"
	case a.status >= 400 && method != "HEAD" && strings.HasPrefix(path, "/api/v1/"):
		return notProblem(a, 0, "")
	}
	return ""
}

// TestFuzzIdentity sends thousands of inputs, most of them wrong, to every endpoint of identity through Envoy, as
// schemathesis would: never a 5xx, always the one shape of refusals, nothing of the inside, no panic in a
// log and no secret either. LEAKY_FUZZ_SEED repeats a run.
func TestFuzzIdentity(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("LEAKY_FUZZ_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("LEAKY_FUZZ_SEED=%d", seed)
	root, victim, ann := newAccount(t, "ADMIN"), newPerson(t), newPerson(t)
	var org struct{ ID string }
	mustCall(t, 201, "POST", orgsPath, root.JWT, map[string]string{"name": "fuzzed"}, &org)
	var all []operation
	for _, op := range operations() {
		for range op.weight {
			all = append(all, op)
		}
	}
	const counted = "http_server_requests_seconds_count"
	broken := measured(t, "identity", counted, `status="500"`)
	var mu sync.Mutex
	statuses, faults := map[int]int{}, 0
	var group sync.WaitGroup
	for worker := range uint64(workers) {
		g := gen{rand.New(rand.NewPCG(seed, worker)), victim.id, org.ID, []string{victim.refresh, ann.jwt, "leaky_rt_nonsense", "a.b.c",
			strings.Repeat("v", 43)}}
		group.Go(func() {
			for range fuzzed / workers {
				op := all[g.IntN(len(all))]
				method, path, credential, body, header := g.request(op, []string{root.Key, root.Key, root.JWT, ann.jwt, ""})
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				a, err := tryRequest(ctx, method, path, credential, body, header...)
				cancel()
				why := fault(method, path, a)
				if err != nil {
					why = err.Error()
				}
				mu.Lock()
				statuses[a.status]++
				if why != "" {
					if faults++; faults <= 10 {
						t.Errorf("%s: %s %s %q %q: %d %s", why, method, path, header, fmt.Sprint(body), a.status, a.text)
					}
				}
				mu.Unlock()
			}
		})
	}
	group.Wait()
	t.Logf("%d requests: %v", fuzzed, statuses)
	if n := measured(t, "identity", counted, `status="500"`) - broken; n > 0 {
		t.Errorf("identity counts %v answers of 500", n)
	}
	for _, part := range []string{"identity", "extauthz", "extauthz-2"} {
		text, err := os.ReadFile(filepath.Join(running.Dir, "logs", part+".log"))
		if err != nil {
			t.Fatal(err)
		}
		for what, bad := range map[string]string{"a panic": "panic", "a key": root.Key, "a token": root.JWT, "a refresh token": victim.refresh,
			"a password": "correct horse 9"} {
			if strings.Contains(string(text), bad) {
				t.Errorf("the log of %s shows %s", part, what)
			}
		}
	}
}
