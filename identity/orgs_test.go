package identity

import (
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/apikey"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/membership"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/revocation"
)

const orgsPath = "/api/v1/orgs"

func (b *bench) makeOrg(as *principal.Principal, name string) string {
	b.t.Helper()
	r := b.call("POST", orgsPath, map[string]string{"name": name}, as)
	if r.status != http.StatusCreated || r.body["role"] != "OWNER" {
		b.t.Fatalf("create organisation: %d %s", r.status, r.text)
	}
	return r.body["id"].(string)
}

// team makes one, if it is not there.
func (b *bench) team(org string, as *principal.Principal, name string) {
	b.t.Helper()
	if r := b.call("POST", orgsPath+"/"+org+"/teams", map[string]string{"name": name}, as); r.status/100 != 2 {
		b.t.Fatalf("make team %s: %d %s", name, r.status, r.text)
	}
}

func (b *bench) setMember(org string, as, who *principal.Principal, role, team string) reply {
	b.t.Helper()
	if team != "" {
		b.team(org, as, team)
	}
	return b.call("POST", orgsPath+"/"+org+"/members", map[string]string{"userId": who.UserID, "role": role, "team": team}, as)
}

// member invites somebody and has their accept.
func (b *bench) member(org string, as, who *principal.Principal, role, team string) reply {
	b.t.Helper()
	if r := b.setMember(org, as, who, role, team); r.status != http.StatusAccepted || r.body["status"] != "invited" {
		b.t.Fatalf("invite: %d %s", r.status, r.text)
	}
	return b.call("POST", orgsPath+"/"+org+"/invitations/accept", nil, who)
}

func TestOrganisationFromCreationToTheLastOwner(t *testing.T) {
	t.Parallel()
	b, sub := listening(t)
	ann, bob, cid := b.join("ann"), b.join("bob"), b.join("cid")
	org := b.makeOrg(ann, " Tinkers & Co ")
	if r := b.member(org, ann, bob, "MEMBER", "blue"); r.status != http.StatusCreated {
		t.Fatalf("add: %d %s", r.status, r.text)
	}
	for name, who := range map[string]*principal.Principal{"a MEMBER": bob, "a stranger": cid} {
		wantProblem(t, b.setMember(org, who, cid, "MEMBER", ""), http.StatusForbidden, "")
		_ = name
	}
	list := b.call("GET", orgsPath, nil, bob)
	if list.status != http.StatusOK || !strings.Contains(list.text, `"name":"Tinkers \u0026 Co"`) || !strings.Contains(list.text,
		`"team":"blue"`) {
		t.Fatalf("bob's: %d %s", list.status, list.text)
	}
	if me := b.call("GET", "/api/v1/me", nil, bob); !strings.Contains(me.text, org) {
		t.Fatalf("me: %s", me.text)
	}
	if members := b.call("GET", orgsPath+"/"+org+"/members", nil, bob); members.status != http.StatusOK || strings.Count(members.text,
		"userId") != 2 {
		t.Fatalf("members: %d %s", members.status, members.text)
	}

	made := b.makeKey(bob, map[string]string{"orgId": org})
	key := made.body["apiKey"].(string)
	if v := b.validate(key, nil); v.status != http.StatusOK || v.body["orgId"] != org || v.body["team"] != "blue" ||
		v.body["generation"] != 1.0 {
		t.Fatalf("validate: %d %s", v.status, v.text)
	}
	own := b.makeKey(bob, `{}`).body["apiKey"].(string)
	if v := b.validate(own, nil); v.body["orgId"] != nil || v.body["team"] != nil {
		t.Fatalf("a key without an organisation: %s", v.text)
	}
	if keys := b.call("GET", keysPath, nil, bob); !strings.Contains(keys.text, org) || !strings.Contains(keys.text, `"lastUsedAt":"`) {
		t.Fatalf("keys: %s", keys.text)
	}

	if r := b.setMember(org, ann, bob, "MEMBER", "red"); r.status != http.StatusOK {
		t.Fatalf("change of team: %d %s", r.status, r.text)
	}
	if got := heard(t, sub, revocation.User); got.ID != bob.UserID || got.Generation != 1 {
		t.Fatalf("want their keys looked up again and their tokens good, got %+v", got)
	}
	if gone := b.call("DELETE", orgsPath+"/"+org+"/members/"+bob.UserID, nil, ann); gone.status != http.StatusNoContent {
		t.Fatalf("remove: %d %s", gone.status, gone.text)
	}
	if got := heard(t, sub, revocation.Key); got.ID != apikey.Hash(key) {
		t.Fatalf("got %+v", got)
	}
	if got := heard(t, sub, revocation.User); got.ID != bob.UserID || got.Generation != 2 {
		t.Fatalf("got %+v", got)
	}
	wantProblem(t, b.validate(key, nil), http.StatusUnauthorized, "invalid api key")
	if v := b.validate(own, nil); v.status != http.StatusOK {
		t.Fatalf("their own key went too: %d", v.status)
	}

	leave := orgsPath + "/" + org + "/members/" + ann.UserID
	wantProblem(t, b.call("DELETE", leave, nil, ann), http.StatusConflict, errLastOwner.Error())
	wantProblem(t, b.setMember(org, ann, ann, "MEMBER", ""), http.StatusConflict, errLastOwner.Error())
	if r := b.member(org, ann, cid, "OWNER", ""); r.status != http.StatusCreated {
		t.Fatalf("%d %s", r.status, r.text)
	}
	if gone := b.call("DELETE", leave, nil, ann); gone.status != http.StatusNoContent {
		t.Fatalf("leave: %d %s", gone.status, gone.text)
	}
}

func TestOrganisationRefusals(t *testing.T) {
	t.Parallel()
	b := start(t)
	ann, bob := b.join("ann"), b.join("bob")
	org := b.makeOrg(ann, "ours")
	members := orgsPath + "/" + org + "/members"
	nowhere := orgsPath + "/" + uuid.NewString() + "/members"
	for name, c := range map[string]struct {
		method, path string
		body         any
		as           *principal.Principal
		status       int
	}{
		"create anonymously":        {"POST", orgsPath, `{"name":"x"}`, nil, 401},
		"no name":                   {"POST", orgsPath, `{}`, ann, 400},
		"blank name":                {"POST", orgsPath, `{"name":"  "}`, ann, 400},
		"long name":                 {"POST", orgsPath, map[string]string{"name": strings.Repeat("ä", 101)}, ann, 400},
		"NUL in the name":           {"POST", orgsPath, map[string]string{"name": "a\x00b"}, ann, 400},
		"direction in the name":     {"POST", orgsPath, map[string]string{"name": "a\u202eb"}, ann, 400},
		"owner who does not exist":  {"POST", orgsPath, `{"name":"x"}`, admin(), 401},
		"list anonymously":          {"GET", orgsPath, nil, nil, 401},
		"members of others":         {"GET", members, nil, bob, 403},
		"members of nobody":         {"GET", nowhere, nil, bob, 403},
		"ADMIN, members of nobody":  {"GET", nowhere, nil, admin(), 404},
		"malformed organisation":    {"GET", orgsPath + "/1/members", nil, ann, 400},
		"bad limit":                 {"GET", members + "?limit=x", nil, ann, 400},
		"bad cursor":                {"GET", members + "?after=x", nil, ann, 400},
		"add without a user":        {"POST", members, `{"role":"MEMBER"}`, ann, 400},
		"add an unknown user":       {"POST", members, map[string]string{"userId": uuid.NewString(), "role": "MEMBER"}, ann, 400},
		"add as KING":               {"POST", members, map[string]string{"userId": bob.UserID, "role": "KING"}, ann, 400},
		"team with a space":         {"POST", members, map[string]string{"userId": bob.UserID, "role": "MEMBER", "team": "a b"}, ann, 400},
		"add by a stranger":         {"POST", members, map[string]string{"userId": bob.UserID, "role": "OWNER"}, bob, 403},
		"add to nobody's, as ADMIN": {"POST", nowhere, map[string]string{"userId": bob.UserID, "role": "OWNER"}, admin(), 404},
		"remove who is none":        {"DELETE", members + "/" + bob.UserID, nil, ann, 404},
		"remove by a stranger":      {"DELETE", members + "/" + ann.UserID, nil, bob, 403},
		"leave as a stranger":       {"DELETE", members + "/" + bob.UserID, nil, bob, 403},
		"remove a malformed id":     {"DELETE", members + "/x", nil, ann, 400},
		"key for others":            {"POST", keysPath, map[string]string{"orgId": org}, bob, 403},
		"key for nobody":            {"POST", keysPath, map[string]string{"orgId": uuid.NewString()}, bob, 403},
		"key, malformed":            {"POST", keysPath, map[string]string{"orgId": "x"}, bob, 400},
	} {
		r := b.call(c.method, c.path, c.body, c.as)
		t.Run(name, func(t *testing.T) { wantProblem(t, r, c.status, "") })
	}
}

// Two owners who remove each other at once leave one.
func TestOwnersCannotRemoveEachOther(t *testing.T) {
	t.Parallel()
	b := start(t)
	ann, bob := b.join("ann"), b.join("bob")
	for range 5 {
		org := b.makeOrg(ann, "ours")
		if r := b.member(org, ann, bob, "OWNER", ""); r.status != http.StatusCreated {
			t.Fatal(r.text)
		}
		var wg sync.WaitGroup
		wg.Go(func() { b.call("DELETE", orgsPath+"/"+org+"/members/"+bob.UserID, nil, ann) })
		wg.Go(func() { b.call("DELETE", orgsPath+"/"+org+"/members/"+ann.UserID, nil, bob) })
		wg.Wait()
		var owners int
		if err := b.store.pool.QueryRow(t.Context(), `SELECT count(*) FROM org_members WHERE org_id = $1`, org).Scan(&owners); err != nil ||
			owners != 1 {
			t.Fatalf("want one owner left, got %d, %v", owners, err)
		}
	}
}

func TestOthersAskForMemberships(t *testing.T) {
	t.Parallel()
	b, _ := listening(t)
	ann, bob := b.join("ann"), b.join("bob")
	org := b.makeOrg(ann, "ours")
	conn, err := nats.Connect(b.cfg.NATS)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := membership.NewClient(conn)
	for user, want := range map[string]membership.Answer{ann.UserID: {Member: true, Role: membership.Owner}, bob.UserID: {}} {
		if got, err := client.Ask(t.Context(), org, user); err != nil || got != want {
			t.Errorf("want %+v, got %+v, %v", want, got, err)
		}
	}
}
