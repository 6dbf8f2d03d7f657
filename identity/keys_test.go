package identity

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/apikey"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/revocation"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

const keysPath = "/api/v1/auth/api-keys"

func (b *bench) makeKey(as *principal.Principal, body any) reply {
	b.t.Helper()
	r := b.call("POST", keysPath, body, as)
	if r.status != http.StatusCreated {
		b.t.Fatalf("create key: %d %s", r.status, r.text)
	}
	return r
}

func (b *bench) validate(key string, extra http.Header) reply {
	b.t.Helper()
	req, err := http.NewRequestWithContext(b.t.Context(), http.MethodGet, b.url+keysPath+"/validate", http.NoBody)
	if err != nil {
		b.t.Fatal(err)
	}
	for name, values := range extra {
		req.Header[name] = values
	}
	if key != "" {
		req.Header.Set("X-Api-Key", key)
	}
	return b.send(req)
}

func TestKeyFromCreationToRevocation(t *testing.T) {
	t.Parallel()
	cfg, signer := settings(t, testenv.Postgres(t))
	cfg.NATS = testenv.NATS(t)
	b := launch(t, cfg, signer)
	b.waitReady()
	ann := b.join("ann")
	expires := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	r := b.makeKey(ann, map[string]any{"userId": ann.UserID, "name": " laptop ", "expiresAt": expires.Format(time.RFC3339)})
	key := r.body["apiKey"].(string)
	if owner, err := apikey.Parse(key); err != nil || owner.String() != ann.UserID {
		t.Fatalf("key is not of %s: %v, %v", ann.UserID, owner, err)
	}
	if r.body["name"] != "laptop" || r.body["expiresAt"] != expires.Format(time.RFC3339) || r.body["createdAt"] == nil ||
		r.body["userId"] != ann.UserID {
		t.Fatalf("got %s", r.text)
	}
	valid := b.validate(key, nil)
	if valid.status != http.StatusOK || valid.body["userId"] != ann.UserID || valid.body["keyId"] != r.body["id"] ||
		fmt.Sprint(valid.body["roles"]) != "[USER]" {
		t.Fatalf("validate: %d %s", valid.status, valid.text)
	}
	list := b.call("GET", keysPath+"?userId="+ann.UserID, nil, ann)
	if list.status != http.StatusOK || !strings.Contains(list.text, r.body["id"].(string)) || strings.Contains(list.text,
		apikey.Hash(key)) || strings.Contains(list.text, "leaky_") {
		t.Fatalf("list: %d %s", list.status, list.text)
	}
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
	gone := b.call("DELETE", keysPath+"?userId="+ann.UserID+"&apiKeyId="+r.body["id"].(string), nil, ann)
	if gone.status != http.StatusNoContent || gone.text != "" {
		t.Fatalf("revoke: %d %s", gone.status, gone.text)
	}
	wantProblem(t, b.validate(key, nil), http.StatusUnauthorized, "invalid api key")
	if got := heard(t, sub, revocation.Key); got.ID != apikey.Hash(key) {
		t.Fatalf("want the key's hash on NATS, got %+v", got)
	}
	wantProblem(t, b.call("DELETE", keysPath+"?apiKeyId="+r.body["id"].(string), nil, ann), http.StatusNotFound, "api key not found")
}

// heard is the next revocation of a kind that was announced.
func heard(t *testing.T, sub *nats.Subscription, kind revocation.Kind) revocation.Revocation {
	t.Helper()
	for {
		msg, err := sub.NextMsg(10 * time.Second)
		if err != nil {
			t.Fatalf("no revocation of kind %s: %v", kind, err)
		}
		got, err := revocation.Decode(msg.Data)
		if err != nil {
			t.Fatal(err)
		}
		if got.Kind == kind {
			return got
		}
	}
}

func TestOwnKeysNeedNoUserID(t *testing.T) {
	t.Parallel()
	b := start(t)
	ann := b.join("ann")
	if r := b.call("GET", keysPath, nil, ann); r.status != http.StatusOK || strings.TrimSpace(r.text) != "[]" {
		t.Fatalf("want [], got %d %s", r.status, r.text)
	}
	r := b.makeKey(ann, `{}`)
	if r.body["userId"] != ann.UserID || r.body["name"] != nil || r.body["expiresAt"] != nil {
		t.Fatalf("got %s", r.text)
	}
	if gone := b.call("DELETE", keysPath+"?apiKeyId="+r.body["id"].(string), nil, ann); gone.status != http.StatusNoContent {
		t.Fatalf("revoke: %d %s", gone.status, gone.text)
	}
}

func TestKeyRefusals(t *testing.T) {
	t.Parallel()
	b := start(t)
	ann, bob := b.join("ann"), b.join("bob")
	bobs := b.makeKey(bob, `{}`).body["id"].(string)
	stranger := uuid.NewString()
	past := time.Now().Add(-time.Minute).Format(time.RFC3339)
	for name, c := range map[string]struct {
		method, path string
		body         any
		as           *principal.Principal
		status       int
		message      string
	}{
		"create anonymously":        {"POST", keysPath, `{}`, nil, 401, ""},
		"create for another":        {"POST", keysPath, map[string]string{"userId": bob.UserID}, ann, 403, ""},
		"create for a malformed id": {"POST", keysPath, map[string]string{"userId": "x"}, ann, 403, ""},
		"create, another and bad":   {"POST", keysPath, map[string]string{"userId": bob.UserID, "expiresAt": "x"}, ann, 403, ""},
		"ADMIN, blank user":         {"POST", keysPath, map[string]string{"userId": ""}, admin(), 400, "userId is required"},
		"ADMIN, malformed user":     {"POST", keysPath, map[string]string{"userId": "{" + stranger + "}"}, admin(), 400, "invalid userId"},
		"ADMIN, unknown user":       {"POST", keysPath, map[string]string{"userId": stranger}, admin(), 400, "user not found"},
		"name of 101 characters": {"POST", keysPath, map[string]string{"name": strings.Repeat("ä", 101)}, ann, 400,
			"name must be at most 100 characters"},
		"NUL in the name":    {"POST", keysPath, map[string]string{"name": "a\x00b"}, ann, 400, ""},
		"expiry in the past": {"POST", keysPath, map[string]string{"expiresAt": past}, ann, 400, "expiresAt is in the past"},
		"expiry is not a date": {"POST", keysPath, map[string]string{"expiresAt": "tomorrow"}, ann, 400,
			"expiresAt must be an RFC 3339 date-time"},
		"expiry is a number":          {"POST", keysPath, map[string]int{"expiresAt": 1}, ann, 400, "expiresAt has the wrong type"},
		"list anonymously":            {"GET", keysPath, nil, nil, 401, ""},
		"list another's":              {"GET", keysPath + "?userId=" + bob.UserID, nil, ann, 403, ""},
		"list a malformed id":         {"GET", keysPath + "?userId=x", nil, ann, 403, ""},
		"ADMIN lists a malformed id":  {"GET", keysPath + "?userId=x", nil, admin(), 400, "invalid userId"},
		"list two ids":                {"GET", keysPath + "?userId=" + ann.UserID + "&userId=" + bob.UserID, nil, ann, 400, ""},
		"revoke another's as them":    {"DELETE", keysPath + "?userId=" + bob.UserID + "&apiKeyId=" + bobs, nil, ann, 403, ""},
		"revoke another's as own":     {"DELETE", keysPath + "?userId=" + ann.UserID + "&apiKeyId=" + bobs, nil, ann, 404, "api key not found"},
		"revoke without id":           {"DELETE", keysPath + "?userId=" + ann.UserID, nil, ann, 400, "apiKeyId is required"},
		"revoke a malformed id":       {"DELETE", keysPath + "?apiKeyId=1", nil, ann, 400, "invalid apiKeyId"},
		"revoke anonymously":          {"DELETE", keysPath + "?apiKeyId=" + bobs, nil, nil, 401, ""},
		"ADMIN revokes of the wrong":  {"DELETE", keysPath + "?userId=" + ann.UserID + "&apiKeyId=" + bobs, nil, admin(), 404, ""},
		"no user id in the identity":  {"GET", keysPath, nil, &principal.Principal{UserID: "root"}, 401, ""},
		"a raw header is no identity": {"GET", keysPath, nil, nil, 401, ""},
	} {
		r := b.call(c.method, c.path, c.body, c.as)
		t.Run(name, func(t *testing.T) { wantProblem(t, r, c.status, c.message) })
	}
	if r := b.call("GET", keysPath+"?userId="+bob.UserID, nil, admin()); r.status != 200 || !strings.Contains(r.text, bobs) {
		t.Errorf("ADMIN lists bob's: %d %s", r.status, r.text)
	}
	if r := b.call("DELETE", keysPath+"?userId="+bob.UserID+"&apiKeyId="+bobs, nil, admin()); r.status != 204 {
		t.Errorf("ADMIN revokes bob's: %d %s", r.status, r.text)
	}
}

func TestOnlySignedIdentitiesCount(t *testing.T) {
	t.Parallel()
	b := start(t)
	ann := b.join("ann")
	forOther, err := b.signer.Mint(*ann, "tokensvc", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	old, err := b.signer.Mint(*ann, Audience, time.Now().Add(-2*principal.Lifetime))
	if err != nil {
		t.Fatal(err)
	}
	good, err := b.signer.Mint(*ann, Audience, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for name, header := range map[string]http.Header{
		"raw user id":      {"X-User-Id": {ann.UserID}, "X-User-Roles": {"ADMIN"}},
		"another audience": {http.CanonicalHeaderKey(attributes.HeaderIdentity): {forOther}},
		"expired":          {http.CanonicalHeaderKey(attributes.HeaderIdentity): {old}},
		"twice":            {http.CanonicalHeaderKey(attributes.HeaderIdentity): {good, good}},
		"signature cut":    {http.CanonicalHeaderKey(attributes.HeaderIdentity): {good[:len(good)-4]}},
		"as bearer":        {"Authorization": {"Bearer " + good}},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, b.url+keysPath, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		req.Header = header
		r := b.send(req)
		if r.status != http.StatusUnauthorized || r.header.Get("Www-Authenticate") != "Bearer" {
			t.Errorf("%s: want 401 with a challenge, got %d %v", name, r.status, r.header)
		}
	}
}

func TestFiftyKeysAtMost(t *testing.T) {
	t.Parallel()
	b := start(t)
	ann := b.join("ann")
	count := map[int]int{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range 60 {
		wg.Go(func() {
			r := b.call("POST", keysPath, `{}`, ann)
			mu.Lock()
			defer mu.Unlock()
			count[r.status]++
		})
	}
	wg.Wait()
	if count[http.StatusCreated] != 50 || count[http.StatusConflict] != 10 {
		t.Fatalf("want 50 created and 10 refused, got %v", count)
	}
	if _, err := b.store.pool.Exec(t.Context(), `UPDATE api_keys SET expires_at = now() - interval '1 s' WHERE id IN (SELECT id FROM api_keys LIMIT 3)`); err != nil {
		t.Fatal(err)
	}
	b.makeKey(ann, `{}`) // expired keys make room
}

func TestValidate(t *testing.T) {
	t.Parallel()
	b := start(t)
	ann := b.join("ann")
	key := b.makeKey(ann, `{}`).body["apiKey"].(string)
	dead := b.makeKey(ann, map[string]string{"expiresAt": time.Now().Add(time.Hour).Format(time.RFC3339)}).body["apiKey"].(string)
	if _, err := b.store.pool.Exec(t.Context(), `UPDATE api_keys SET expires_at = now() WHERE key_value = $1`, apikey.Hash(dead)); err != nil {
		t.Fatal(err)
	}
	last := "0"
	if strings.HasSuffix(key, "0") {
		last = "1"
	}
	for name, c := range map[string]struct{ key, message string }{
		"missing":    {"", "api key is required"},
		"malformed":  {"leaky_x", "invalid api key"},
		"injection":  {"sk-x' OR pg_sleep(8)--", "invalid api key"},
		"one off":    {key[:len(key)-1] + last, "invalid api key"},
		"never made": {apikey.New(uuid.MustParse(ann.UserID)), "invalid api key"},
		"expired":    {dead, "api key expired"},
	} {
		r := b.validate(c.key, nil)
		t.Run(name, func(t *testing.T) { wantProblem(t, r, http.StatusUnauthorized, c.message) })
	}
	for _, name := range []string{"X-Forwarded-For", "X-Forwarded-Proto", "X-Leaky-Identity"} {
		if r := b.validate(key, http.Header{name: {"x"}}); r.status != http.StatusNotFound {
			t.Errorf("with %s: want 404, got %d", name, r.status)
		}
	}
}
