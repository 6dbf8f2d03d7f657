package oauth

import (
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/revocation"
)

func TestManagingClients(t *testing.T) {
	t.Parallel()
	b := start(t)
	root := b.user("root", "ADMIN")
	r := b.api("POST", "/api/v1/admin/clients", registration{Name: "job", GrantTypes: []string{grantClient},
		Scopes: []string{"tokens.read"}}, root)
	if r.status != http.StatusCreated || r.header.Get("Cache-Control") != "no-store" || len(r.body["clientSecret"].(string)) != 43 {
		t.Fatalf("%d %v %s", r.status, r.header, r.text)
	}
	id, secret := r.body["clientId"].(string), r.body["clientSecret"].(string)
	path := "/api/v1/admin/clients/" + id
	if r.header.Get("Location") != path {
		t.Errorf("location %q", r.header.Get("Location"))
	}
	for _, r := range []reply{b.api("GET", path, nil, root), b.api("GET", "/api/v1/admin/clients", nil, root)} {
		if r.status != http.StatusOK || !strings.Contains(r.text, id) || strings.Contains(r.text, "clientSecret") || strings.Contains(r.text,
			secret) {
			t.Errorf("%d %s", r.status, r.text)
		}
	}
	var stored string
	if err := b.pool.QueryRow(t.Context(), `SELECT c::text FROM oauth_clients c WHERE id = $1`, id).Scan(&stored); err != nil ||
		strings.Contains(stored, secret) {
		t.Errorf("the secret is stored: %v", err)
	}
	get := func(secret string) reply {
		return b.post("/oauth2/token", url.Values{"grant_type": {"client_credentials"}, "client_id": {id}, "client_secret": {secret}})
	}
	access, _ := get(secret).body["access_token"].(string)
	claims, err := b.read(access)
	if err != nil {
		t.Fatal(err)
	}
	rotated := b.api("POST", path+"/secret", nil, root)
	fresh, _ := rotated.body["clientSecret"].(string)
	if rotated.status != http.StatusOK || fresh == secret || !b.told(revocation.Family, claims.Family) {
		t.Fatalf("%d %s", rotated.status, rotated.text)
	}
	wantError(t, get(secret), 401, "invalid_client")
	again := get(fresh)
	if again.status != http.StatusOK || b.introspectAs(made{id, fresh}, access).body["active"] != false {
		t.Error("want the old secret's tokens dead and the new secret good")
	}
	if r := b.api("DELETE", path, nil, root); r.status != http.StatusNoContent {
		t.Errorf("delete: %d %s", r.status, r.text)
	}
	wantError(t, get(fresh), 401, "invalid_client")
	claims, _ = b.read(again.body["access_token"].(string))
	if !b.told(revocation.Family, claims.Family) {
		t.Error("the tokens of a deleted client were not announced")
	}
	for _, r := range []reply{b.api("GET", path, nil, root), b.api("DELETE", path, nil, root), b.api("POST", path+"/secret", nil, root),
		b.api("GET", "/api/v1/admin/clients/%00", nil, root), b.api("DELETE", "/api/v1/admin/clients/%27", nil, root)} {
		if r.status != http.StatusNotFound {
			t.Errorf("of a client that is not there: %d %s", r.status, r.text)
		}
	}
	var actions []string
	rows, err := b.pool.Query(t.Context(), `SELECT action FROM audit_log WHERE target = $1 AND actor = $2 ORDER BY id`, id, root.String())
	if err != nil {
		t.Fatal(err)
	}
	for rows.Next() {
		var a string
		if err := rows.Scan(&a); err != nil {
			t.Fatal(err)
		}
		actions = append(actions, a)
	}
	if !slices.Equal(actions, []string{"client.create", "client.secret", "client.delete"}) {
		t.Errorf("audit trail: %v", actions)
	}
}

func TestDeletingAClientEndsItsGrants(t *testing.T) {
	t.Parallel()
	b := start(t)
	b.user("ann")
	m := b.app(web())
	token := b.login(b.config(m, "tokens.read", "offline_access"), "ann")
	claims, err := b.read(token.AccessToken)
	if err != nil {
		t.Fatal(err)
	}
	if r := b.api("DELETE", "/api/v1/admin/clients/"+m.ID, nil, b.user("root", "ADMIN")); r.status != http.StatusNoContent {
		t.Fatalf("%d %s", r.status, r.text)
	}
	if !b.told(revocation.Family, claims.Family) {
		t.Error("not announced")
	}
}

func TestRegistrationRefusals(t *testing.T) {
	t.Parallel()
	b := start(t)
	root := b.user("root", "ADMIN")
	for name, c := range map[string]struct {
		change func(*registration)
		field  string
	}{
		"no name":                 {func(n *registration) { n.Name = " " }, "name"},
		"long name":               {func(n *registration) { n.Name = strings.Repeat("é", 101) }, "name"},
		"NUL in the name":         {func(n *registration) { n.Name = "a\x00" }, "name"},
		"no grant":                {func(n *registration) { n.GrantTypes = nil }, "grantTypes"},
		"unknown grant":           {func(n *registration) { n.GrantTypes = append(n.GrantTypes, "implicit") }, "grantTypes"},
		"grant twice":             {func(n *registration) { n.GrantTypes = append(n.GrantTypes, grantCode) }, "grantTypes"},
		"refresh alone":           {func(n *registration) { n.GrantTypes, n.RedirectURIs = []string{grantRefresh}, nil }, "grantTypes"},
		"public with credentials": {func(n *registration) { n.Public, n.GrantTypes = true, append(n.GrantTypes, grantClient) }, "grantTypes"},
		"no scope":                {func(n *registration) { n.Scopes = nil }, "scopes"},
		"unknown scope":           {func(n *registration) { n.Scopes = []string{"all"} }, "scopes"},
		"offline without refresh": {func(n *registration) { n.GrantTypes = []string{grantCode} }, "scopes"},
		"no redirect":             {func(n *registration) { n.RedirectURIs = nil }, "redirectUris"},
		"redirect without code":   {func(n *registration) { n.GrantTypes = []string{grantDevice, grantRefresh} }, "redirectUris"},
		"http redirect":           {func(n *registration) { n.RedirectURIs = []string{"http://app.example/cb"} }, "redirectUris[0]"},
		"script":                  {func(n *registration) { n.RedirectURIs = append(n.RedirectURIs, "javascript:alert(1)") }, "redirectUris[2]"},
		"many redirects": {func(n *registration) { n.RedirectURIs = slices.Repeat([]string{"https://a.example/"}, 21) },
			"redirectUris"},
		"public resource server":   {func(n *registration) { n.Public, n.ResourceServer = true, true }, "resourceServer"},
		"malformed owner":          {func(n *registration) { n.OwnerID = "me" }, "ownerId"},
		"unknown owner":            {func(n *registration) { n.OwnerID = uuid.NewString() }, "ownerId"},
		"malformed organisation":   {func(n *registration) { n.OrgID = "us" }, "orgId"},
		"a foreign organisation":   {func(n *registration) { n.OrgID = uuid.NewString() }, "orgId"},
		"scope with another shape": {func(n *registration) { n.Scopes = []string{"openid email"} }, "scopes"},
	} {
		n := web()
		c.change(&n)
		r := b.api("POST", "/api/v1/admin/clients", n, root)
		errs, _ := r.body["errors"].([]any)
		if r.status != http.StatusBadRequest || len(errs) == 0 || errs[0].(map[string]any)["field"] != c.field {
			t.Errorf("%s: want 400 about %s, got %d %s", name, c.field, r.status, r.text)
		}
	}
	for name, query := range map[string]string{"limit": "?limit=0", "letters": "?limit=x", "after": "?after=%00"} {
		if r := b.api("GET", "/api/v1/admin/clients"+query, nil, root); r.status != http.StatusBadRequest {
			t.Errorf("%s: %d", name, r.status)
		}
	}
	var clients int
	if err := b.pool.QueryRow(t.Context(), `SELECT count(*) FROM oauth_clients`).Scan(&clients); err != nil || clients != 0 {
		t.Errorf("%d clients were written, %v", clients, err)
	}
}

func TestListingClientsInPages(t *testing.T) {
	t.Parallel()
	b := start(t)
	root := b.user("root", "ADMIN")
	for range 5 {
		b.app(web())
	}
	seen, next := map[string]bool{}, "/api/v1/admin/clients?limit=2"
	for next != "" {
		r := b.api("GET", next, nil, root)
		var page []made
		if err := json.Unmarshal([]byte(r.text), &page); err != nil {
			t.Fatal(err)
		}
		for _, m := range page {
			seen[m.ID] = true
		}
		next, _, _ = strings.Cut(strings.TrimPrefix(r.header.Get("Link"), "<"), ">")
	}
	if len(seen) != 5 {
		t.Errorf("want 5 clients, got %d", len(seen))
	}
}

func TestAClientOfAnOrganisationActsForItsMembersAlone(t *testing.T) {
	t.Parallel()
	b := start(t)
	ann := b.user("ann")
	b.user("eve")
	org := uuid.New()
	if _, err := b.pool.Exec(t.Context(), `INSERT INTO orgs (id, name) VALUES ($1, 'acme')`, org); err != nil {
		t.Fatal(err)
	}
	if _, err := b.pool.Exec(t.Context(), `INSERT INTO org_members (org_id, user_id, role, team) VALUES ($1, $2, 'OWNER', 'red')`, org,
		ann); err != nil {
		t.Fatal(err)
	}
	n := web()
	n.GrantTypes, n.OwnerID, n.OrgID = append(n.GrantTypes, grantClient), ann.String(), org.String()
	m := b.app(n)
	token := b.login(b.config(m, "tokens.read", "offline_access"), "ann")
	own := b.post("/oauth2/token", url.Values{"grant_type": {"client_credentials"}, "client_id": {m.ID}, "client_secret": {m.Secret}})
	for _, access := range []string{token.AccessToken, own.body["access_token"].(string)} {
		claims, err := b.read(access)
		if err != nil || claims.OrgID != org.String() || claims.Team != "red" {
			t.Errorf("want the organisation and the team, got %+v, %v", claims, err)
		}
	}
	if back := b.allow(b.config(m, "tokens.read").AuthCodeURL("s")+"&code_challenge_method=S256&code_challenge="+strings.Repeat("c", 43),
		"eve"); back.Get("error") != "access_denied" {
		t.Errorf("a stranger: %v", back)
	}
	if _, err := b.pool.Exec(t.Context(), `DELETE FROM org_members`); err != nil {
		t.Fatal(err)
	}
	wantError(t, b.post("/oauth2/token", url.Values{"grant_type": {"client_credentials"}, "client_id": {m.ID}, "client_secret": {m.Secret}}),
		400, "invalid_grant")
	wantError(t, b.post("/oauth2/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token.RefreshToken},
		"client_id": {m.ID}, "client_secret": {m.Secret}}), 400, "invalid_grant")
}

func TestDevelopmentClient(t *testing.T) {
	t.Parallel()
	b := start(t)
	dir := filepath.Join(t.TempDir(), "secrets")
	var wg sync.WaitGroup
	for range 5 { // replicas that start together
		wg.Go(func() {
			if err := b.Prepare(t.Context(), true, dir); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	path := filepath.Join(dir, DevelopmentFile)
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", info, err)
	}
	read := func() made {
		var m made
		text, err := os.ReadFile(path)
		if err != nil || json.Unmarshal(text, &m) != nil {
			t.Fatalf("%s, %v", text, err)
		}
		return m
	}
	get := func(m made) reply {
		return b.post("/oauth2/token", url.Values{"grant_type": {"client_credentials"}, "client_id": {m.ID}, "client_secret": {m.Secret}})
	}
	first := read()
	if r := get(first); first.ID != "leaky-client" || r.body["scope"] != "tokens.read tokens.write" {
		t.Fatalf("%d %s", r.status, r.text)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := b.Prepare(t.Context(), true, dir); err != nil {
		t.Fatal(err)
	}
	if r := get(read()); r.status != http.StatusOK {
		t.Errorf("a new file's secret: %d %s", r.status, r.text)
	}
	wantError(t, get(first), 401, "invalid_client")
	if err := b.Prepare(t.Context(), false, dir); err != nil {
		t.Fatal(err)
	}
	wantError(t, get(read()), 401, "invalid_client")
	if err := os.WriteFile(path, []byte(`{"clientId":"leaky-client","clientSecret":"leaky-secret"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := b.Prepare(t.Context(), true, dir); err == nil {
		t.Error("a short secret was taken")
	}
}
