package identity

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"
)

func (b *bench) trail(query string) []auditView {
	b.t.Helper()
	r := b.call("GET", "/api/v1/admin/audit"+query, nil, admin())
	var entries []auditView
	if err := json.Unmarshal([]byte(r.text), &entries); err != nil || r.status != http.StatusOK {
		b.t.Fatalf("%d %s", r.status, r.text)
	}
	return entries
}

func TestTheTrailTellsWhoDidWhat(t *testing.T) {
	t.Parallel()
	b := start(t)
	ann := b.join("ann")
	b.login("ann", "correct horse")
	b.call("POST", "/api/v1/auth/login", map[string]string{"username": "ann", "password": "wrong horse"}, nil)
	made := b.makeKey(ann, `{}`)
	if gone := b.call("DELETE", keysPath+"?apiKeyId="+made.body["id"].(string), nil, ann); gone.status != http.StatusNoContent {
		t.Fatal(gone.text)
	}
	who := admin()
	who.Client, who.Scope = "app-ops", "admin"
	b.call("PUT", "/api/v1/admin/users/"+ann.UserID+"/roles", `{"roles":["GOLD"]}`, who)
	var got []string
	for _, e := range b.trail("?actor=" + ann.UserID) {
		got = append(got, e.Action+" "+e.Outcome)
		if e.IP != "127.0.0.1" || e.UserAgent == "" || time.Since(e.At) > time.Hour {
			t.Errorf("got %+v", e)
		}
	}
	want := "key.revoke success,key.create success,session.login failure,session.login success,user.register success"
	if strings.Join(got, ",") != want {
		t.Fatalf("want %s, got %v", want, got)
	}
	byAdmin := b.trail("?action=user.roles&target=" + ann.UserID)
	if len(byAdmin) != 1 || byAdmin[0].Actor != who.UserID || byAdmin[0].Client != "app-ops" || !strings.Contains(string(byAdmin[0].Detail),
		"GOLD") {
		t.Fatalf("got %+v", byAdmin)
	}
	if all := b.call("GET", "/api/v1/admin/audit", nil, admin()); !strings.Contains(all.text, "session.login") || strings.Contains(all.text,
		"horse") {
		t.Fatal("the trail holds a password")
	}
}

func TestTheTrailPagesAndFilters(t *testing.T) {
	t.Parallel()
	b := start(t)
	ann := b.join("ann")
	for range 5 {
		b.makeKey(ann, `{}`)
	}
	var seen int
	for path := "/api/v1/admin/audit?limit=2&action=key.create"; path != ""; {
		r := b.call("GET", path, nil, admin())
		seen += strings.Count(r.text, `"action"`)
		path, _, _ = strings.Cut(strings.TrimPrefix(r.header.Get("Link"), "<"), ">")
	}
	if seen != 5 {
		t.Fatalf("want 5 over all pages, got %d", seen)
	}
	if n := len(b.trail("?since=2100-01-01T00:00:00Z")); n != 0 {
		t.Fatalf("entries of the future: %d", n)
	}
	if n := len(b.trail("?action=key.create&since=2020-01-01T00:00:00%2B02:00&until=2100-01-01T00:00:00Z")); n != 5 {
		t.Fatalf("want 5, got %d", n)
	}
	for _, query := range []string{"?limit=0", "?limit=1001", "?limit=x", "?before=0", "?before=x", "?since=yesterday", "?until=1",
		"?actor=a&actor=b",
		"?actor=%00", "?target=" + strings.Repeat("a", 201), "?since=0000-01-01T00:00:00Z"} {
		wantProblem(t, b.call("GET", "/api/v1/admin/audit"+query, nil, admin()), http.StatusBadRequest, "")
	}
	wantProblem(t, b.call("GET", "/api/v1/admin/audit", nil, ann), http.StatusForbidden, "")
	wantProblem(t, b.call("GET", "/api/v1/admin/audit", nil, nil), http.StatusUnauthorized, "")
}

func TestTheTrailIsAppendOnly(t *testing.T) {
	t.Parallel()
	b := start(t)
	b.join("ann")
	for _, statement := range []string{`UPDATE audit_log SET actor = 'x'`, `DELETE FROM audit_log`, `TRUNCATE audit_log`} {
		if _, err := b.store.pool.Exec(t.Context(), statement); err == nil || !strings.Contains(err.Error(), "append-only") {
			t.Errorf("%s: want a refusal, got %v", statement, err)
		}
	}
}

func TestARefusedChangeLeavesNoEntry(t *testing.T) {
	t.Parallel()
	b := start(t)
	first, err := b.store.userByName(t.Context(), "admin")
	if err != nil {
		t.Fatal(err)
	}
	wantProblem(t, b.call("PUT", "/api/v1/admin/users/"+first.ID.String()+"/roles", `{"roles":["USER"]}`, admin()), http.StatusConflict, "")
	if n := len(b.trail("?action=user.roles")); n != 0 {
		t.Fatalf("want none, got %d", n)
	}
	if again, err := b.store.userByID(t.Context(), first.ID); err != nil || again.Generation != first.Generation {
		t.Fatalf("the generation grew: %+v, %v", again, err)
	}
}
