package identity

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/leaky-tokens/leaky-tokens/identity/identitydb"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/revocation"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

func TestRolesGiveTiers(t *testing.T) {
	t.Parallel()
	cfg, signer := settings(t, testenv.Postgres(t))
	cfg.NATS = testenv.NATS(t)
	b := launch(t, cfg, signer)
	b.waitReady()
	ann := b.join("ann")
	conn, err := nats.Connect(cfg.NATS)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	sub, err := conn.SubscribeSync(revocation.Subject)
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	key := b.makeKey(ann, `{}`).body["apiKey"].(string)
	r := b.call("PUT", "/api/v1/admin/users/"+ann.UserID+"/roles", `{"roles":["USER","GOLD","USER"]}`, admin())
	if r.status != http.StatusOK || fmt.Sprint(r.body["roles"]) != "[GOLD USER]" || r.body["tier"] != "GOLD" {
		t.Fatalf("got %d %s", r.status, r.text)
	}
	if got := heard(t, sub, revocation.User); got.ID != ann.UserID || got.Generation != 2 || !got.Until.After(time.Now()) {
		t.Fatalf("want the user's id and generation on NATS, got %+v", got)
	}
	me := b.call("GET", "/api/v1/me", nil, ann)
	if me.status != http.StatusOK || me.body["id"] != ann.UserID || me.body["username"] != "ann" || me.body["tier"] != "GOLD" {
		t.Fatalf("me: %d %s", me.status, me.text)
	}
	if v := b.validate(key, nil); fmt.Sprint(v.body["roles"]) != "[GOLD USER]" {
		t.Fatalf("validate: %s", v.text)
	}
}

func TestAdminRefusals(t *testing.T) {
	t.Parallel()
	b := start(t)
	ann := b.join("ann")
	path := "/api/v1/admin/users/" + ann.UserID + "/roles"
	for name, c := range map[string]struct {
		method, path string
		body         any
		as           *principal.Principal
		status       int
	}{
		"list anonymously":  {"GET", "/api/v1/admin/users", nil, nil, 401},
		"list as USER":      {"GET", "/api/v1/admin/users", nil, ann, 403},
		"promote oneself":   {"PUT", path, `{"roles":["ADMIN"]}`, ann, 403},
		"unknown role":      {"PUT", path, `{"roles":["KING"]}`, admin(), 400},
		"no role":           {"PUT", path, `{"roles":[]}`, admin(), 400},
		"roles missing":     {"PUT", path, `{}`, admin(), 400},
		"role with NUL":     {"PUT", path, `{"roles":["A\u0000"]}`, admin(), 400},
		"roles is a string": {"PUT", path, `{"roles":"ADMIN"}`, admin(), 400},
		"malformed id":      {"PUT", "/api/v1/admin/users/1/roles", `{"roles":["USER"]}`, admin(), 400},
		"unknown user":      {"PUT", "/api/v1/admin/users/" + uuid.NewString() + "/roles", `{"roles":["USER"]}`, admin(), 404},
		"bad limit":         {"GET", "/api/v1/admin/users?limit=0", nil, admin(), 400},
		"bad cursor":        {"GET", "/api/v1/admin/users?after=%00", nil, admin(), 400},
	} {
		r := b.call(c.method, c.path, c.body, c.as)
		t.Run(name, func(t *testing.T) { wantProblem(t, r, c.status, "") })
	}
}

func TestTheLastAdminStays(t *testing.T) {
	t.Parallel()
	b := start(t)
	first, err := b.store.userByName(t.Context(), "admin")
	if err != nil {
		t.Fatal(err)
	}
	demote := "/api/v1/admin/users/" + first.ID.String() + "/roles"
	wantProblem(t, b.call("PUT", demote, `{"roles":["USER"]}`, admin()), http.StatusConflict, errLastAdmin.Error())
	ann := b.join("ann")
	if r := b.call("PUT", "/api/v1/admin/users/"+ann.UserID+"/roles", `{"roles":["ADMIN"]}`, admin()); r.status != http.StatusOK {
		t.Fatal(r.text)
	}
	if r := b.call("PUT", demote, `{"roles":["USER"]}`, admin()); r.status != http.StatusOK {
		t.Fatalf("with another ADMIN: %d %s", r.status, r.text)
	}
}

func TestListingUsersByPages(t *testing.T) {
	t.Parallel()
	b := start(t)
	for _, name := range []string{"ann", "bob", "cid"} {
		b.join(name)
	}
	var names []string
	for path := "/api/v1/admin/users?limit=2"; path != ""; {
		r := b.call("GET", path, nil, admin())
		var page []struct{ Username string }
		if err := json.Unmarshal([]byte(r.text), &page); err != nil || r.status != http.StatusOK {
			t.Fatalf("%d %s", r.status, r.text)
		}
		for _, u := range page {
			names = append(names, u.Username)
		}
		path, _, _ = strings.Cut(strings.TrimPrefix(r.header.Get("Link"), "<"), ">")
		if strings.Contains(r.text, "argon2") {
			t.Fatal("a listing shows password hashes")
		}
	}
	names = slices.DeleteFunc(names, func(s string) bool { return strings.HasPrefix(s, "client.") }) // accounts of OAuth2 clients
	if want := "[admin ann bob cid]"; fmt.Sprint(names) != want {
		t.Fatalf("want %s, got %v", want, names)
	}
}

func TestFirstAdminIsGeneratedOnce(t *testing.T) {
	t.Parallel()
	cfg, signer := settings(t, testenv.Postgres(t))
	b := launch(t, cfg, signer)
	b.waitReady()
	path := filepath.Join(cfg.Secrets, "admin.json")
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("want mode 0600, got %v, %v", info, err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	r := b.call("POST", "/api/v1/auth/login", string(text), nil)
	if r.status != http.StatusOK || fmt.Sprint(r.body["roles"]) != "[ADMIN USER]" {
		t.Fatalf("login with the file's content: %d %s", r.status, r.text)
	}
	cfg.Metrics = prometheus.NewRegistry()
	again := launch(t, cfg, signer)
	again.waitReady()
	if users, err := again.store.listUsers(t.Context(), identitydb.ListUsersParams{Role: principal.RoleAdmin, Most: 10}); err != nil ||
		len(users) != 1 {
		t.Fatalf("want one administrator after a restart, got %d, %v", len(users), err)
	}
}

func TestFirstAdminFromTheEnvironment(t *testing.T) {
	t.Parallel()
	cfg, signer := settings(t, testenv.Postgres(t))
	cfg.AdminUsername, cfg.AdminPassword = "root", "a long password"
	b := launch(t, cfg, signer)
	b.waitReady()
	if r := b.call("POST", "/api/v1/auth/login", map[string]string{"username": "root", "password": "a long password"},
		nil); r.status != http.StatusOK {
		t.Fatalf("%d %s", r.status, r.text)
	}
	if _, err := os.Stat(filepath.Join(cfg.Secrets, "admin.json")); err == nil {
		t.Fatal("a password was generated besides")
	}
	for name, change := range map[string]func(*Config){
		"half":          func(c *Config) { c.AdminPassword = "" },
		"weak password": func(c *Config) { c.AdminPassword = "admin" },
		"bad name":      func(c *Config) { c.AdminUsername = "a b" },
		"weak secret":   func(c *Config) { c.KeysSecret = "short" },
	} {
		bad := cfg
		bad.Metrics = prometheus.NewRegistry()
		change(&bad)
		if _, err := New(bad); err == nil || strings.Contains(err.Error(), cfg.AdminPassword) {
			t.Errorf("%s: want an error without the password, got %v", name, err)
		}
	}
}
