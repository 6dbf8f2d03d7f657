package identity

import (
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/leaky-tokens/leaky-tokens/identity/oauth"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// form posts a form as OAuth2 clients and browsers do.
func (b *bench) form(path string, values url.Values) reply {
	b.t.Helper()
	req, err := http.NewRequestWithContext(b.t.Context(), http.MethodPost, b.url+path, strings.NewReader(values.Encode()))
	if err != nil {
		b.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return b.send(req)
}

// hiddenForm is what a page remembers.
var hiddenForm = regexp.MustCompile(`name="form" value="([^"]+)"`)

func TestOAuthPagesTakeThePasswordsOfLogins(t *testing.T) {
	t.Parallel()
	b := start(t)
	ann := b.join("ann")
	root := admin()
	wantProblem(t, b.call("GET", "/api/v1/admin/clients", nil, nil), http.StatusUnauthorized, "")
	wantProblem(t, b.call("GET", "/api/v1/admin/clients", nil, ann), http.StatusForbidden, "")
	wantProblem(t, b.call("POST", "/api/v1/admin/clients", `{"name":"tv"`, root), http.StatusBadRequest, "malformed JSON")
	if _, err := b.store.pool.Exec(t.Context(), `INSERT INTO users (id, username, email, password_hash) VALUES ($1, 'boss', 'boss@example.org', '')`, root.UserID); err != nil {
		t.Fatal(err)
	}
	made := b.call("POST", "/api/v1/admin/clients", `{"name":"tv","public":true,"grantTypes":["urn:ietf:params:oauth:grant-type:device_code"],"scopes":["openid"]}`, root)
	client, _ := made.body["clientId"].(string)
	device := b.form("/oauth2/device_authorization", url.Values{"client_id": {client}})
	user, _ := device.body["user_code"].(string)
	answer := func(password string) reply {
		page := b.form("/oauth2/device", url.Values{"user_code": {user}})
		m := hiddenForm.FindStringSubmatch(page.text)
		if m == nil {
			t.Fatalf("no form: %d %s", page.status, page.text)
		}
		return b.form("/oauth2/device", url.Values{"form": {m[1]}, "username": {"ann"}, "password": {password}, "decision": {"allow"}})
	}
	if r := answer("wrong horse"); r.status != http.StatusForbidden {
		t.Fatalf("wrong password: %d %s", r.status, r.text)
	}
	if r := answer("correct horse"); r.status != http.StatusOK || !strings.Contains(r.text, "connected") {
		t.Fatalf("%d %s", r.status, r.text)
	}
	token := b.form("/oauth2/token", url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:device_code"}, "client_id": {client},
		"device_code": {device.body["device_code"].(string)}})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, b.url+"/oauth2/userinfo", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	access, _ := token.body["access_token"].(string)
	req.Header.Set("Authorization", "Bearer "+access)
	if r := b.send(req); r.body["sub"] != ann.UserID {
		t.Fatalf("userinfo: %d %s after %s", r.status, r.text, token.text)
	}
	var trail int
	if err := b.store.pool.QueryRow(t.Context(), `SELECT count(*) FROM audit_log WHERE actor = $1 AND action IN ('client.consent', 'session.signin')`, ann.UserID).Scan(&trail); err != nil || trail < 2 {
		t.Errorf("want sign-in and consent in the audit trail, got %d, %v", trail, err)
	}
}

func TestTheDevelopmentClientIsThereInDevelopmentAlone(t *testing.T) {
	t.Parallel()
	cfg, signer := settings(t, testenv.Postgres(t))
	get := func(development bool) reply {
		c := cfg
		c.Auth.Development, c.Metrics = &development, prometheus.NewRegistry()
		b := launch(t, c, signer)
		b.waitReady()
		var file struct{ ClientID, ClientSecret string }
		text, err := os.ReadFile(filepath.Join(cfg.Secrets, oauth.DevelopmentFile))
		if err != nil || json.Unmarshal(text, &file) != nil {
			t.Fatalf("%s, %v", text, err)
		}
		return b.form("/oauth2/token", url.Values{"grant_type": {"client_credentials"}, "client_id": {file.ClientID},
			"client_secret": {file.ClientSecret}})
	}
	if r := get(true); r.status != http.StatusOK || r.body["scope"] != "tokens.read tokens.write" {
		t.Errorf("in development: %d %s", r.status, r.text)
	}
	if r := get(false); r.status != http.StatusUnauthorized || r.body["error"] != "invalid_client" {
		t.Errorf("elsewhere: %d %s", r.status, r.text)
	}
}

func TestOAuthWithoutPostgresIs503(t *testing.T) {
	t.Parallel()
	pool, err := pgxpool.New(t.Context(), "postgres://leaky@127.0.0.1:1/none?connect_timeout=1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	cfg, signer := settings(t, pool)
	b := launch(t, cfg, signer)
	r := b.form("/oauth2/token", url.Values{"grant_type": {"client_credentials"}, "client_id": {"x"}, "client_secret": {"y"}})
	if r.status != http.StatusServiceUnavailable || r.body["error"] != "temporarily_unavailable" || r.header.Get("Retry-After") == "" {
		t.Errorf("token: %d %s", r.status, r.text)
	}
	if r := b.call("GET", "/oauth2/device", nil, nil); r.status != http.StatusServiceUnavailable ||
		!strings.HasPrefix(r.header.Get("Content-Type"), "text/html") {
		t.Errorf("page: %d %s", r.status, r.text)
	}
}
