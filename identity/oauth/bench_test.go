package oauth

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/database"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/leaky-tokens/leaky-tokens/identity/clientinfo"
	"github.com/leaky-tokens/leaky-tokens/identity/grants"
	"github.com/leaky-tokens/leaky-tokens/identity/keyring"
	"github.com/leaky-tokens/leaky-tokens/identity/throttle"
	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/revocation"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/apitest"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

const password = "correct horse"

// bench is a running provider on an empty database, its users, and what it announced.
type bench struct {
	server *httptest.Server
	*Provider
	t    *testing.T
	pool *pgxpool.Pool
	url  string

	mu        sync.Mutex
	announced []revocation.Revocation
}

// Announce remembers what would go to every extauthz.
func (b *bench) Announce(all ...revocation.Revocation) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.announced = append(b.announced, all...)
}

func (b *bench) told(kind revocation.Kind, id string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range b.announced {
		if r.Kind == kind && r.ID == id {
			return true
		}
	}
	return false
}

func migrate(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	db := stdlib.OpenDBFromPool(pool)
	defer db.Close()
	files, err := goose.NewProvider(database.DialectPostgres, db, os.DirFS("../migrations"), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := files.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// start runs a provider whose issuer is its own address.
func start(t *testing.T) *bench {
	t.Helper()
	return startWith(t, func(*Config) {})
}

// startWith is start with a changed configuration.
func startWith(t *testing.T, change func(*Config)) *bench {
	t.Helper()
	pool := testenv.Postgres(t)
	migrate(t, pool)
	sealer, err := keyring.NewSealer("a secret of this test", t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	ring := keyring.New(keyring.Config{Pool: pool, Sealer: sealer, Life: time.Hour})
	if err := ring.Ensure(t.Context()); err != nil {
		t.Fatal(err)
	}
	key := make([]byte, 32)
	rand.Read(key)
	server := httptest.NewUnstartedServer(nil)
	b := &bench{t: t, pool: pool, server: server}
	b.url = "http://" + server.Listener.Addr().String()
	cfg := Config{Pool: pool, Issuer: b.url, Login: "leaky-tokens-auth", Interval: time.Second, FormKey: key,
		SignIn: b.signInWith,
		Throttle: throttle.New(throttle.Config{Settings: config.Throttle{Failures: 5, Addresses: 1000, Registers: 100, Longest: time.Minute,
			Window: time.Minute}, Log: slog.New(slog.DiscardHandler)}),
		Grants: grants.New(grants.Config{Pool: pool, Announcer: b, TokenTTL: time.Hour, Idle: time.Hour, Longest: 24 * time.Hour}),
		Tokens: &grants.Tokens{DB: pool, Signer: ring, Issuer: b.url, Audience: "leaky-tokens", TTL: time.Hour},
		Keys:   ring, Announce: b.Announce, Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Metrics: prometheus.NewRegistry()}
	change(&cfg)
	b.Provider, err = New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	mux := &httpapi.Mux{Unmatched: b.Unmatched}
	b.Routes(func(pattern string, h http.Handler) { mux.Handle(pattern, clientinfo.Handler(h)) })
	b.AdminRoutes(func(pattern string, h AdminFunc) {
		mux.Handle(pattern, httpapi.Handle(b.log, func(w http.ResponseWriter, r *http.Request) error {
			id := r.Header.Get("X-Test-Admin")
			p := principal.Principal{UserID: id, Roles: []string{principal.RoleAdmin}}
			return h(w, r.WithContext(principal.With(r.Context(), p)), p)
		}))
	})
	server.Config.Handler = apitest.Handler(t, httpapi.Common{Name: "identity", Log: b.log, Metrics: prometheus.NewRegistry()}.Wrap(mux))
	server.Start()
	t.Cleanup(server.Close)
	return b
}

// signInWith stands for identity's check of passwords, which has its own tests.
func (b *bench) signInWith(ctx context.Context, name, given string) (uuid.UUID, error) {
	if name == "busy" {
		return uuid.UUID{}, &httpapi.Error{Status: http.StatusServiceUnavailable, Header: http.Header{"Retry-After": {"1"}}}
	}
	if name == "throttled" {
		return uuid.UUID{}, &httpapi.Error{Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"7"}}}
	}
	var id uuid.UUID
	err := b.pool.QueryRow(ctx, `SELECT id FROM users WHERE username = $1 AND password_hash = $2`, name, given).Scan(&id)
	if err != nil {
		return id, httpapi.Fail(http.StatusUnauthorized, "invalid credentials")
	}
	return id, nil
}

// user adds a user with roles, whose password is the constant.
func (b *bench) user(name string, roles ...string) uuid.UUID {
	b.t.Helper()
	id := uuid.New()
	if _, err := b.pool.Exec(b.t.Context(), `INSERT INTO users (id, username, email, password_hash) VALUES ($1, $2, $3, $4)`, id, name,
		name+"@example.org", password); err != nil {
		b.t.Fatal(err)
	}
	if _, err := b.pool.Exec(b.t.Context(), `INSERT INTO user_roles (user_id, role_id) SELECT $1, id FROM roles WHERE name = ANY($2)`, id,
		append(roles, "USER")); err != nil {
		b.t.Fatal(err)
	}
	return id
}

// made is a registered client.
type made struct {
	ID     string `json:"clientId"`
	Secret string `json:"clientSecret"`
}

// app registers a client by the API, as an administrator does.
func (b *bench) app(n registration) made {
	b.t.Helper()
	admin := b.user("admin-"+strings.ToLower(rand.Text()[:8]), "ADMIN")
	r := b.api("POST", "/api/v1/admin/clients", n, admin)
	if r.status != http.StatusCreated {
		b.t.Fatalf("register client: %d %s", r.status, r.text)
	}
	var m made
	if err := json.Unmarshal([]byte(r.text), &m); err != nil {
		b.t.Fatal(err)
	}
	return m
}

func (b *bench) api(method, path string, body any, admin uuid.UUID) reply {
	b.t.Helper()
	var payload io.Reader = http.NoBody
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			b.t.Fatal(err)
		}
		payload = strings.NewReader(string(text))
	}
	req := b.request(method, path, payload)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Test-Admin", admin.String())
	return b.send(req)
}

const callback = "https://app.example/callback"

// web is a client for the usual code flow.
func web() registration {
	return registration{Name: "Web <app> & co", RedirectURIs: []string{callback, "http://127.0.0.1/cb"}, GrantTypes: []string{grantCode,
		grantRefresh, grantDevice},
		Scopes: []string{"openid", "profile", "email", "tokens.read", "tokens.write", "admin", "offline_access"}}
}

// reply is an answer.
type reply struct {
	status int
	header http.Header
	text   string
	body   map[string]any
	basic  bool // the request had an Authorization header
}

func (b *bench) request(method, path string, body io.Reader) *http.Request {
	b.t.Helper()
	if !strings.HasPrefix(path, "http") {
		path = b.url + path
	}
	req, err := http.NewRequestWithContext(b.t.Context(), method, path, body)
	if err != nil {
		b.t.Fatal(err)
	}
	return req
}

// send follows no redirect: where the user goes is what tests are about.
func (b *bench) send(req *http.Request) reply {
	b.t.Helper()
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	r := reply{status: resp.StatusCode, header: resp.Header, text: string(text), basic: strings.HasPrefix(req.URL.Path, "/oauth2/") && req.URL.Path != "/oauth2/userinfo" && req.Header.Get("Authorization") != ""}
	_ = json.Unmarshal(text, &r.body)
	if len(resp.Header.Values("Set-Cookie")) > 0 {
		b.t.Errorf("%s sets a cookie", req.URL.Path)
	}
	if r.status >= 500 && r.status != http.StatusServiceUnavailable {
		b.t.Errorf("%s %s: %d %s", req.Method, req.URL, r.status, r.text)
	}
	return r
}

func (b *bench) get(path string, query url.Values) reply {
	b.t.Helper()
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	return b.send(b.request("GET", path, http.NoBody))
}

// post sends a form, which may be the encoded text itself.
func (b *bench) post(path string, form any, change ...func(*http.Request)) reply {
	b.t.Helper()
	text, ok := form.(string)
	if !ok {
		text = form.(url.Values).Encode()
	}
	req := b.request("POST", path, strings.NewReader(text))
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for _, f := range change {
		f(req)
	}
	r := b.send(req)
	if to := r.header.Get("Location"); r.status == http.StatusSeeOther && strings.HasPrefix(to, "/oauth2/") {
		return b.send(b.request("GET", to, http.NoBody)) // a page of ours answers the form
	}
	return r
}

var hidden = regexp.MustCompile(`name="form" value="([^"]+)"`)

func sealedIn(t *testing.T, r reply) string {
	t.Helper()
	m := hidden.FindStringSubmatch(r.text)
	if m == nil {
		t.Fatalf("no form in the page: %d %s", r.status, r.text)
	}
	return m[1]
}

// allow signs in on the page of an authorization request and gives where it leads.
func (b *bench) allow(authorize, user string) url.Values {
	b.t.Helper()
	page := b.send(b.request("GET", authorize, http.NoBody))
	if page.status != http.StatusOK {
		b.t.Fatalf("authorize: %d %s %s", page.status, page.header.Get("Location"), page.text)
	}
	r := b.post("/oauth2/authorize", url.Values{"form": {sealedIn(b.t, page)}, "username": {user}, "password": {password},
		"decision": {"allow"}})
	return b.landed(r)
}

// landed are the parameters that the client gets by way of the browser.
func (b *bench) landed(r reply) url.Values {
	b.t.Helper()
	to, err := url.Parse(r.header.Get("Location"))
	if err != nil || r.status != http.StatusSeeOther {
		b.t.Fatalf("want a redirect, got %d %q: %s", r.status, r.header.Get("Location"), r.text)
	}
	if q := to.Query(); q.Get("iss") != b.url {
		b.t.Errorf("iss: want %s, got %v", b.url, q)
	}
	return to.Query()
}

// wantError checks an answer of RFC 6749 section 5.2.
func wantError(t *testing.T, r reply, status int, code string) {
	t.Helper()
	if r.status != status || r.body["error"] != code {
		t.Errorf("want %d %s, got %d %s", status, code, r.status, r.text)
	}
	if r.header.Get("Cache-Control") != "no-store" || r.header.Get("Content-Type") != "application/json" {
		t.Errorf("want uncached JSON, got %v", r.header)
	}
	challenge := r.header.Get("WWW-Authenticate")
	if r.status != http.StatusUnauthorized && challenge != "" || strings.HasPrefix(challenge, "Basic") != r.basic && r.status == 401 {
		t.Errorf("status %d with WWW-Authenticate %q; Basic was sent: %v", r.status, challenge, r.basic)
	}
}
