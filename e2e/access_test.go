package e2e

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/stacktest"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

const (
	keysPath = "/api/v1/auth/api-keys"
	orgsPath = "/api/v1/orgs"
)

// Contract §3 A3 to A5.
func TestAPIKeys(t *testing.T) {
	t.Parallel()
	ann, bob, root := newPerson(t), newPerson(t), newAccount(t, "ADMIN")
	later := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	a := request(t, "POST", keysPath, ann.jwt, map[string]string{"userId": ann.id, "name": "  ci  ", "expiresAt": later})
	var made struct {
		ID, UserID, APIKey   string
		Name                 *string
		CreatedAt, ExpiresAt *time.Time
	}
	a.into(t, &made)
	if a.status != 201 || made.UserID != ann.id || *made.Name != "ci" || made.ExpiresAt == nil || made.CreatedAt == nil ||
		!strings.HasPrefix(made.APIKey, "leaky_"+ann.id+"_") || a.header.Get("Cache-Control") != "no-store" {
		t.Fatalf("A3: %d %s", a.status, a.text)
	}
	if a := request(t, "POST", keysPath, ann.jwt, "{}"); a.status != 201 {
		t.Errorf("§19.8 a missing userId means the caller: %d %s", a.status, a.text)
	}
	mine, foreign := "?userId="+ann.id, "?userId="+bob.id
	a = request(t, "GET", keysPath+mine, ann.jwt, nil)
	var listed []map[string]any
	a.into(t, &listed)
	if a.status != 200 || len(listed) != 2 || strings.Contains(a.text, made.APIKey) || strings.Contains(a.text, "apiKey") {
		t.Errorf("A4: %d %s", a.status, a.text)
	}
	if a := request(t, "GET", keysPath+foreign, bob.jwt, nil); a.status != 200 || strings.TrimSpace(a.text) != "[]" {
		t.Errorf("A4 none: %d %s", a.status, a.text)
	}
	past := time.Now().Add(-time.Second).UTC().Format(time.RFC3339)
	for _, tc := range []struct {
		row, method, query, credential string
		body                           any
		status                         int
		message                        string
	}{
		{"A3 invalid userId, ADMIN", "POST", "", root.JWT, `{"userId":"x"}`, 400, "invalid userId"},
		{"A3 empty userId, ADMIN", "POST", "", root.JWT, `{"userId":""}`, 400, "userId is required"},
		{"A3 unknown user, ADMIN", "POST", "", root.JWT, map[string]string{"userId": uuid.NewString()}, 400, "user not found"},
		{"A3 bad date", "POST", "", ann.jwt, `{"expiresAt":"tomorrow"}`, 400, "RFC 3339"},
		{"§19.7 expiresAt in the past", "POST", "", ann.jwt, map[string]string{"expiresAt": past}, 400, "in the past"},
		{"§19.7 name of 101", "POST", "", ann.jwt, map[string]string{"name": strings.Repeat("n", 101)}, 400, "at most 100"},
		{"A3 anonymous", "POST", "", "", "{}", 401, ""},
		{"A3 not own", "POST", "", ann.jwt, map[string]string{"userId": bob.id}, 403, "not your user id"},
		{"A3 malformed id, USER", "POST", "", ann.jwt, `{"userId":"x"}`, 403, "not your user id"},
		{"A4 anonymous", "GET", mine, "", nil, 401, ""},
		{"A4 not own", "GET", foreign, ann.jwt, nil, 403, "not your user id"},
		{"A4 malformed id, USER", "GET", "?userId=x", ann.jwt, nil, 403, "not your user id"},
		{"A4 malformed id, ADMIN", "GET", "?userId=x", root.JWT, nil, 400, "invalid userId"},
		{"A4 userId twice", "GET", mine + "&userId=" + bob.id, ann.jwt, nil, 400, "more than once"},
		{"A5 no key", "DELETE", mine, ann.jwt, nil, 400, "apiKeyId is required"},
		{"A5 malformed key", "DELETE", mine + "&apiKeyId=x", ann.jwt, nil, 400, "invalid apiKeyId"},
		{"§19.7 unknown key", "DELETE", mine + "&apiKeyId=" + uuid.NewString(), ann.jwt, nil, 404, "api key not found"},
		{"A5 own id, foreign key", "DELETE", foreign + "&apiKeyId=" + made.ID, bob.jwt, nil, 404, "api key not found"},
		{"A5 not own", "DELETE", mine + "&apiKeyId=" + made.ID, bob.jwt, nil, 403, "not your user id"},
		{"A5 anonymous", "DELETE", mine + "&apiKeyId=" + made.ID, "", nil, 401, ""},
	} {
		a := request(t, tc.method, keysPath+tc.query, tc.credential, tc.body)
		if why := notProblem(a, tc.status, tc.message); why != "" {
			t.Errorf("%s: %s: %d %s", tc.row, why, a.status, a.text)
		}
	}
	if a := request(t, "DELETE", keysPath+mine+"&apiKeyId="+made.ID, ann.jwt, nil); a.status != 204 || a.text != "" {
		t.Errorf("A5: %d %s", a.status, a.text)
	}
	if a := request(t, "DELETE", keysPath+mine+"&apiKeyId="+made.ID, ann.jwt, nil); a.status != 404 {
		t.Errorf("A5 once more: %d", a.status)
	}
}

// A user has at most 50 keys.
func TestKeysAreBounded(t *testing.T) {
	t.Parallel()
	ann := newPerson(t)
	counts := map[int]int{}
	for range 60 {
		counts[request(t, "POST", keysPath, ann.jwt, "{}").status]++
	}
	if counts[201] != 50 || counts[409] != 10 {
		t.Errorf("sixty keys: %v", counts)
	}
}

// A key with an end stops at it, though extauthz remembers it for longer.
func TestKeysEnd(t *testing.T) {
	t.Parallel()
	ann := newPerson(t)
	var end time.Time
	var short struct{ APIKey string }
	testenv.Eventually(t, "a key before its end", func() bool {
		end = time.Now().Add(2 * time.Second)
		a := request(t, "POST", keysPath, ann.jwt, map[string]string{"expiresAt": end.UTC().Format(time.RFC3339Nano)})
		a.into(t, &short)
		return a.status == 201
	})
	if a := request(t, "GET", "/api/v1/me", short.APIKey, nil); a.status != 200 && time.Now().Before(end) {
		t.Errorf("a key before its end: %d %s", a.status, a.text)
	}
	refusedSoon(t, short.APIKey, "a key past its end")
}

// cast are the callers of the table below, each with an access token and a key.
type cast struct {
	ann  stacktest.Account // owns the organisation
	mia  stacktest.Account // its member
	bob  stacktest.Account // a stranger
	root stacktest.Account // an ADMIN
	org  string
}

func newCast(t *testing.T) cast {
	t.Helper()
	c := cast{ann: newAccount(t), mia: newAccount(t), bob: newAccount(t), root: newAccount(t, "ADMIN")}
	var org struct{ ID, Role string }
	a := request(t, "POST", orgsPath, c.ann.JWT, `{"name":"Ours"}`)
	if a.into(t, &org); a.status != 201 || org.Role != "OWNER" {
		t.Fatalf("%d %s", a.status, a.text)
	}
	c.org = org.ID
	c.join(t, c.mia.ID)
	return c
}

func (c cast) join(t *testing.T, user string) string {
	t.Helper()
	mustCall(t, 201, "POST", orgsPath+"/"+c.org+"/members", c.root.JWT, map[string]string{"userId": user, "role": "MEMBER"}, nil)
	return user
}

func (c cast) client(t *testing.T) string {
	t.Helper()
	var made struct{ ClientID string }
	mustCall(t, 201, "POST", "/api/v1/admin/clients", c.root.JWT, map[string]any{"name": "job", "grantTypes": []string{"client_credentials"},
		"scopes": []string{"tokens.read"}}, &made)
	return made.ClientID
}

// endpoint is one row of the table: what each caller gets.
type endpoint struct {
	row, method         string
	path                func() string // makes what the call ends, if it does
	body                any
	ann, mia, bob, root int // statuses; an anonymous caller gets 401 everywhere
}

func (c cast) endpoints(t *testing.T) []endpoint {
	at := func(path string) func() string { return func() string { return path } }
	members, users, nobody := orgsPath+"/"+c.org+"/members", "/api/v1/admin/users/", uuid.NewString()
	ofAnn := func() string {
		var key struct{ ID string }
		mustCall(t, 201, "POST", keysPath, c.ann.JWT, map[string]string{}, &key)
		return keysPath + "?userId=" + c.ann.ID + "&apiKeyId=" + key.ID
	}
	fresh := func() string { return newPerson(t).id }
	return []endpoint{
		{"A3 keys of ann", "POST", at(keysPath), map[string]string{"userId": c.ann.ID}, 201, 403, 403, 201},
		{"A4 keys of ann", "GET", at(keysPath + "?userId=" + c.ann.ID), nil, 200, 403, 403, 200},
		{"A5 key of ann", "DELETE", ofAnn, nil, 204, 403, 403, 204},
		{"§21 me", "GET", at("/api/v1/me"), nil, 200, 200, 200, 200},
		{"§21 make an organisation", "POST", at(orgsPath), `{"name":"Another"}`, 201, 201, 201, 201},
		{"§21 organisations", "GET", at(orgsPath), nil, 200, 200, 200, 200},
		{"§21 members", "GET", at(members), nil, 200, 200, 403, 200},
		{"§21 members of nothing", "GET", at(orgsPath + "/" + nobody + "/members"), nil, 403, 403, 403, 404},
		{"§21 member's role", "POST", at(members), map[string]string{"userId": c.mia.ID, "role": "MEMBER"}, 200, 403, 403, 200},
		{"§21 unknown member", "POST", at(members), map[string]string{"userId": nobody, "role": "MEMBER"}, 400, 403, 403, 400},
		{"§21 unknown role", "POST", at(members), map[string]string{"userId": c.mia.ID, "role": "KING"}, 400, 403, 403, 400},
		{"§21 remove a member", "DELETE", func() string { return members + "/" + c.join(t, fresh()) }, nil, 204, 403, 403, 204},
		{"§21 remove the last owner", "DELETE", at(members + "/" + c.ann.ID), nil, 409, 403, 403, 409},
		{"§21 users", "GET", at("/api/v1/admin/users"), nil, 403, 403, 403, 200},
		{"§21 roles", "PUT", func() string { return users + fresh() + "/roles" }, `{"roles":["USER","GOLD"]}`, 403, 403, 403, 200},
		{"§21 own roles", "PUT", at(users + c.ann.ID + "/roles"), `{"roles":["NOSUCH"]}`, 403, 403, 403, 400},
		{"§21 roles of nobody", "PUT", at(users + nobody + "/roles"), `{"roles":["USER"]}`, 403, 403, 403, 404},
		{"disable", "POST", func() string { return users + fresh() + "/disable" }, nil, 403, 403, 403, 200},
		{"enable", "POST", at(users + nobody + "/enable"), nil, 403, 403, 403, 404},
		{"audit trail", "GET", at("/api/v1/admin/audit"), nil, 403, 403, 403, 200},
		{"signing keys", "GET", at("/api/v1/admin/keys"), nil, 403, 403, 403, 200},
		{"clients", "GET", at("/api/v1/admin/clients"), nil, 403, 403, 403, 200},
		{"make a client", "POST", at("/api/v1/admin/clients"), `{"name":"","grantTypes":["client_credentials"],"scopes":["tokens.read"]}`, 403,
			403, 403, 400},
		{"a client", "GET", func() string { return "/api/v1/admin/clients/" + c.client(t) }, nil, 403, 403, 403, 200},
		{"a client's secret", "POST", func() string { return "/api/v1/admin/clients/" + c.client(t) + "/secret" }, nil, 403, 403, 403, 200},
		{"remove a client", "DELETE", func() string { return "/api/v1/admin/clients/" + c.client(t) }, nil, 403, 403, 403, 204},
	}
}

// TestOwnership asks every endpoint of identity as everybody, with an access token, with a key (which
// is no login), and with nothing (contract §19.2, §19.8, §21).
func TestOwnership(t *testing.T) {
	t.Parallel()
	c := newCast(t)
	for _, e := range c.endpoints(t) {
		wantProblem(t, request(t, e.method, e.path(), "", e.body), 401, "")
		for _, caller := range []struct {
			name string
			who  stacktest.Account
			want int
		}{{"bob", c.bob, e.bob}, {"mia", c.mia, e.mia}, {"ann", c.ann, e.ann}, {"root", c.root, e.root}} {
			for kind, credential := range map[string]string{"token": caller.who.JWT, "key": caller.who.Key} {
				path := e.path()
				want := caller.want
				if kind == "key" && needsLogin(e.method, path) {
					want = 403
				}
				a := request(t, e.method, path, credential, e.body)
				if a.status != want {
					t.Errorf("%s, %s by %s: want %d, got %d %s", e.row, caller.name, kind, want, a.status, a.text)
				}
				if a.status >= 400 {
					if why := notProblem(a, 0, ""); why != "" {
						t.Errorf("%s, %s by %s: %s", e.row, caller.name, kind, why)
					}
				}
			}
		}
	}
	if a := request(t, "DELETE", orgsPath+"/"+c.org+"/members/"+c.mia.ID, c.mia.JWT, nil); a.status != 204 {
		t.Errorf("a member leaves: %d %s", a.status, a.text)
	}
	wantProblem(t, request(t, "GET", orgsPath+"/"+c.org+"/members", c.mia.Key, nil), 403, "not a member")
}

// needsLogin says what no API key may: make or show credentials, organisations or roles.
func needsLogin(method, path string) bool {
	return method != "GET" || strings.HasPrefix(path, keysPath) || strings.HasPrefix(path, "/api/v1/admin/")
}

// TestEveryServiceTakesBothCredentials: contract §2.2, DECISION 2: also those that are not identity.
func TestEveryServiceTakesBothCredentials(t *testing.T) {
	t.Parallel()
	ann := newAccount(t)
	for _, path := range []string{"/api/v1/tokens/status", "/api/v1/analytics/health", "/api/v1/tokens/quota?provider=openai",
		"/api/v1/analytics/usage?provider=openai", "/v1/models", "/fallback/identity"} {
		want := http.StatusOK
		switch {
		case strings.HasPrefix(path, "/fallback/"):
			want = http.StatusServiceUnavailable
		case strings.Contains(path, "/quota"):
			want = http.StatusNotFound // no pool yet
		}
		if a := request(t, "GET", path, "", nil); a.status != 401 || !strings.HasPrefix(a.header.Get("WWW-Authenticate"), "Bearer") {
			t.Errorf("%s, anonymous: want 401 with a challenge, got %d", path, a.status)
		}
		got := map[int]bool{}
		for _, header := range [][]string{{"Authorization", "Bearer " + ann.JWT}, {"Authorization", "Bearer " + ann.Key},
			{"X-Api-Key", ann.Key}, {"X-Api-Key", "  " + ann.Key + " "}} {
			a := request(t, "GET", path, "", nil, header...)
			got[a.status] = true
			if a.header.Get("Set-Cookie") != "" {
				t.Errorf("%s sets a cookie", path)
			}
		}
		if len(got) != 1 || !got[want] {
			t.Errorf("%s: want %d by token and by key, got %v", path, want, got)
		}
	}
}

// Contract §2.2: a key that is present must be good, on every path; a blank one is absent; of both credentials
// both must be good and of one user (DECISION 3).
func TestCredentialsAtTheGateway(t *testing.T) {
	t.Parallel()
	ann, bob := newAccount(t), newAccount(t)
	login := map[string]string{"username": "nobody", "password": "nothing at all"}
	for _, tc := range []struct {
		row, method, path string
		body              any
		header            []string
		status            int
	}{
		{"bad key, public path", "POST", "/api/v1/auth/login", login, []string{"X-Api-Key", otherLast(ann.Key)}, 401},
		{"nonsense key, public path", "GET", "/oauth2/jwks", nil, []string{"X-Api-Key", "x"}, 401},
		{"bad token, public path", "POST", "/api/v1/auth/login", login, []string{"Authorization", "Bearer a.b.c"}, 401},
		{"blank key, public path", "GET", "/oauth2/jwks", nil, []string{"X-Api-Key", "  "}, 200},
		{"blank key", "GET", "/api/v1/me", nil, []string{"X-Api-Key", "  "}, 401},
		{"good key, public path", "GET", "/oauth2/jwks", nil, []string{"X-Api-Key", ann.Key}, 200},
		{"both, one user", "GET", "/api/v1/me", nil, []string{"X-Api-Key", ann.Key, "Authorization", "Bearer " + ann.JWT}, 200},
		{"both, two users", "GET", "/api/v1/me", nil, []string{"X-Api-Key", ann.Key, "Authorization", "Bearer " + bob.JWT}, 400},
		{"good key, bad token", "GET", "/api/v1/me", nil, []string{"X-Api-Key", ann.Key, "Authorization", "Bearer a.b.c"}, 401},
		{"bad key, good token", "GET", "/api/v1/me", nil, []string{"X-Api-Key", otherLast(ann.Key), "Authorization", "Bearer " + ann.JWT}, 401},
		{"two keys", "GET", "/api/v1/me", nil, []string{"X-Api-Key", ann.Key, "X-Goog-Api-Key", bob.Key}, 400},
		{"validate is not routed", "GET", keysPath + "/validate", nil, []string{"X-Api-Key", ann.Key}, 404},
		{"validate, anonymous", "GET", keysPath + "/validate", nil, nil, 404},
		{"revocations are not routed", "GET", "/internal/revocations", nil, []string{"X-Api-Key", ann.Key}, 404},
		{"actuators, anonymous", "GET", "/actuator/health", nil, nil, 200},
		{"liveness, anonymous", "GET", "/actuator/health/liveness", nil, nil, 200},
		{"readiness, anonymous", "GET", "/actuator/health/readiness", nil, nil, 200},
		{"info, anonymous", "GET", "/actuator/info", nil, nil, 200},
		{"actuators are read", "POST", "/actuator/health", "{}", []string{"X-Api-Key", ann.Key}, 404},
		{"no other actuator", "GET", "/actuator/env", nil, []string{"X-Api-Key", ann.Key}, 404},
		{"actuators, bad key", "GET", "/actuator/health", nil, []string{"X-Api-Key", "x"}, 401},
		{"unknown, known caller", "GET", "/nope", nil, []string{"X-Api-Key", ann.Key}, 404},
		{"unknown, anonymous", "GET", "/nope", nil, nil, 401},
		{"wrong method", "PATCH", "/api/v1/me", nil, []string{"Authorization", "Bearer " + ann.JWT}, 405},
		{"wrong method, key", "PATCH", "/api/v1/me", nil, []string{"X-Api-Key", ann.Key}, 403}, // a key changes nothing here
	} {
		a := request(t, tc.method, tc.path, "", tc.body, tc.header...)
		if a.status != tc.status {
			t.Errorf("%s: want %d, got %d %s", tc.row, tc.status, a.status, a.text)
		}
		if strings.HasPrefix(tc.path, "/oauth2/") && a.status >= 400 {
			refusedBy(t, a, tc.status, "invalid_token")
		} else if why := notProblem(a, 0, ""); why != "" && a.status >= 400 {
			t.Errorf("%s: %s: %s", tc.row, why, a.text)
		}
		if strings.HasPrefix(tc.path, "/actuator/health") && a.status == 200 && (a.text != `{"status":"UP"}` ||
			a.header.Get("Content-Type") != "application/json") {
			t.Errorf("%s: %s %s", tc.row, a.header.Get("Content-Type"), a.text)
		}
		for name, want := range map[string]string{"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY",
			"Referrer-Policy":    "no-referrer",
			"Permissions-Policy": "geolocation=(), microphone=(), camera=()", "Strict-Transport-Security": "max-age=31536000; includeSubDomains"} {
			if got := a.header.Values(name); !slices.Equal(got, []string{want}) {
				t.Errorf("%s: %s is %q", tc.row, name, got)
			}
		}
		if len(a.header.Values("X-Correlation-Id")) != 1 {
			t.Errorf("%s: X-Correlation-Id is %q", tc.row, a.header.Values("X-Correlation-Id"))
		}
	}
}

// Contract A7: public parts only.
func TestKeySet(t *testing.T) {
	t.Parallel()
	a := request(t, "GET", "/oauth2/jwks", "", nil)
	var set struct{ Keys []map[string]any }
	a.into(t, &set)
	if a.status != 200 || len(set.Keys) == 0 {
		t.Fatalf("%d %s", a.status, a.text)
	}
	for _, key := range set.Keys {
		for name := range key {
			if !slices.Contains([]string{"kty", "use", "alg", "kid", "n", "e"}, name) {
				t.Errorf("the key set shows %q", name)
			}
		}
	}
}

// What was done to credentials is in the trail, by whom and from where.
func TestAuditTrail(t *testing.T) {
	t.Parallel()
	ann, root := newPerson(t), newAccount(t, "ADMIN")
	_, id := ann.key(t)
	request(t, "POST", "/api/v1/auth/login", "", map[string]string{"username": ann.name, "password": "wrong horse 1"})
	request(t, "DELETE", keysPath+"?apiKeyId="+id, ann.jwt, nil, "User-Agent", "audited/1")
	var entries []struct{ Actor, Action, Target, Outcome, IP, UserAgent string }
	request(t, "GET", "/api/v1/admin/audit?actor="+ann.id, root.JWT, nil).into(t, &entries)
	var got []string
	for _, e := range slices.Backward(entries) {
		got = append(got, e.Action+" "+e.Outcome)
		if e.IP != "127.0.0.1" {
			t.Errorf("from %q: %+v", e.IP, e)
		}
	}
	if want := "[user.register success key.create success session.login failure key.revoke success]"; fmt.Sprint(got) != want {
		t.Errorf("want %s, got %s", want, got)
	}
	if e := entries[0]; e.Target != id || e.UserAgent != "audited/1" {
		t.Errorf("%+v", e)
	}
	var page []struct{ ID int64 }
	a := request(t, "GET", "/api/v1/admin/audit?limit=2&actor="+ann.id, root.JWT, nil)
	if a.into(t, &page); len(page) != 2 || !strings.Contains(a.header.Get("Link"), fmt.Sprintf("before=%d", page[1].ID)) {
		t.Errorf("page: %s, Link %q", a.text, a.header.Get("Link"))
	}
}

// A rotation publishes the new key beside the old one, and ends nothing that is signed. A second one has to wait
// until the first one's key signs.
func TestSigningKeysRotate(t *testing.T) {
	t.Parallel()
	root := newAccount(t, "ADMIN")
	statuses := map[int]int{}
	for range 2 {
		statuses[request(t, "POST", "/api/v1/admin/keys/rotate", root.JWT, nil).status]++
	}
	if statuses[409] == 0 || statuses[201]+statuses[409] != 2 { // another run on this stack may have rotated just now
		t.Errorf("two rotations: %v", statuses)
	}
	var published []struct{ Kid string }
	request(t, "GET", "/api/v1/admin/keys", root.JWT, nil).into(t, &published)
	var set struct{ Keys []struct{ Kid string } }
	request(t, "GET", "/oauth2/jwks", "", nil).into(t, &set)
	header, _ := claimsOf(t, root.JWT)
	if len(set.Keys) < 2 || len(published) != len(set.Keys) || !slices.ContainsFunc(set.Keys,
		func(k struct{ Kid string }) bool { return k.Kid == header["kid"] }) {
		t.Errorf("want the old key and the new one, got %v, %v", published, set.Keys)
	}
	if a := request(t, "GET", "/api/v1/me", root.JWT, nil); a.status != 200 {
		t.Errorf("a token of the old key: %d %s", a.status, a.text)
	}
}
