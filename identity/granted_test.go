package identity

import (
	"encoding/json"
	"net/http"
	"net/url"
	"testing"

	"github.com/google/uuid"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
)

// device signs a user in at an application by the device flow, and gives the tokens.
func (b *bench) device(client, user, scope string) map[string]any {
	b.t.Helper()
	asked := b.form("/oauth2/device_authorization", url.Values{"client_id": {client}, "scope": {scope}})
	code, _ := asked.body["user_code"].(string)
	page := b.form("/oauth2/device", url.Values{"user_code": {code}})
	sealed := hiddenForm.FindStringSubmatch(page.text)
	if sealed == nil {
		b.t.Fatalf("no form: %d %s after %s", page.status, page.text, asked.text)
	}
	b.form("/oauth2/device", url.Values{"form": {sealed[1]}, "username": {user}, "password": {"correct horse"}, "decision": {"allow"}})
	device, _ := asked.body["device_code"].(string)
	got := b.form("/oauth2/token", url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:device_code"}, "client_id": {client},
		"device_code": {device}})
	if got.status != http.StatusOK {
		b.t.Fatalf("token: %d %s", got.status, got.text)
	}
	return got.body
}

// grants are what GET /api/v1/auth/grants lists.
func (b *bench) grants(query string, as *principal.Principal) []grantView {
	b.t.Helper()
	r := b.call("GET", "/api/v1/auth/grants"+query, nil, as)
	var all []grantView
	if err := json.Unmarshal([]byte(r.text), &all); err != nil || r.status != http.StatusOK {
		b.t.Fatalf("%d %s: %v", r.status, r.text, err)
	}
	return all
}

// TestWhatWasGrantedCanBeTakenBack, by who granted it and by an ADMIN, and by nobody else.
func TestWhatWasGrantedCanBeTakenBack(t *testing.T) {
	t.Parallel()
	b := start(t)
	ann, bob, root := b.join("ann"), b.join("bob"), admin()
	if _, err := b.store.pool.Exec(t.Context(), `INSERT INTO users (id, username, email, password_hash) VALUES ($1, 'boss', 'boss@example.org', '')`,
		root.UserID); err != nil {
		t.Fatal(err)
	}
	client := func(name string) string {
		made := b.call("POST", "/api/v1/admin/clients", map[string]any{"name": name, "public": true, "scopes": []string{"openid", "tokens.read",
			"offline_access"}, "grantTypes": []string{"urn:ietf:params:oauth:grant-type:device_code", "refresh_token"}}, root)
		id, _ := made.body["clientId"].(string)
		return id
	}
	tv, radio := client("tv"), client("radio")
	kept := b.device(radio, "ann", "tokens.read offline_access")
	b.device(tv, "ann", "openid offline_access")
	gone := b.device(tv, "ann", "tokens.read offline_access")
	b.device(tv, "bob", "openid")

	all := b.grants("", ann)
	if len(all) != 2 || all[0].ClientID != tv || all[0].Name != "tv" || len(all[0].Scopes) != 3 || all[0].GrantedAt.After(all[0].LastAt) ||
		all[1].ClientID != radio {
		t.Fatalf("want tv and radio with their scopes, got %+v", all)
	}
	if got := b.grants("?userId="+ann.UserID, root); len(got) != 2 {
		t.Errorf("an ADMIN: got %+v", got)
	}
	for name, c := range map[string]struct {
		query  string
		as     *principal.Principal
		status int
	}{
		"nobody":              {"?clientId=" + tv, nil, 401},
		"another's":           {"?userId=" + ann.UserID + "&clientId=" + tv, bob, 403},
		"no client":           {"", ann, 400},
		"two clients":         {"?clientId=" + tv + "&clientId=" + radio, ann, 400},
		"nothing granted":     {"?clientId=app-none", ann, 404},
		"a NUL":               {"?clientId=%00", ann, 404},
		"logins are no one's": {"?clientId=leaky", ann, 404},
		"an application":      {"?clientId=" + tv, &principal.Principal{UserID: ann.UserID, Client: tv, Scope: "tokens.read"}, 403},
		"a key":               {"?clientId=" + tv, &principal.Principal{UserID: ann.UserID, KeyID: uuid.NewString()}, 403},
	} {
		if r := b.call("DELETE", "/api/v1/auth/grants"+c.query, nil, c.as); r.status != c.status {
			t.Errorf("%s: want %d, got %d %s", name, c.status, r.status, r.text)
		}
	}
	if r := b.call("DELETE", "/api/v1/auth/grants?clientId="+tv, nil, ann); r.status != http.StatusNoContent {
		t.Fatalf("%d %s", r.status, r.text)
	}
	refresh := func(client string, tokens map[string]any) int {
		return b.form("/oauth2/token", url.Values{"grant_type": {"refresh_token"}, "client_id": {client},
			"refresh_token": {tokens["refresh_token"].(string)}}).status
	}
	if ended, live := refresh(tv, gone), refresh(radio, kept); ended != 400 || live != 200 {
		t.Errorf("want the one ended and the other not, got %d and %d", ended, live)
	}
	if got := b.grants("", ann); len(got) != 1 || got[0].ClientID != radio {
		t.Errorf("got %+v", got)
	}
	if got := b.grants("", bob); len(got) != 1 {
		t.Errorf("what bob granted is his to take back, got %+v", got)
	}
	var revoked, trail int
	if err := b.store.pool.QueryRow(t.Context(), `SELECT (SELECT count(*) FROM revocations WHERE kind = 'family'),
		(SELECT count(*) FROM audit_log WHERE action = 'grant.revoke' AND actor = $1)`, ann.UserID).Scan(&revoked, &trail); err != nil ||
		revoked != 2 || trail != 1 {
		t.Errorf("want both families revoked and one entry, got %d and %d, %v", revoked, trail, err)
	}
}
