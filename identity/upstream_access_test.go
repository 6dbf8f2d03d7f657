package identity

import (
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/upstreamtest"
)

// lasting is a company whose provider can be asked again, and somebody who has signed in there, with what
// they have.
type lasting struct {
	*company
	id, key, refresh string
}

func startLasting(t *testing.T, scopes ...string) *lasting {
	t.Helper()
	l := &lasting{company: startCompany(t, func(cfg *Config) {
		u := &cfg.Auth.Upstreams[0]
		u.Scopes, u.AccessTTL = append(scopes, "openid"), 24*time.Hour
	})}
	l.enter()
	return l
}

// enter signs in, makes a key and keeps the refresh token.
func (l *lasting) enter() {
	l.t.Helper()
	b := l.browser()
	tokens := b.redeem(b.open(b.back(), nil))
	l.id, _ = b.whoIs(tokens.body["access_token"].(string))["sub"].(string)
	l.refresh, _ = tokens.body["refresh_token"].(string)
	made := l.makeKey(l.caller(), `{}`)
	l.key, _ = made.body["apiKey"].(string)
	if l.key == "" || l.refresh == "" {
		l.t.Fatalf("want a key and a refresh token: %s, %s", made.text, tokens.text)
	}
}

func (l *lasting) caller() *principal.Principal {
	return &principal.Principal{UserID: l.id, Roles: []string{principal.RoleUser}}
}

// later asks the provider as if so much time had gone by.
func (l *lasting) later(after time.Duration) {
	l.t.Helper()
	if err := l.askUpstreams(l.t.Context(), time.Now().Add(after)); err != nil {
		l.t.Fatal(err)
	}
}

// want checks whether what they have works.
func (l *lasting) want(when string, good bool) {
	l.t.Helper()
	if disabled := l.count(`SELECT count(*) FROM users WHERE id = $1 AND disabled_at IS NOT NULL`, l.id) == 1; disabled == good {
		l.t.Errorf("%s: disabled is %v", when, disabled)
	}
	tokens := l.form("/oauth2/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {l.refresh}, "client_id": {l.client}})
	if (tokens.status == http.StatusOK) != good {
		l.t.Errorf("%s: refresh: %d %s", when, tokens.status, tokens.text)
	}
	if next, ok := tokens.body["refresh_token"].(string); ok {
		l.refresh = next
	}
	if r := l.validate(l.key, nil); (r.status == http.StatusOK) != good {
		l.t.Errorf("%s: the key: %d %s", when, r.status, r.text)
	}
	var entry int
	if err := l.store.pool.QueryRow(l.t.Context(), `SELECT count(*) FROM revocations WHERE kind = 'user' AND id = $1`, l.id).Scan(&entry); err != nil ||
		(entry == 0) != good {
		l.t.Errorf("%s: %d revocations, %v", when, entry, err)
	}
}

// A provider that refuses the refresh token has ended the account; the next login opens it again.
func TestAccessEndsWhenTheProviderSaysSo(t *testing.T) {
	t.Parallel()
	l := startLasting(t, "offline_access")
	l.later(16 * time.Minute)
	l.later(32 * time.Minute) // by the next refresh token
	if n := l.acme.Asked("/token"); n != 3 {
		t.Errorf("want a login and two questions, got %d requests", n)
	}
	l.want("asked twice", true)
	l.acme.Change(at("/token", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }))
	l.later(48 * time.Minute)
	l.want("while the provider is down", true)
	l.acme.Change(func(b *upstreamtest.Behaviour) { b.Answer, b.Ended = nil, true })
	l.later(10 * time.Minute)
	l.want("before it is time to ask", true)
	l.later(64 * time.Minute)
	l.want("refused", false)
	if n := l.count(`SELECT count(*) FROM audit_log WHERE action = 'user.disable' AND target = $1`, l.id); n != 1 {
		t.Errorf("want one entry in the trail, got %d", n)
	}
	before := l.id
	l.enter()
	if l.id != before || l.count(`SELECT count(*) FROM users WHERE id = $1 AND disabled_at IS NULL`, l.id) != 1 {
		t.Errorf("the next login is another account, or has not opened it")
	}
}

// What nobody confirms for access_ttl ends: by a provider that gives no refresh token, one that is silent,
// and one that is configured no more.
func TestAccessEndsWhereNobodyConfirmsIt(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		scopes []string
		change func(*lasting)
		ttl    time.Duration
	}{
		"no refresh token": {nil, func(*lasting) {}, 24 * time.Hour},
		"silence": {[]string{"offline_access"}, func(l *lasting) {
			l.acme.Change(at("/token", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }))
		}, 24 * time.Hour},
		"configured no more": {[]string{"offline_access"}, func(l *lasting) { l.cfg.Auth.Upstreams = nil }, config.UpstreamAccessTTL},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := startLasting(t, c.scopes...)
			c.change(l)
			l.later(c.ttl - time.Minute)
			l.want("before it", true)
			l.later(c.ttl + time.Minute)
			l.want("after it", false)
		})
	}
}

// What an ADMIN decides counts for more: who is disabled by one is not let in by a login, and who is
// enabled by one is let in for access_ttl.
func TestWhatAnAdministratorDecides(t *testing.T) {
	t.Parallel()
	l := startLasting(t)
	decide := func(what string) {
		t.Helper()
		if r := l.call("POST", "/api/v1/admin/users/"+l.id+"/"+what, nil, admin()); r.status != http.StatusOK {
			t.Fatalf("%d %s", r.status, r.text)
		}
	}
	decide("disable")
	l.later(48 * time.Hour)
	b := l.browser()
	if page := b.shown(b.open(b.back(), nil)); page.status != http.StatusForbidden {
		t.Errorf("disabled, and let in: %d %s", page.status, page.text)
	}
	decide("enable")
	l.later(time.Hour)
	if n := l.count(`SELECT count(*) FROM users WHERE id = $1 AND disabled_at IS NULL`, l.id); n != 1 {
		t.Error("what an ADMIN enabled ended at once")
	}
}

// Refresh tokens of providers are not in the database as they are.
func TestRefreshTokensOfProvidersAreSealed(t *testing.T) {
	t.Parallel()
	l := startLasting(t, "offline_access")
	var sealed []byte
	if err := l.store.pool.QueryRow(t.Context(), `SELECT refresh_token FROM upstream_users`).Scan(&sealed); err != nil || len(sealed) < 28+26 {
		t.Fatalf("%d bytes, %v", len(sealed), err)
	}
	if l.acme.Knows(string(sealed)) || l.acme.Asked("/token") != 1 {
		t.Error("it stands there as it is")
	}
	if _, err := l.asking.open(uuid.MustParse(l.id), sealed); err != nil {
		t.Error(err)
	}
	if _, err := l.asking.open(uuid.New(), sealed); err == nil {
		t.Error("it opens for another account")
	}
}
