package grants_test

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/leaky-tokens/leaky-tokens/identity/grants"
	"github.com/leaky-tokens/leaky-tokens/identity/migrations"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/revocation"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// heard collects what is announced.
type heard struct{ all []revocation.Revocation }

func (h *heard) Announce(all ...revocation.Revocation) { h.all = append(h.all, all...) }

// plain shows claims instead of signing them.
type plain struct{ claims grants.Claims }

func (p *plain) Sign(_ string, claims jwt.Claims) (string, error) {
	p.claims = claims.(grants.Claims)
	return "signed", nil
}

func store(t *testing.T) (*grants.Store, *pgxpool.Pool, *heard, uuid.UUID) {
	t.Helper()
	pool := testenv.Postgres(t)
	if err := migrations.Up(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	user := uuid.New()
	for _, statement := range []string{
		`INSERT INTO users (id, username, email, password_hash) VALUES ($1, 'ann', 'ann@example.org', '')`,
		`INSERT INTO user_roles (user_id, role_id) SELECT $1, id FROM roles WHERE name IN ('ADMIN', 'USER')`,
	} {
		if _, err := pool.Exec(t.Context(), statement, user); err != nil {
			t.Fatal(err)
		}
	}
	h := &heard{}
	return grants.New(grants.Config{Pool: pool, Announcer: h, TokenTTL: time.Hour, Idle: time.Hour, Longest: 2 * time.Hour}), pool, h, user
}

// rotate uses a refresh token and gives the grant and the next one.
func rotate(t *testing.T, s *grants.Store, refresh, client string) (g grants.Grant, next string, err error) {
	t.Helper()
	text, err := s.Rotate(t.Context(), refresh, client, func(_ context.Context, _ pgx.Tx, of grants.Grant, token string) ([]byte, error) {
		g = of
		return []byte(token), nil
	})
	return g, string(text), err
}

func TestAGrantComesBackAsItWasGiven(t *testing.T) {
	t.Parallel()
	s, _, h, user := store(t)
	want := grants.Grant{UserID: user, ClientID: "app", Scope: "tokens.read openid", AuthTime: time.Now().UTC().Truncate(time.Second)}
	family, refresh, err := s.Begin(t.Context(), want)
	if err != nil {
		t.Fatal(err)
	}
	want.Family = family
	if _, _, err := rotate(t, s, refresh, "another app"); !errors.Is(err, grants.ErrUnknown) {
		t.Fatalf("another client's token: want %v, got %v", grants.ErrUnknown, err)
	}
	got, next, err := rotate(t, s, refresh, "app")
	got.AuthTime = got.AuthTime.UTC()
	if err != nil || got != want || next == refresh || !grants.Looks(next) {
		t.Fatalf("want %+v, got %+v, %v", want, got, err)
	}
	if err := s.RevokeByToken(t.Context(), next, "another app"); !errors.Is(err, grants.ErrUnknown) || len(h.all) != 0 {
		t.Fatalf("another client revokes: %v", err)
	}
	if err := s.RevokeByToken(t.Context(), next, "app"); err != nil || len(h.all) != 1 || h.all[0].ID != family.String() {
		t.Fatalf("revoke: %v, %+v", err, h.all)
	}
	if err := s.RevokeFamily(t.Context(), family, "again"); err != nil || len(h.all) != 1 {
		t.Fatalf("what has ended ends once: %v, %+v", err, h.all)
	}
	if err := s.RevokeFamily(t.Context(), uuid.New(), "never was"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := rotate(t, s, next, "app"); !errors.Is(err, grants.ErrUnknown) {
		t.Fatalf("want %v, got %v", grants.ErrUnknown, err)
	}
}

func TestNonsenseIsUnknown(t *testing.T) {
	t.Parallel()
	s, _, _, _ := store(t)
	for _, token := range []string{"", "x", "leaky_rt_", "leaky_rt_\x00aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
		"leaky_rt_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"} {
		if _, _, err := rotate(t, s, token, "app"); !errors.Is(err, grants.ErrUnknown) {
			t.Errorf("%q: want %v, got %v", token, grants.ErrUnknown, err)
		}
		if err := s.RevokeByToken(t.Context(), token, "app"); !errors.Is(err, grants.ErrUnknown) {
			t.Errorf("%q: want %v, got %v", token, grants.ErrUnknown, err)
		}
	}
}

func TestTokensCarryWhatTheUserIsNow(t *testing.T) {
	t.Parallel()
	_, pool, _, user := store(t)
	signer := &plain{}
	tokens := &grants.Tokens{DB: pool, Signer: signer, Issuer: "iss", Audience: "aud", TTL: time.Hour}
	exec := func(statement string, args ...any) {
		t.Helper()
		if _, err := pool.Exec(context.WithoutCancel(t.Context()), statement, args...); err != nil {
			t.Fatal(err)
		}
	}
	family, org := uuid.New(), uuid.New()
	token, expiresIn, err := tokens.Issue(t.Context(), grants.Grant{UserID: user, ClientID: "leaky"}, family)
	c := signer.claims
	if err != nil || token != "signed" || expiresIn != 3600 || c.Subject != user.String() || c.Family != family.String() ||
		len(c.Roles) != 2 || c.Generation != 1 || c.OrgID != "" {
		t.Fatalf("got %q, %d, %+v, %v", token, expiresIn, c, err)
	}
	if _, _, err := tokens.Issue(t.Context(), grants.Grant{UserID: user, ClientID: "app", Scope: "tokens.read"}, uuid.Nil); err != nil ||
		len(signer.claims.Roles) != 1 || signer.claims.Family != "" {
		t.Fatalf("without the scope admin there is no role ADMIN: %+v, %v", signer.claims, err)
	}
	if _, _, err := tokens.Issue(t.Context(), grants.Grant{UserID: user, ClientID: "app", Scope: "tokens.read admin"},
		uuid.Nil); err != nil || len(signer.claims.Roles) != 2 {
		t.Fatalf("got %+v, %v", signer.claims, err)
	}
	inOrg := grants.Grant{UserID: user, ClientID: "app", OrgID: org}
	exec(`INSERT INTO orgs (id, name) VALUES ($1, 'ours')`, org)
	if _, _, err := tokens.Issue(t.Context(), inOrg, family); !errors.Is(err, grants.ErrGone) {
		t.Fatalf("no member: want %v, got %v", grants.ErrGone, err)
	}
	exec(`INSERT INTO org_members (org_id, user_id, role, team) VALUES ($1, $2, 'MEMBER', 'blue')`, org, user)
	if _, _, err := tokens.Issue(t.Context(), inOrg, family); err != nil || signer.claims.OrgID != org.String() ||
		signer.claims.Team != "blue" {
		t.Fatalf("got %+v, %v", signer.claims, err)
	}
	exec(`UPDATE users SET disabled_at = now() WHERE id = $1`, user)
	if _, _, err := tokens.Issue(t.Context(), grants.Grant{UserID: user}, family); !errors.Is(err, grants.ErrGone) {
		t.Fatalf("disabled: want %v, got %v", grants.ErrGone, err)
	}
	if _, _, err := tokens.Issue(t.Context(), grants.Grant{UserID: uuid.New()}, family); !errors.Is(err, grants.ErrGone) {
		t.Fatalf("unknown: want %v, got %v", grants.ErrGone, err)
	}
}

// A repeat gets the same answer within the grace, and ends the family after it.
func TestARepeatWithinTheGraceGetsTheSameAnswer(t *testing.T) {
	t.Parallel()
	_, pool, h, user := store(t)
	s := grants.New(grants.Config{Pool: pool, Announcer: h, TokenTTL: time.Hour, Idle: time.Hour, Longest: 2 * time.Hour, Grace: time.Minute})
	_, first, err := s.Begin(t.Context(), grants.Grant{UserID: user, ClientID: "app", AuthTime: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	answers := make(chan string, 50)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if _, next, err := rotate(t, s, first, "app"); err != nil {
				t.Error(err)
			} else {
				answers <- next
			}
		})
	}
	wg.Wait()
	close(answers)
	second := <-answers
	for other := range answers {
		if other != second {
			t.Fatalf("want one successor, got %q and %q", second, other)
		}
	}
	if _, _, err := rotate(t, s, first, "another app"); !errors.Is(err, grants.ErrUnknown) {
		t.Fatalf("another client repeats: want %v, got %v", grants.ErrUnknown, err)
	}
	if _, third, err := rotate(t, s, second, "app"); err != nil || third == second {
		t.Fatalf("the successor rotates: %q, %v", third, err)
	}
	if _, again, err := rotate(t, s, first, "app"); err != nil || again != second {
		t.Fatalf("a late repeat within the grace: %q, %v", again, err)
	}
	var stored []byte
	if err := pool.QueryRow(t.Context(), `SELECT string_agg(answer, '') FROM refresh_tokens`).Scan(&stored); err != nil ||
		len(stored) == 0 || bytes.Contains(stored, []byte("leaky_rt_")) {
		t.Fatalf("what is kept must be sealed: %q, %v", stored, err)
	}
	if _, err := pool.Exec(t.Context(), `UPDATE refresh_tokens SET used_at = used_at - interval '61 seconds' WHERE used_at IS NOT NULL`); err != nil {
		t.Fatal(err)
	}
	if err := s.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	var kept int
	if err := pool.QueryRow(t.Context(), `SELECT count(answer) FROM refresh_tokens`).Scan(&kept); err != nil || kept != 0 {
		t.Fatalf("want no answer kept after the grace, got %d, %v", kept, err)
	}
	if _, _, err := rotate(t, s, first, "app"); !errors.Is(err, grants.ErrReused) || len(h.all) != 1 {
		t.Fatalf("after the grace: want %v and the family ended, got %v, %v", grants.ErrReused, err, h.all)
	}
}
