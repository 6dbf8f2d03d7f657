package identity

import (
	"net/http"
	"strings"
	"testing"
)

// TestTeamsAreMadeBeforeAnybodyIsInThem: a misspelt team is no new one, and says which was meant.
func TestTeamsAreMadeBeforeAnybodyIsInThem(t *testing.T) {
	t.Parallel()
	b := start(t)
	ann, bob, eve, root := b.join("ann"), b.join("bob"), b.join("eve"), admin()
	org := b.makeOrg(ann, "Tinkers")
	teams, members := orgsPath+"/"+org+"/teams", orgsPath+"/"+org+"/members"
	member := func(team string) any { return map[string]string{"username": "bob", "role": "MEMBER", "team": team} }
	if r := b.call("POST", members, member("platform"), ann); r.status != 400 || !strings.Contains(r.text, "make it first") {
		t.Errorf("before it is made: want 400, got %d %s", r.status, r.text)
	}
	if r := b.call("POST", teams, map[string]string{"name": "platform"}, ann); r.status != http.StatusCreated {
		t.Fatalf("make a team: %d %s", r.status, r.text)
	}
	if r := b.call("POST", teams, map[string]string{"name": "platform"}, ann); r.status != http.StatusOK {
		t.Errorf("make it again: want 200, got %d %s", r.status, r.text)
	}
	if r := b.call("POST", members, member("pltform"), ann); r.status != 400 || !strings.Contains(r.text, "did you mean platform?") {
		t.Errorf("a misspelt team: want 400 with a hint, got %d %s", r.status, r.text)
	}
	if r := b.call("POST", "/api/v1/admin/invitations", map[string]string{"orgId": org, "team": "pltform"}, root); r.status != 400 {
		t.Errorf("an invitation to a misspelt team: want 400, got %d %s", r.status, r.text)
	}
	if r := b.call("POST", members, member("platform"), ann); r.status != http.StatusAccepted {
		t.Fatalf("invite by name: %d %s", r.status, r.text)
	}
	if r := b.call("DELETE", teams+"/platform", nil, ann); r.status != http.StatusConflict {
		t.Errorf("a team with an open invitation: want 409, got %d %s", r.status, r.text)
	}
	if r := b.call("POST", orgsPath+"/"+org+"/invitations/accept", nil, bob); r.status != http.StatusCreated {
		t.Fatalf("accept: %d %s", r.status, r.text)
	}
	if r := b.call("GET", teams, nil, bob); r.status != 200 || !strings.Contains(r.text, `"name":"platform","members":1`) {
		t.Errorf("want the team with one member, got %d %s", r.status, r.text)
	}
	for who, want := range map[string]int{"POST": 403, "DELETE": 403} {
		at := teams
		if who == "DELETE" {
			at += "/platform"
		}
		if r := b.call(who, at, map[string]string{"name": "other"}, bob); r.status != want {
			t.Errorf("%s by a member: want %d, got %d %s", who, want, r.status, r.text)
		}
	}
	if r := b.call("GET", teams, nil, eve); r.status != http.StatusForbidden {
		t.Errorf("teams for a stranger: want 403, got %d %s", r.status, r.text)
	}
	if r := b.call("POST", members, map[string]string{"username": "bob", "role": "MEMBER"}, ann); r.status != http.StatusOK {
		t.Fatalf("out of the team: %d %s", r.status, r.text)
	}
	if r := b.call("DELETE", teams+"/platform", nil, ann); r.status != http.StatusNoContent {
		t.Errorf("an empty team: want 204, got %d %s", r.status, r.text)
	}
	if r := b.call("DELETE", teams+"/platform", nil, ann); r.status != http.StatusNotFound {
		t.Errorf("a team that is gone: want 404, got %d %s", r.status, r.text)
	}
}

// TestMembersByNameOrEmail, and a name for the organisation.
func TestMembersByNameOrEmail(t *testing.T) {
	t.Parallel()
	b := start(t)
	ann, eve := b.join("ann"), b.join("eve")
	b.join("bob")
	b.join("cid")
	org := b.makeOrg(ann, "Tinkers")
	members := orgsPath + "/" + org + "/members"
	for name, c := range map[string]struct {
		body map[string]string
		want int
	}{
		"by name":   {map[string]string{"username": "bob"}, 202},
		"by e-mail": {map[string]string{"email": "CID@example.org"}, 202},
		"by both":   {map[string]string{"username": "bob", "email": "bob@example.org"}, 400},
		"by none":   {map[string]string{}, 400},
		"nobody":    {map[string]string{"username": "nobody"}, 400},
		"no e-mail": {map[string]string{"email": "nobody@example.org"}, 400},
		"no id":     {map[string]string{"userId": "bob"}, 400},
	} {
		c.body["role"] = "MEMBER"
		if r := b.call("POST", members, c.body, ann); r.status != c.want {
			t.Errorf("%s: want %d, got %d %s", name, c.want, r.status, r.text)
		}
	}
	for name, c := range map[string]struct {
		as   string
		name any
		want int
	}{"its owner": {"ann", "Smiths", 204}, "a stranger": {"eve", "Mine", 403}, "no name": {"ann", " ", 400}, "a control": {"ann", "a\u0007", 400}} {
		as := ann
		if c.as == "eve" {
			as = eve
		}
		if r := b.call("PATCH", orgsPath+"/"+org, map[string]any{"name": c.name}, as); r.status != c.want {
			t.Errorf("renamed by %s: want %d, got %d %s", name, c.want, r.status, r.text)
		}
	}
	if r := b.call("GET", orgsPath, nil, ann); !strings.Contains(r.text, `"name":"Smiths"`) {
		t.Errorf("want the new name, got %s", r.text)
	}
}
