package identity

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/leaky-tokens/leaky-tokens/identity/grants"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/revocation"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

const refreshPath, logoutPath, passwordPath = "/api/v1/auth/refresh", "/api/v1/auth/logout", "/api/v1/auth/password"

// listening is an identity with NATS, and what it announces.
func listening(t *testing.T, changes ...func(*Config)) (*bench, *nats.Subscription) {
	t.Helper()
	cfg, signer := settings(t, testenv.Postgres(t))
	cfg.NATS = testenv.NATS(t)
	for _, change := range changes {
		change(&cfg)
	}
	b := launch(t, cfg, signer)
	b.waitReady()
	conn, err := nats.Connect(cfg.NATS)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	sub, err := conn.SubscribeSync(revocation.Subject)
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	return b, sub
}

// strict lets no repeat of a refresh token pass.
func strict(c *Config) { c.Auth.RefreshGrace = 0 }

func (b *bench) login(name, password string) reply {
	b.t.Helper()
	r := b.call("POST", "/api/v1/auth/login", map[string]string{"username": name, "password": password}, nil)
	if r.status != http.StatusOK {
		b.t.Fatalf("login: %d %s", r.status, r.text)
	}
	return r
}

func (b *bench) tryRefresh(token any) reply {
	b.t.Helper()
	return b.call("POST", refreshPath, map[string]any{"refreshToken": token}, nil)
}

func claimsOf(t *testing.T, token any) grants.Claims {
	t.Helper()
	var c grants.Claims
	if _, _, err := jwt.NewParser().ParseUnverified(token.(string), &c); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestRefreshRotatesAndReuseEndsTheLogin(t *testing.T) {
	t.Parallel()
	b, sub := listening(t, strict)
	ann := b.join("ann")
	first := b.login("ann", "correct horse")
	second := b.tryRefresh(first.body["refreshToken"])
	if second.status != http.StatusOK || second.body["refreshToken"] == first.body["refreshToken"] || second.body["userId"] != ann.UserID ||
		second.body["expiresIn"] != 3600.0 || second.header.Get("Cache-Control") != "no-store" {
		t.Fatalf("refresh: %d %s", second.status, second.text)
	}
	was, is := claimsOf(t, first.body["token"]), claimsOf(t, second.body["token"])
	if was.Family == "" || was.Family != is.Family || was.ID == is.ID || is.ClientID != "leaky" || is.Generation != 1 || is.Scope != "" {
		t.Fatalf("claims were %+v, are %+v", was, is)
	}
	const reused = "the refresh token was used before: the login has ended, log in again"
	wantProblem(t, b.tryRefresh(first.body["refreshToken"]), http.StatusUnauthorized, reused)
	if got := heard(t, sub, revocation.Family); got.ID != was.Family || !got.Until.After(is.ExpiresAt.Time) {
		t.Fatalf("want the family revoked until its last token has expired, got %+v", got)
	}
	wantProblem(t, b.tryRefresh(second.body["refreshToken"]), http.StatusUnauthorized, "invalid refresh token")
	list := b.call("GET", revocation.Path, nil, nil)
	if list.status != http.StatusOK || !strings.Contains(list.text, was.Family) {
		t.Fatalf("list: %d %s", list.status, list.text)
	}
	if r := b.login("ann", "correct horse"); r.status != http.StatusOK {
		t.Fatal("they cannot log in again")
	}
}

// Without a grace one of a thousand gets the next token, and the login ends.
func TestAThousandRefreshesOfOneToken(t *testing.T) {
	t.Parallel()
	b, _ := listening(t, strict)
	b.join("ann")
	count, next := b.thousandRefreshes(b.login("ann", "correct horse").body["refreshToken"])
	if count[http.StatusOK] != 1 || count[http.StatusUnauthorized] != 999 {
		t.Fatalf("want one 200 and 999 401, got %v", count)
	}
	for token := range next {
		wantProblem(t, b.tryRefresh(token), http.StatusUnauthorized, "invalid refresh token")
	}
	var open int
	if err := b.store.pool.QueryRow(t.Context(), `SELECT count(*) FROM token_families WHERE revoked_at IS NULL`).Scan(&open); err != nil ||
		open != 1 {
		t.Fatalf("want only the family of the registration alive, got %d, %v", open, err)
	}
}

// Within the grace all of them get the same two tokens, which are good.
func TestAThousandRefreshesWithinTheGrace(t *testing.T) {
	t.Parallel()
	b, _ := listening(t, func(c *Config) { c.Auth.RefreshGrace = time.Minute })
	b.join("ann")
	count, next := b.thousandRefreshes(b.login("ann", "correct horse").body["refreshToken"])
	if count[http.StatusOK] != 1000 || len(next) != 1 {
		t.Fatalf("want 1000 times the same successor, got %v and %d of them", count, len(next))
	}
	for token, access := range next {
		if len(access) != 1 {
			t.Errorf("want one access token, got %d", len(access))
		}
		if r := b.tryRefresh(token); r.status != http.StatusOK {
			t.Errorf("the successor: %d %s", r.status, r.text)
		}
	}
}

// thousandRefreshes counts statuses, and the access tokens by the refresh token they came with.
func (b *bench) thousandRefreshes(token any) (map[int]int, map[any]map[any]bool) {
	count := map[int]int{}
	next := map[any]map[any]bool{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	work := make(chan struct{})
	for range 50 {
		wg.Go(func() {
			for range work {
				r := b.tryRefresh(token)
				mu.Lock()
				count[r.status]++
				if r.status == http.StatusOK {
					if next[r.body["refreshToken"]] == nil {
						next[r.body["refreshToken"]] = map[any]bool{}
					}
					next[r.body["refreshToken"]][r.body["token"]] = true
				}
				mu.Unlock()
			}
		})
	}
	for range 1000 {
		work <- struct{}{}
	}
	close(work)
	wg.Wait()
	return count, next
}

func TestLogoutEndsTheFamily(t *testing.T) {
	t.Parallel()
	b, sub := listening(t)
	b.join("ann")
	r := b.login("ann", "correct horse")
	for range 2 { // the second time it is so already
		if out := b.call("POST", logoutPath, map[string]any{"refreshToken": r.body["refreshToken"]}, nil); out.status != http.StatusNoContent {
			t.Fatalf("logout: %d %s", out.status, out.text)
		}
	}
	if got := heard(t, sub, revocation.Family); got.ID != claimsOf(t, r.body["token"]).Family {
		t.Fatalf("got %+v", got)
	}
	wantProblem(t, b.tryRefresh(r.body["refreshToken"]), http.StatusUnauthorized, "invalid refresh token")
	if out := b.call("POST", logoutPath, map[string]any{"refreshToken": "leaky_rt_unknown"}, nil); out.status != http.StatusNoContent {
		t.Fatalf("logout of an unknown token: %d", out.status)
	}
	for name, body := range map[string]any{"missing": `{}`, "empty": `{"refreshToken":""}`, "null": `{"refreshToken":null}`,
		"number": `{"refreshToken":1}`} {
		for _, path := range []string{logoutPath, refreshPath} {
			wantProblem(t, b.call("POST", path, body, nil), http.StatusBadRequest, "")
			_ = name
		}
	}
}

func TestOldRefreshTokens(t *testing.T) {
	t.Parallel()
	b := start(t)
	b.join("ann")
	for name, expire := range map[string]string{
		"idle too long": `UPDATE refresh_tokens SET expires_at = now()`,
		"login too old": `UPDATE token_families SET expires_at = now()`,
	} {
		token := b.login("ann", "correct horse").body["refreshToken"]
		if _, err := b.store.pool.Exec(t.Context(), expire); err != nil {
			t.Fatal(err)
		}
		wantProblem(t, b.tryRefresh(token), http.StatusUnauthorized, "invalid refresh token")
		_ = name
	}
}

func TestPasswordChange(t *testing.T) {
	t.Parallel()
	b, sub := listening(t)
	ann := b.join("ann")
	r := b.login("ann", "correct horse")
	key := b.makeKey(ann, `{}`).body["apiKey"].(string)
	for name, c := range map[string]struct {
		body   any
		as     *principal.Principal
		status int
	}{
		"anonymous":     {map[string]string{"current": "correct horse", "new": "battery staple"}, nil, 401},
		"nothing":       {`{}`, ann, 400},
		"no new one":    {map[string]string{"current": "correct horse"}, ann, 400},
		"too short":     {map[string]string{"current": "correct horse", "new": "short"}, ann, 400},
		"common":        {map[string]string{"current": "correct horse", "new": "Password123!"}, ann, 400},
		"own name":      {map[string]string{"current": "correct horse", "new": "I am Ann 1999"}, ann, 400},
		"wrong current": {map[string]string{"current": "wrong horse", "new": "battery staple"}, ann, 400},
		"wrong type":    {`{"current":1,"new":2}`, ann, 400},
	} {
		got := b.call("POST", passwordPath, c.body, c.as)
		t.Run(name, func(t *testing.T) { wantProblem(t, got, c.status, "") })
	}
	if got := b.call("POST", passwordPath, map[string]string{"current": "correct horse", "new": "battery staple"},
		ann); got.status != http.StatusNoContent {
		t.Fatalf("change: %d %s", got.status, got.text)
	}
	if got := heard(t, sub, revocation.User); got.ID != ann.UserID || got.Generation != 2 {
		t.Fatalf("got %+v", got)
	}
	wantProblem(t, b.tryRefresh(r.body["refreshToken"]), http.StatusUnauthorized, "")
	wantProblem(t, b.call("POST", "/api/v1/auth/login", map[string]string{"username": "ann", "password": "correct horse"}, nil),
		http.StatusUnauthorized, "invalid credentials")
	if c := claimsOf(t, b.login("ann", "battery staple").body["token"]); c.Generation != 2 {
		t.Fatalf("want generation 2, got %+v", c)
	}
	if got := b.validate(key, nil); got.status != http.StatusOK || got.body["generation"] != 2.0 {
		t.Fatalf("a key outlives a change of password: %d %s", got.status, got.text)
	}
}

func TestDisabledUsers(t *testing.T) {
	t.Parallel()
	b, sub := listening(t)
	ann := b.join("ann")
	r := b.login("ann", "correct horse")
	key := b.makeKey(ann, `{}`).body["apiKey"].(string)
	path := "/api/v1/admin/users/" + ann.UserID
	wantProblem(t, b.call("POST", path+"/disable", nil, ann), http.StatusForbidden, "")
	got := b.call("POST", path+"/disable", nil, admin())
	if got.status != http.StatusOK || got.body["disabledAt"] == nil {
		t.Fatalf("disable: %d %s", got.status, got.text)
	}
	if rev := heard(t, sub, revocation.User); rev.ID != ann.UserID || rev.Generation != 2 {
		t.Fatalf("got %+v", rev)
	}
	wantProblem(t, b.call("POST", "/api/v1/auth/login", map[string]string{"username": "ann", "password": "correct horse"}, nil),
		http.StatusUnauthorized, "invalid credentials")
	wantProblem(t, b.tryRefresh(r.body["refreshToken"]), http.StatusUnauthorized, "")
	wantProblem(t, b.validate(key, nil), http.StatusUnauthorized, "invalid api key")
	if listed := b.call("GET", "/api/v1/admin/users?disabled=true", nil, admin()); !strings.Contains(listed.text, ann.UserID) {
		t.Fatalf("list: %s", listed.text)
	}
	if got := b.call("POST", path+"/enable", nil, admin()); got.status != http.StatusOK || got.body["disabledAt"] != nil {
		t.Fatalf("enable: %d %s", got.status, got.text)
	}
	b.login("ann", "correct horse")
	if v := b.validate(key, nil); v.status != http.StatusOK {
		t.Fatalf("their key: %d", v.status)
	}
	first, err := b.store.userByName(t.Context(), "admin")
	if err != nil {
		t.Fatal(err)
	}
	wantProblem(t, b.call("POST", "/api/v1/admin/users/"+first.ID.String()+"/disable", nil, admin()), http.StatusConflict,
		errLastAdmin.Error())
}

func TestGuessingHasToWait(t *testing.T) {
	t.Parallel()
	cfg, signer := settings(t, testenv.Postgres(t))
	cfg.Auth.Throttle.Failures = 3
	client, prefix := testenv.Redis(t)
	cfg.Redis, cfg.RedisPrefix = "redis://"+client.Options().Addr, prefix
	b := launch(t, cfg, signer)
	b.waitReady()
	b.join("ann")
	guess := func(name, ip string) reply {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, b.url+"/api/v1/auth/login",
			strings.NewReader(fmt.Sprintf(`{"username":%q,"password":"wrong horse"}`, name)))
		if err != nil {
			t.Fatal(err)
		}
		req.Header = http.Header{"Content-Type": {"application/json"}, "X-Forwarded-For": {ip}}
		return b.send(req)
	}
	for _, name := range []string{"ann", "nobody"} { // whether there is such a user makes no difference
		var begun time.Time
		for range 3 {
			begun = time.Now()
			wantProblem(t, guess(name, "203.0.113.1"), http.StatusUnauthorized, "invalid credentials")
		}
		// On a busy machine the bar may be over before the next guess is checked: then that guess
		// failed too, and the next bar is twice as long. Within a bar a guess is never checked.
		for bar := 1; ; bar *= 2 {
			since := begun
			begun = time.Now()
			r := guess(name, "203.0.113.1")
			if r.status == http.StatusUnauthorized && time.Since(since) >= time.Duration(bar)*time.Second {
				continue
			}
			wait, err := strconv.Atoi(r.header.Get("Retry-After"))
			if err != nil || wait < 1 || wait > bar {
				t.Fatalf("bar of %d s: %d, Retry-After %q", bar, r.status, r.header.Get("Retry-After"))
			}
			wantProblem(t, r, http.StatusTooManyRequests, fmt.Sprintf("too many attempts, try again in %d s", wait))
			break
		}
	}
}

func TestHashesAreUpgradedOnLogin(t *testing.T) {
	t.Parallel()
	b := start(t)
	b.join("ann")
	weak := must(cheap(t, 1).hash(t.Context(), "correct horse"))
	if _, err := b.store.pool.Exec(t.Context(), `UPDATE users SET password_hash = $1 WHERE username = 'ann'`, weak); err != nil {
		t.Fatal(err)
	}
	b.login("ann", "correct horse")
	u, err := b.store.userByName(t.Context(), "ann")
	if err != nil || b.passwords.outdated(u.PasswordHash) || u.Generation != 1 {
		t.Fatalf("want an upgraded hash of the same generation, got %q, %d, %v", u.PasswordHash, u.Generation, err)
	}
	b.login("ann", "correct horse")
}

func TestHeartbeat(t *testing.T) {
	t.Parallel()
	b, sub := listening(t)
	_ = sub
	conn, err := nats.Connect(b.cfg.NATS)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	beats, err := conn.SubscribeSync(revocation.SubjectHeartbeat)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := beats.NextMsg(10 * time.Second); err != nil {
			t.Fatal(err)
		}
	}
}

// What one replica issued works at another, and after a restart.
func TestRestartKeepsEverything(t *testing.T) {
	t.Parallel()
	cfg, signer := settings(t, testenv.Postgres(t))
	first := launch(t, cfg, signer)
	first.waitReady()
	ann := first.join("ann")
	session := first.login("ann", "correct horse")
	org := first.makeOrg(ann, "ours")
	key := first.makeKey(ann, map[string]string{"orgId": org}).body["apiKey"].(string)
	cfg.Metrics = prometheus.NewRegistry()
	again := launch(t, cfg, signer)
	again.waitReady()
	if r := again.tryRefresh(session.body["refreshToken"]); r.status != http.StatusOK || r.body["userId"] != ann.UserID {
		t.Fatalf("refresh: %d %s", r.status, r.text)
	}
	if _, err := again.verifies(session.body["token"].(string)); err != nil {
		t.Fatal(err)
	}
	if v := again.validate(key, nil); v.status != http.StatusOK || v.body["orgId"] != org {
		t.Fatalf("validate: %d %s", v.status, v.text)
	}
	if r := first.tryRefresh(session.body["refreshToken"]); r.status != http.StatusOK {
		t.Fatalf("a repeat at the other replica gets the same answer: %d %s", r.status, r.text)
	}
}
