package oauth

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/identity/identitydb"
)

// device asks for codes as a client.
func (b *bench) device(m made, scope string) (device, user string) {
	b.t.Helper()
	r := b.post("/oauth2/device_authorization", url.Values{"client_id": {m.ID}, "scope": {scope}})
	if r.status != http.StatusOK {
		b.t.Fatalf("device authorization: %d %s", r.status, r.text)
	}
	return r.body["device_code"].(string), r.body["user_code"].(string)
}

func (b *bench) poll(m made, device string) reply {
	b.t.Helper()
	return b.post("/oauth2/token", url.Values{"grant_type": {grantDevice}, "client_id": {m.ID}, "device_code": {device}})
}

func tv(b *bench) made {
	n := web()
	n.Public = true
	return b.app(n)
}

func TestPollingADevice(t *testing.T) {
	t.Parallel()
	b := start(t)
	b.user("ann")
	m, other := tv(b), tv(b)
	device, user := b.device(m, "tokens.read")
	wantError(t, b.poll(other, device), 400, "invalid_grant")
	wantError(t, b.poll(m, device), 400, "authorization_pending")
	wantError(t, b.poll(m, device), 400, "slow_down")
	wantError(t, b.poll(m, device), 400, "slow_down")
	var interval int
	if err := b.pool.QueryRow(t.Context(), `SELECT poll_interval FROM oauth_devices WHERE device_hash = $1`,
		hashed(device)).Scan(&interval); err != nil || interval != 11 {
		t.Errorf("want the interval raised by 5 s twice, got %d, %v", interval, err)
	}
	page := b.post("/oauth2/device", url.Values{"user_code": {user}})
	if r := b.post("/oauth2/device", url.Values{"form": {sealedIn(t, page)}, "decision": {"deny"}}); r.status != http.StatusOK {
		t.Fatalf("refuse: %d %s", r.status, r.text)
	}
	wantError(t, b.poll(m, device), 400, "access_denied")
	if r := b.post("/oauth2/device", url.Values{"form": {sealedIn(t, page)}, "username": {"ann"}, "password": {password},
		"decision": {"allow"}}); r.status != http.StatusBadRequest {
		t.Errorf("answered twice: %d", r.status)
	}
	late, _ := b.device(m, "tokens.read")
	if _, err := b.pool.Exec(t.Context(), `UPDATE oauth_devices SET expires_at = now() WHERE device_hash = $1`, hashed(late)); err != nil {
		t.Fatal(err)
	}
	wantError(t, b.poll(m, late), 400, "expired_token")
}

func TestPollRefusals(t *testing.T) {
	t.Parallel()
	now := time.Now()
	just, before, later := now.Add(-time.Second), now.Add(-5*time.Second), now.Add(time.Minute)
	for name, c := range map[string]struct {
		row  identitydb.OauthDevice
		want string
	}{
		"first poll": {identitydb.OauthDevice{State: statePending, ExpiresAt: later, PollInterval: 5}, codeAuthorizationWaits},
		"in time": {identitydb.OauthDevice{State: statePending, ExpiresAt: later, PollInterval: 5, PolledAt: &before},
			codeAuthorizationWaits},
		"hasty":              {identitydb.OauthDevice{State: statePending, ExpiresAt: later, PollInterval: 5, PolledAt: &just}, codeSlowDown},
		"hasty and late":     {identitydb.OauthDevice{State: statePending, ExpiresAt: now, PollInterval: 5, PolledAt: &just}, codeExpiredToken},
		"denied":             {identitydb.OauthDevice{State: stateDenied, ExpiresAt: later, PollInterval: 5, PolledAt: &just}, codeAccessDenied},
		"approved by nobody": {identitydb.OauthDevice{State: stateApproved, ExpiresAt: later}, codeAuthorizationWaits},
		"used":               {identitydb.OauthDevice{State: stateUsed, ExpiresAt: later}, codeInvalidGrant},
	} {
		err := pollRefusal(c.row, now)
		if got, ok := errors.AsType[*protocolError](err); !ok || got.code != c.want {
			t.Errorf("%s: want %s, got %v", name, c.want, err)
		}
	}
}

func TestDevicePageRefusals(t *testing.T) {
	t.Parallel()
	b := start(t)
	b.user("ann")
	m := tv(b)
	_, user := b.device(m, "admin")
	page := b.post("/oauth2/device", url.Values{"user_code": {user}})
	form := sealedIn(t, page)
	for name, c := range map[string]struct {
		form   url.Values
		status int
	}{
		"nothing":         {url.Values{}, 400},
		"too short":       {url.Values{"user_code": {"BCDF"}}, 400},
		"vowels":          {url.Values{"user_code": {"AEIO-UAEI"}}, 400},
		"NUL":             {url.Values{"user_code": {"BCDF\x00GHJK"}}, 400},
		"very long":       {url.Values{"user_code": {strings.Repeat("B", 5000)}}, 400},
		"code twice":      {url.Values{"user_code": {user, user}}, 400},
		"invented form":   {url.Values{"form": {"AAAA"}}, 400},
		"wrong password":  {url.Values{"form": {form}, "username": {"ann"}, "password": {"x"}, "decision": {"allow"}}, 403},
		"admin of a USER": {url.Values{"form": {form}, "username": {"ann"}, "password": {password}, "decision": {"allow"}}, 403},
	} {
		if r := b.post("/oauth2/device", c.form); r.status != c.status || !strings.HasPrefix(r.header.Get("Content-Type"), "text/html") {
			t.Errorf("%s: want %d, got %d", name, c.status, r.status)
		}
	}
	if r := b.post("/oauth2/device", url.Values{"form": {form}, "decision": {"deny"}}, func(r *http.Request) {
		r.Header.Set("Sec-Fetch-Site",
			"cross-site")
	}); r.status != http.StatusBadRequest {
		t.Errorf("from another site: %d", r.status)
	}
	if r := b.get("/oauth2/device", url.Values{"user_code": {`"><script>`}}); r.status != http.StatusOK || strings.Contains(r.text,
		"<script") {
		t.Errorf("a link with markup: %d", r.status)
	}
	for range 10 { // wrong guesses
		b.post("/oauth2/device", url.Values{"user_code": {"BBBB-BBBB"}})
	}
	if r := b.post("/oauth2/device", url.Values{"user_code": {user}}); r.status != http.StatusTooManyRequests ||
		r.header.Get("Retry-After") == "" {
		t.Errorf("after many wrong codes: want 429 with Retry-After, got %d", r.status)
	}
}

func TestDeviceAuthorizationRefusals(t *testing.T) {
	t.Parallel()
	b := start(t)
	job := b.app(registration{Name: "job", GrantTypes: []string{grantClient}, Scopes: []string{"tokens.read"}})
	m := tv(b)
	wantError(t, b.post("/oauth2/device_authorization", url.Values{"client_id": {job.ID}, "client_secret": {job.Secret}}), 400,
		"unauthorized_client")
	wantError(t, b.post("/oauth2/device_authorization", url.Values{"client_id": {"app-x"}}), 401, "invalid_client")
	wantError(t, b.post("/oauth2/device_authorization", url.Values{}), 401, "invalid_client")
	wantError(t, b.post("/oauth2/device_authorization", url.Values{"client_id": {m.ID}, "scope": {"everything"}}), 400, "invalid_scope")
	wantError(t, b.post("/oauth2/device_authorization", url.Values{"client_id": {m.ID}, "scope": {"a", "b"}}), 400, "invalid_request")
}

func TestPurgeKeepsWhatStillMeansSomething(t *testing.T) {
	t.Parallel()
	b := start(t)
	b.user("ann")
	m := b.app(web())
	b.code(m, "ann")
	b.device(tv(b), "tokens.read")
	count := func() (codes, devices int) {
		if err := b.pool.QueryRow(t.Context(), `SELECT (SELECT count(*) FROM oauth_codes), (SELECT count(*) FROM oauth_devices)`).Scan(&codes,
			&devices); err != nil {
			t.Fatal(err)
		}
		return codes, devices
	}
	if err := b.Purge(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	if codes, devices := count(); codes != 1 || devices != 1 {
		t.Errorf("want both kept, got %d and %d", codes, devices)
	}
	if err := b.Purge(t.Context(), time.Now().Add(deviceLife+deviceKept+time.Minute)); err != nil {
		t.Fatal(err)
	}
	if codes, devices := count(); codes != 1 || devices != 0 {
		t.Errorf("want the code remembered and the device forgotten, got %d and %d", codes, devices)
	}
	if err := b.Purge(t.Context(), time.Now().Add(codeLife+codeKept+time.Minute)); err != nil {
		t.Fatal(err)
	}
	if codes, _ := count(); codes != 0 {
		t.Errorf("want the code forgotten, got %d", codes)
	}
}
