package identity

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
	"github.com/leaky-tokens/leaky-tokens/internal/jwks"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/apitest"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// bench is a running identity and what a test needs around it.
type bench struct {
	*Service
	t      *testing.T
	url    string
	signer *principal.Signer
}

// settings are a valid configuration; tests change what they are about.
func settings(t *testing.T, pool *pgxpool.Pool) (Config, *principal.Signer) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer := principal.NewSigner(private)
	keys := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(signer.JWKS()) }))
	t.Cleanup(keys.Close)
	c, err := config.Parse(nil)
	if err != nil {
		t.Fatal(err)
	}
	return Config{Pool: pool, Auth: c.Auth, Tiers: c.Tiers, Secrets: t.TempDir(), KeysSecret: "a secret of this test",
		IdentityKeys: keys.URL, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()}, signer
}

// launch runs identity until the test ends.
func launch(t *testing.T, cfg Config, signer *principal.Signer) *bench {
	t.Helper()
	return launchAt(t, cfg, signer, listen(t))
}

// listen is where an identity is to be served whose configuration has the address.
func listen(t *testing.T) net.Listener {
	t.Helper()
	at, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return at
}

func launchAt(t *testing.T, cfg Config, signer *principal.Signer, at net.Listener) *bench {
	t.Helper()
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	server := httptest.NewUnstartedServer(apitest.Handler(t, httpapi.Common{Name: "identity", Log: cfg.Log, Metrics: prometheus.NewRegistry(),
		Ready: s.Ready}.Wrap(s.Handler())))
	server.Listener.Close()
	server.Listener = at
	server.Start()
	t.Cleanup(func() {
		server.Close()
		stop()
		if err := <-done; err != nil {
			t.Error("run:", err)
		}
	})
	return &bench{Service: s, t: t, url: server.URL, signer: signer}
}

func start(t *testing.T) *bench {
	t.Helper()
	cfg, signer := settings(t, testenv.Postgres(t))
	b := launch(t, cfg, signer)
	b.waitReady()
	return b
}

func (b *bench) waitReady() {
	b.t.Helper()
	testenv.Eventually(b.t, "identity ready", func() bool { return b.Ready(b.t.Context()) == nil })
}

// reply is an answer with its body both as text and as JSON.
type reply struct {
	status int
	header http.Header
	text   string
	body   map[string]any
}

// call sends JSON (or, for a string, the text as it is) as the given caller, if any.
func (b *bench) call(method, path string, body any, as *principal.Principal) reply {
	b.t.Helper()
	var payload io.Reader = http.NoBody
	switch v := body.(type) {
	case nil:
	case string:
		payload = strings.NewReader(v)
	default:
		text, err := json.Marshal(v)
		if err != nil {
			b.t.Fatal(err)
		}
		payload = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(b.t.Context(), method, b.url+path, payload)
	if err != nil {
		b.t.Fatal(err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json; charset=utf-8")
	}
	if as != nil {
		b.as(req, as)
	}
	return b.send(req)
}

// as signs who calls.
func (b *bench) as(req *http.Request, p *principal.Principal) {
	b.t.Helper()
	token, err := b.signer.Mint(*p, Audience, time.Now())
	if err != nil {
		b.t.Fatal(err)
	}
	req.Header.Set(attributes.HeaderIdentity, token)
}

func (b *bench) send(req *http.Request) reply {
	b.t.Helper()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	r := reply{status: resp.StatusCode, header: resp.Header, text: string(text)}
	_ = json.Unmarshal(text, &r.body)
	return r
}

// join registers a user and gives them as a caller.
func (b *bench) join(name string) *principal.Principal {
	b.t.Helper()
	r := b.call("POST", "/api/v1/auth/register", map[string]string{"username": name, "email": name + "@example.org",
		"password": "correct horse"}, nil)
	if r.status != http.StatusCreated {
		b.t.Fatalf("register %s: %d %s", name, r.status, r.text)
	}
	return &principal.Principal{UserID: r.body["userId"].(string), Roles: []string{principal.RoleUser}, Tier: "USER"}
}

func admin() *principal.Principal {
	return &principal.Principal{UserID: uuid.NewString(), Roles: []string{principal.RoleAdmin, principal.RoleUser}}
}

// wantProblem checks the one error shape.
func wantProblem(t *testing.T, r reply, status int, message string) {
	t.Helper()
	if r.status != status {
		t.Fatalf("want status %d, got %d: %s", status, r.status, r.text)
	}
	if got := r.header.Get("Content-Type"); got != "application/problem+json" {
		t.Errorf("content type: want application/problem+json, got %q", got)
	}
	if message != "" && r.body["message"] != message {
		t.Errorf("message: want %q, got %q", message, r.body["message"])
	}
	for _, member := range []string{"type", "title", "status", "detail", "instance", "timestamp", "path"} {
		if _, ok := r.body[member]; !ok {
			t.Errorf("problem has no %q: %s", member, r.text)
		}
	}
}

func TestRegisterAnswersWithATokenThatVerifies(t *testing.T) {
	t.Parallel()
	b := start(t)
	r := b.call("POST", "/api/v1/auth/register", map[string]string{"username": " ann ", "email": "ann@example.org",
		"password": "good horse 1"}, nil)
	if r.status != http.StatusCreated || r.body["username"] != "ann" || r.body["expiresIn"] != 3600.0 ||
		r.header.Get("Cache-Control") != "no-store" {
		t.Fatalf("want 201 with username, expiresIn and no-store, got %d %v %s", r.status, r.header, r.text)
	}
	if got := r.body["roles"].([]any); len(got) != 1 || got[0] != "USER" {
		t.Fatalf("roles: want [USER], got %v", got)
	}
	set := b.call("GET", "/oauth2/jwks", nil, nil)
	keys, err := jwks.Parse([]byte(set.text))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(set.text, `"d"`) || strings.Contains(set.text, `"p"`) {
		t.Fatal("the key set has private members")
	}
	token, err := jwt.Parse(r.body["token"].(string), func(t *jwt.Token) (any, error) { return keys[t.Header["kid"].(string)], nil },
		jwt.WithValidMethods([]string{"RS256"}), jwt.WithIssuer("leaky-tokens-auth"), jwt.WithAudience("leaky-tokens"),
		jwt.WithExpirationRequired(), jwt.WithIssuedAt())
	if err != nil {
		t.Fatal(err)
	}
	claims := token.Claims.(jwt.MapClaims)
	if token.Header["typ"] != "at+jwt" || claims["sub"] != r.body["userId"] || claims["jti"] == nil || claims["nbf"] == nil {
		t.Fatalf("header %v, claims %v", token.Header, claims)
	}
}

func TestRegisterRefusals(t *testing.T) {
	t.Parallel()
	b := start(t)
	b.join("taken")
	const all = "username, email, and password are required"
	good := map[string]any{"username": "new", "email": "new@example.org", "password": "good horse 1"}
	with := func(change map[string]any) map[string]any {
		m := map[string]any{}
		for _, from := range []map[string]any{good, change} {
			for k, v := range from {
				m[k] = v
			}
		}
		return m
	}
	for name, c := range map[string]struct {
		body    any
		status  int
		message string
		fields  []string
	}{
		"empty object":      {`{}`, 400, all, []string{"username", "email", "password"}},
		"null password":     {with(map[string]any{"password": nil}), 400, all, []string{"password"}},
		"blank username":    {with(map[string]any{"username": "  "}), 400, all, []string{"username"}},
		"same username":     {with(map[string]any{"username": "taken"}), 409, "username already exists", []string{"username"}},
		"same email":        {with(map[string]any{"email": "Taken@Example.org"}), 409, "email already exists", []string{"email"}},
		"51 characters":     {with(map[string]any{"username": strings.Repeat("a", 51)}), 400, "", []string{"username"}},
		"space in username": {with(map[string]any{"username": "a b"}), 400, "", []string{"username"}},
		"confusable":        {with(map[string]any{"username": "аnn"}), 400, "", []string{"username"}},
		"NUL in username":   {with(map[string]any{"username": "a\x00b"}), 400, "", []string{"username"}},
		"email without @":   {with(map[string]any{"email": "nobody"}), 400, "", []string{"email"}},
		"email too long":    {with(map[string]any{"email": strings.Repeat("a", 96) + "@b.cd"}), 400, "", []string{"email"}},
		"NUL in email":      {with(map[string]any{"email": "a\x00@b"}), 400, "", []string{"email"}},
		"password 7 bytes":  {with(map[string]any{"password": "1234567"}), 400, "", []string{"password"}},
		"password 73 bytes": {with(map[string]any{"password": strings.Repeat("x", 73)}), 400, "", []string{"password"}},
		"common password":   {with(map[string]any{"password": "P@ssw0rd!"}), 400, "", []string{"password"}},
		"name in password":  {with(map[string]any{"username": "gwendolin", "password": "xxGwendolinxx7"}), 400, "", []string{"password"}},
		"number as name":    {with(map[string]any{"username": 7}), 400, "username has the wrong type", []string{"username"}},
		"everything wrong":  {map[string]any{"username": "!", "email": "!", "password": "!"}, 400, "", []string{"username", "email", "password"}},
		"not JSON":          {`{"username":`, 400, "malformed JSON", nil},
		"array":             {`[]`, 400, "", nil},
		"deep":              {strings.Repeat(`{"a":`, 60) + "1" + strings.Repeat("}", 60), 400, "", nil},
		"large":             {`{"username":"` + strings.Repeat("a", 70<<10) + `"}`, 413, "", nil},
	} {
		r := b.call("POST", "/api/v1/auth/register", c.body, nil)
		t.Run(name, func(t *testing.T) {
			wantProblem(t, r, c.status, c.message)
			var got []string
			errs, _ := r.body["errors"].([]any)
			for _, e := range errs {
				got = append(got, e.(map[string]any)["field"].(string))
			}
			if !slices.Equal(got, c.fields) {
				t.Errorf("fields: want %v, got %v", c.fields, got)
			}
		})
	}
	req, _ := http.NewRequestWithContext(t.Context(), "POST", b.url+"/api/v1/auth/register", strings.NewReader("username=a"))
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	wantProblem(t, b.send(req), http.StatusUnsupportedMediaType, "")
	wantProblem(t, b.call("GET", "/api/v1/auth/register", nil, nil), http.StatusMethodNotAllowed, "")
}

func TestSimultaneousRegistrationsOfOneName(t *testing.T) {
	t.Parallel()
	b := start(t)
	count := map[int]int{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			r := b.call("POST", "/api/v1/auth/register", map[string]string{"username": "same", "email": "same@example.org",
				"password": "good horse 1"}, nil)
			mu.Lock()
			defer mu.Unlock()
			count[r.status]++
		})
	}
	wg.Wait()
	if count[http.StatusCreated] != 1 || count[http.StatusConflict] != 9 {
		t.Fatalf("want one 201 and nine 409, got %v", count)
	}
}

func TestLogin(t *testing.T) {
	t.Parallel()
	b := start(t)
	ann := b.join("ann")
	r := b.call("POST", "/api/v1/auth/login", map[string]string{"username": "ann", "password": "correct horse"}, nil)
	if r.status != http.StatusOK || r.body["userId"] != ann.UserID || r.body["token"] == "" {
		t.Fatalf("want 200 with token, got %d %s", r.status, r.text)
	}
	const wrong, required = "invalid credentials", "username and password are required"
	for name, c := range map[string]struct {
		body    any
		status  int
		message string
	}{
		"wrong password":    {map[string]string{"username": "ann", "password": "wrong horse"}, 401, wrong},
		"unknown user":      {map[string]string{"username": "bob", "password": "correct horse"}, 401, wrong},
		"other case":        {map[string]string{"username": "Ann", "password": "correct horse"}, 401, wrong},
		"impossible name":   {map[string]string{"username": "a' OR 1=1 --\x00", "password": "correct horse"}, 401, wrong},
		"no password":       {map[string]string{"username": "ann"}, 401, required},
		"nothing":           {`{}`, 401, required},
		"not JSON":          {`nope`, 400, "malformed JSON: an object is expected"},
		"60 kB of password": {map[string]string{"username": "ann", "password": strings.Repeat("x", 60<<10)}, 401, wrong},
	} {
		r := b.call("POST", "/api/v1/auth/login", c.body, nil)
		t.Run(name, func(t *testing.T) { wantProblem(t, r, c.status, c.message) })
	}
}

func TestWithoutPostgresEverythingIs503(t *testing.T) {
	t.Parallel()
	pool, err := pgxpool.New(t.Context(), "postgres://leaky@127.0.0.1:1/none?connect_timeout=1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	cfg, signer := settings(t, pool)
	b := launch(t, cfg, signer)
	for _, r := range []reply{
		b.call("POST", "/api/v1/auth/login", map[string]string{"username": "a", "password": "b"}, nil),
		b.call("GET", "/api/v1/auth/api-keys", nil, admin()),
	} {
		wantProblem(t, r, http.StatusServiceUnavailable, "")
		if r.header.Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
	}
	if r := b.call("GET", "/oauth2/jwks", nil, nil); r.status != http.StatusServiceUnavailable || r.body["error"] != "temporarily_unavailable" ||
		r.header.Get("Retry-After") == "" {
		t.Errorf("key set: %d %v %s", r.status, r.header, r.text)
	}
	if r := b.call("GET", "/readyz", nil, nil); r.status != http.StatusServiceUnavailable {
		t.Errorf("readyz: want 503, got %d", r.status)
	}
}
