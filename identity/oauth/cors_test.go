package oauth

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/identity/migrations"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// from sends a request as a page of an origin does.
func (b *bench) from(origin, method, path string, form url.Values) reply {
	b.t.Helper()
	req := b.request(method, path, strings.NewReader(form.Encode()))
	req.Header.Set("Origin", origin)
	if method == http.MethodOptions {
		req.Header.Set("Access-Control-Request-Method", "POST")
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return b.send(req)
}

func TestPagesOfOtherOriginsReadWhatIsPublic(t *testing.T) {
	t.Parallel()
	b := start(t)
	for _, path := range []string{"/.well-known/openid-configuration", "/.well-known/oauth-authorization-server", "/oauth2/jwks"} {
		if r := b.from("https://anybody.example", "GET", path, nil); r.status != http.StatusOK || r.header.Get("Access-Control-Allow-Origin") != "*" {
			t.Errorf("%s: %d %v", path, r.status, r.header)
		}
		r := b.from("https://anybody.example", "OPTIONS", path, nil)
		if r.status != http.StatusNoContent || r.header.Get("Access-Control-Allow-Origin") != "*" || r.text != "" {
			t.Errorf("preflight of %s: %d %v", path, r.status, r.header)
		}
	}
}

func TestPagesOfClientsReadTheirTokens(t *testing.T) {
	t.Parallel()
	b := start(t)
	app := web()
	app.RedirectURIs = []string{"https://app.example/callback", "http://127.0.0.1/cb", "http://localhost:5173/cb", "https://upper.example:8443/cb"}
	b.app(app)
	for origin, known := range map[string]bool{
		"https://app.example": true, "http://127.0.0.1:8123": true, "http://127.0.0.1": true, "http://localhost:5173": true,
		"https://upper.example:8443":       true,
		"https://app.example.evil.example": false, "http://app.example": false, "https://app.example:444": false, "http://localhost:5174": true,
		"http://127.0.0.2:80": false, "null": false, "https://": false, "file://": false, "https://app.example/callback": false,
	} {
		for _, path := range []string{"/oauth2/token", "/oauth2/revoke", "/oauth2/userinfo", "/oauth2/device_authorization"} {
			asked := b.from(origin, "OPTIONS", path, nil)
			got := b.from(origin, "POST", path, url.Values{"grant_type": {"nonsense"}})
			if got.status < 400 || asked.status != http.StatusNoContent {
				t.Fatalf("%s: %d, preflight %d", path, got.status, asked.status)
			}
			want := ""
			if known {
				want = origin
			}
			if a, g := asked.header.Get("Access-Control-Allow-Origin"), got.header.Get("Access-Control-Allow-Origin"); a != want || g != want {
				t.Errorf("%s from %s: want %q, got %q and %q", path, origin, want, a, g)
			}
			if known != strings.Contains(asked.header.Get("Access-Control-Allow-Headers"), "Authorization") {
				t.Errorf("%s from %s: %v", path, origin, asked.header)
			}
			if got.header.Get("Vary") != "Origin" || got.header.Get("Access-Control-Allow-Credentials") != "" {
				t.Errorf("%s from %s: %v", path, origin, got.header)
			}
		}
	}
	for _, path := range []string{"/oauth2/introspect", "/oauth2/authorize"} {
		if r := b.from("https://app.example", "POST", path, url.Values{"a": {"b"}}); r.header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s is no page's to read: %v", path, r.header)
		}
	}
}

// TestOriginsOfClientsThatWereThereBefore: the migration finds what registration writes.
func TestOriginsOfClientsThatWereThereBefore(t *testing.T) {
	t.Parallel()
	pool := testenv.Postgres(t)
	if err := migrations.UpTo(t.Context(), pool, 11); err != nil {
		t.Fatal(err)
	}
	uris := []string{"https://app.example/callback", "https://App.example:443/x", "https://app.example:8443?x=1", "http://127.0.0.1:99/cb",
		"http://127.0.0.1/cb", "http://[::1]:7/cb", "http://localhost:5173/cb", "http://localhost:80", "com.example.app:/cb"}
	if _, err := pool.Exec(t.Context(), `INSERT INTO users (id, username, email, password_hash)
		VALUES ('11111111-1111-4111-8111-111111111111', 'ann', 'ann@example.org', '')`); err != nil {
		t.Fatal(err)
	}
	if _, err := pool.Exec(t.Context(), `INSERT INTO oauth_clients (id, name, redirect_uris, grant_types, scopes, owner_id, family)
		VALUES ('app', 'app', $1, '{}', '{}', '11111111-1111-4111-8111-111111111111', gen_random_uuid())`, uris); err != nil {
		t.Fatal(err)
	}
	if err := migrations.Up(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	var got []string
	if err := pool.QueryRow(t.Context(), `SELECT origins FROM oauth_clients`).Scan(&got); err != nil {
		t.Fatal(err)
	}
	slices.Sort(got)
	if want := slices.Sorted(slices.Values(originsOf(uris))); !slices.Equal(got, want) {
		t.Errorf("want %v, got %v", want, got)
	}
}
