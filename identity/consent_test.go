package identity

import (
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/leaky-tokens/leaky-tokens/identity/migrations"
	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

const invitationsPath = "/api/v1/admin/invitations"

// What makes credentials, organisations or roles takes neither an API key nor an application's token.
func TestAKeyIsNoLogin(t *testing.T) {
	t.Parallel()
	b := start(t)
	ann, bob := b.join("ann"), b.join("bob")
	org := b.makeOrg(ann, "ours")
	mine := b.makeKey(ann, `{}`).body["id"].(string)
	byKey, byApp, root := *ann, *ann, *admin()
	byKey.KeyID = uuid.NewString()
	byApp.Client, byApp.Scope = "app", "tokens.read tokens.write"
	root.KeyID = uuid.NewString()
	for name, c := range map[string]struct {
		method, path string
		body         any
		as           *principal.Principal
		app          bool // may not either
	}{
		"make a key":           {"POST", keysPath, `{}`, &byKey, true},
		"list keys":            {"GET", keysPath, nil, &byKey, true},
		"revoke a key":         {"DELETE", keysPath + "?apiKeyId=" + mine, nil, &byKey, true},
		"change the password":  {"POST", passwordPath, `{"current":"correct horse","new":"another horse 1"}`, &byKey, true},
		"make an organisation": {"POST", orgsPath, `{"name":"x"}`, &byKey, true},
		"invite a member":      {"POST", orgsPath + "/" + org + "/members", map[string]string{"userId": bob.UserID, "role": "OWNER"}, &byKey, true},
		"leave":                {"DELETE", orgsPath + "/" + org + "/members/" + ann.UserID, nil, &byKey, true},
		"accept an invitation": {"POST", orgsPath + "/" + org + "/invitations/accept", nil, &byKey, true},
		"make an ADMIN":        {"PUT", "/api/v1/admin/users/" + ann.UserID + "/roles", `{"roles":["ADMIN"]}`, &root, false},
		"make an invitation":   {"POST", invitationsPath, `{}`, &root, false},
		"rotate signing keys":  {"POST", "/api/v1/admin/keys/rotate", nil, &root, false},
		"make a client":        {"POST", "/api/v1/admin/clients", `{"name":"x"}`, &root, false},
		"read the trail":       {"GET", "/api/v1/admin/audit", nil, &root, false},
	} {
		r := b.call(c.method, c.path, c.body, c.as)
		t.Run(name, func(t *testing.T) {
			wantProblem(t, r, http.StatusForbidden, "an API key cannot do this: log in and send the access token")
		})
		if c.app {
			r := b.call(c.method, c.path, c.body, &byApp)
			t.Run(name+" by an application", func(t *testing.T) { wantProblem(t, r, http.StatusForbidden, "") })
		}
	}
	for path, status := range map[string]int{orgsPath: 200, "/api/v1/me": 200, orgsPath + "/" + org + "/members": 200} {
		if r := b.call("GET", path, nil, &byKey); r.status != status {
			t.Errorf("GET %s by key: want %d, got %d", path, status, r.status)
		}
	}
}

func TestMembershipNeedsConsent(t *testing.T) {
	t.Parallel()
	b := start(t)
	ann, bob, cid := b.join("ann"), b.join("bob"), b.join("cid")
	org := b.makeOrg(ann, "ours")
	members, invitations := orgsPath+"/"+org+"/members", orgsPath+"/"+org+"/invitations"
	if r := b.setMember(org, ann, bob, "MEMBER", "blue"); r.status != http.StatusAccepted {
		t.Fatalf("invite: %d %s", r.status, r.text)
	}
	wantProblem(t, b.call("GET", members, nil, bob), http.StatusForbidden, "")
	wantProblem(t, b.call("POST", keysPath, map[string]string{"orgId": org}, bob), http.StatusForbidden, "")
	if r := b.call("GET", orgsPath+"/invitations", nil, bob); r.status != 200 || !strings.Contains(r.text, `"orgName":"ours"`) ||
		!strings.Contains(r.text, `"invitedBy":"ann"`) {
		t.Fatalf("what bob sees: %d %s", r.status, r.text)
	}
	if r := b.call("GET", invitations, nil, ann); r.status != 200 || !strings.Contains(r.text, bob.UserID) {
		t.Fatalf("what ann sees: %d %s", r.status, r.text)
	}
	wantProblem(t, b.call("GET", invitations, nil, bob), http.StatusForbidden, "")
	wantProblem(t, b.call("POST", invitations+"/accept", nil, cid), http.StatusNotFound, "there is no invitation to this organisation")
	if r := b.call("POST", invitations+"/accept", nil, bob); r.status != http.StatusCreated || r.body["team"] != "blue" {
		t.Fatalf("accept: %d %s", r.status, r.text)
	}
	wantProblem(t, b.call("POST", invitations+"/accept", nil, bob), http.StatusNotFound, "")
	if r := b.setMember(org, ann, cid, "OWNER", ""); r.status != http.StatusAccepted {
		t.Fatalf("invite: %d %s", r.status, r.text)
	}
	wantProblem(t, b.setMember(org, cid, cid, "OWNER", ""), http.StatusForbidden, "")
	if r := b.call("POST", invitations+"/decline", nil, cid); r.status != http.StatusNoContent {
		t.Fatalf("decline: %d %s", r.status, r.text)
	}
	wantProblem(t, b.call("POST", invitations+"/accept", nil, cid), http.StatusNotFound, "")
	if r := b.setMember(org, ann, cid, "MEMBER", ""); r.status != http.StatusAccepted {
		t.Fatalf("invite: %d %s", r.status, r.text)
	}
	wantProblem(t, b.call("DELETE", invitations+"/"+cid.UserID, nil, bob), http.StatusForbidden, "")
	if r := b.call("DELETE", invitations+"/"+cid.UserID, nil, ann); r.status != http.StatusNoContent {
		t.Fatalf("withdraw: %d %s", r.status, r.text)
	}
	wantProblem(t, b.call("POST", invitations+"/accept", nil, cid), http.StatusNotFound, "")
	if r := b.setMember(org, admin(), cid, "MEMBER", ""); r.status != http.StatusCreated {
		t.Fatalf("an ADMIN adds: %d %s", r.status, r.text)
	}
}

func TestRegistrationByInvitation(t *testing.T) {
	t.Parallel()
	cfg, signer := settings(t, testenv.Postgres(t))
	cfg.Auth.Registration = config.RegistrationInvite
	b := launch(t, cfg, signer)
	b.waitReady()
	register := func(name, code string) reply {
		body := map[string]string{"username": name, "email": name + "@example.org", "password": "correct horse"}
		if code != "" {
			body["invitation"] = code
		}
		return b.call("POST", "/api/v1/auth/register", body, nil)
	}
	invite := func(body any) string {
		t.Helper()
		r := b.call("POST", invitationsPath, body, admin())
		if r.status != http.StatusCreated || r.header.Get("Cache-Control") != "no-store" {
			t.Fatalf("invite: %d %s", r.status, r.text)
		}
		return r.body["code"].(string)
	}
	wantProblem(t, register("ann", ""), http.StatusForbidden, "registration needs an invitation: ask an administrator for a code")
	wantProblem(t, register("ann", "leaky_inv_nonsense"), http.StatusForbidden, errBadInvitation.Error())
	code := invite(`{}`)
	var wg sync.WaitGroup
	statuses := make(chan int, 8)
	for _, name := range []string{"ann", "bob", "cid", "dan", "eve", "fay", "gus", "hal"} {
		wg.Go(func() { statuses <- register(name, code).status })
	}
	wg.Wait()
	close(statuses)
	count := map[int]int{}
	for s := range statuses {
		count[s]++
	}
	if count[201] != 1 || count[403] != 7 {
		t.Fatalf("one code makes one account, got %v", count)
	}
	wantProblem(t, register("zoe", invite(`{"email":"other@example.org"}`)), http.StatusForbidden, errBadInvitation.Error())
	if r := register("zoe", invite(`{"email":"ZOE@example.org"}`)); r.status != http.StatusCreated {
		t.Fatalf("their own address: %d %s", r.status, r.text)
	}
	boss := &principal.Principal{UserID: b.login("zoe", "correct horse").body["userId"].(string), Roles: []string{"USER"}}
	org := b.makeOrg(boss, "ours")
	b.team(org, boss, "blue")
	code = invite(map[string]string{"orgId": org, "team": "blue"})
	r := register("yan", code)
	if members := b.call("GET", orgsPath+"/"+org+"/members", nil, boss); r.status != 201 || !strings.Contains(members.text, `"team":"blue"`) {
		t.Fatalf("the new account joins: %d, %s", r.status, members.text)
	}
	list := b.call("GET", invitationsPath, nil, admin())
	if list.status != 200 || strings.Contains(list.text, code) || strings.Contains(list.text, "leaky_inv_") {
		t.Fatalf("no code is shown twice: %s", list.text)
	}
	made := b.call("POST", invitationsPath, `{}`, admin())
	if r := b.call("DELETE", invitationsPath+"/"+made.body["id"].(string), nil, admin()); r.status != http.StatusNoContent {
		t.Fatalf("withdraw: %d %s", r.status, r.text)
	}
	wantProblem(t, register("xam", made.body["code"].(string)), http.StatusForbidden, errBadInvitation.Error())
	for name, body := range map[string]any{
		"an unknown organisation": map[string]string{"orgId": uuid.NewString()}, "a role": `{"role":"KING"}`, "a team": `{"team":"a b"}`,
		"an e-mail": `{"email":"x"}`, "the past": `{"expiresAt":"2001-01-01T00:00:00Z"}`,
		"too long": map[string]string{"expiresAt": time.Now().Add(100 * 24 * time.Hour).Format(time.RFC3339)},
	} {
		r := b.call("POST", invitationsPath, body, admin())
		t.Run(name, func(t *testing.T) { wantProblem(t, r, http.StatusBadRequest, "") })
	}
	wantProblem(t, b.call("POST", invitationsPath, `{}`, boss), http.StatusForbidden, "")
}

func TestRegistrationClosed(t *testing.T) {
	t.Parallel()
	cfg, signer := settings(t, testenv.Postgres(t))
	cfg.Auth.Registration = config.RegistrationClosed
	b := launch(t, cfg, signer)
	b.waitReady()
	code := b.call("POST", invitationsPath, `{}`, admin()).body["code"]
	wantProblem(t, b.call("POST", "/api/v1/auth/register", map[string]any{"username": "ann", "email": "a@example.org",
		"password": "correct horse", "invitation": code}, nil), http.StatusForbidden, "registration is closed here")
}

// Two names that people take for each other are one.
func TestOneAccountForEachLookOfAName(t *testing.T) {
	t.Parallel()
	b := start(t)
	for _, names := range [][]string{
		{"victim", "VICTIM", "Victim", "v1ctim", "vlctim", "vIctim", "VlCTIM"},
		{"bob0", "bobo", "BOBO", "bOb0"},
		{"murnau", "mumau", "MURNAU"},
		{"wendy", "vvendy"},
	} {
		b.join(names[0])
		for _, other := range names[1:] {
			r := b.call("POST", "/api/v1/auth/register", map[string]string{"username": other, "email": uuid.NewString()[:8] + "@example.org",
				"password": "correct horse"}, nil)
			t.Run(other+" after "+names[0], func(t *testing.T) {
				wantProblem(t, r, http.StatusConflict, errNameTaken.Error())
			})
		}
	}
	for _, name := range []string{"Admin", "adm1n", "ADMlN", "root", "r00t", "support", "client.app.x", "_system_", "Leaky-Tokens", "-"} {
		r := b.call("POST", "/api/v1/auth/register", map[string]string{"username": name, "email": uuid.NewString()[:8] + "@example.org",
			"password": "correct horse"}, nil)
		t.Run("reserved "+name, func(t *testing.T) {
			if r.status != http.StatusBadRequest && r.status != http.StatusConflict {
				t.Errorf("got %d %s", r.status, r.text)
			}
		})
	}
	for _, name := range []string{"administratrix", "clientele", "helper", "rooter"} {
		b.join(name)
	}
}

// Accounts that looked alike before keep working, and no new one comes beside them.
func TestLookalikesFromBeforeKeepWorking(t *testing.T) {
	t.Parallel()
	cfg, signer := settings(t, testenv.Postgres(t))
	if err := migrations.UpTo(t.Context(), cfg.Pool, 10); err != nil {
		t.Fatal(err)
	}
	hasher, err := newPasswords()
	if err != nil {
		t.Fatal(err)
	}
	hash, err := hasher.hash(t.Context(), "correct horse")
	if err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{"ann", "Ann", "ANN"} {
		if _, err := cfg.Pool.Exec(t.Context(), `INSERT INTO users (id, username, email, password_hash, created_at) VALUES ($1, $2, $3, $4, $5)`,
			uuid.New(), name, name+uuid.NewString()[:4]+"@example.org", hash, time.Now().Add(time.Duration(i)*time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	b := launch(t, cfg, signer)
	b.waitReady()
	ids := map[any]bool{}
	for _, name := range []string{"ann", "Ann", "ANN"} {
		ids[b.login(name, "correct horse").body["userId"]] = true
	}
	if len(ids) != 3 {
		t.Errorf("want three accounts, got %v", ids)
	}
	wantProblem(t, b.call("POST", "/api/v1/auth/register", map[string]string{"username": "aNN", "email": "x@example.org",
		"password": "correct horse"}, nil), http.StatusConflict, errNameTaken.Error())
}

// No key is without an organisation, not even one from before, and a login can act for one too.
func TestRequireOrg(t *testing.T) {
	t.Parallel()
	cfg, signer := settings(t, testenv.Postgres(t))
	before := launch(t, cfg, signer)
	before.waitReady()
	ann := before.join("ann")
	before.join("bob")
	org := before.makeOrg(ann, "ours")
	old := before.makeKey(ann, `{}`).body["apiKey"].(string)
	bound := before.makeKey(ann, map[string]string{"orgId": org}).body["apiKey"].(string)
	cfg.Auth.RequireOrg, cfg.Metrics = true, prometheus.NewRegistry()
	b := launch(t, cfg, signer)
	b.waitReady()
	wantProblem(t, b.call("POST", keysPath, `{}`, ann), http.StatusBadRequest, "orgId is required: keys act for an organisation here")
	wantProblem(t, b.call("POST", keysPath, map[string]string{"userId": ann.UserID}, admin()), http.StatusBadRequest, "")
	wantProblem(t, b.validate(old, nil), http.StatusUnauthorized, "invalid api key")
	if v := b.validate(bound, nil); v.status != http.StatusOK || v.body["orgId"] != org {
		t.Errorf("a key of the organisation: %d %s", v.status, v.text)
	}
	in := b.call("POST", "/api/v1/auth/login", map[string]string{"username": "ann", "password": "correct horse", "orgId": org}, nil)
	if in.status != http.StatusOK || claimsOf(t, in.body["token"]).OrgID != org {
		t.Fatalf("a login for the organisation: %d %s", in.status, in.text)
	}
	if next := b.tryRefresh(in.body["refreshToken"]); next.status != http.StatusOK || claimsOf(t, next.body["token"]).OrgID != org {
		t.Fatalf("its refresh: %d %s", next.status, next.text)
	}
	wantProblem(t, b.call("POST", "/api/v1/auth/login", map[string]string{"username": "bob", "password": "correct horse", "orgId": org}, nil),
		http.StatusForbidden, "you are not a member of this organisation")
}
