package principal

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
)

func pair(t *testing.T) (*Signer, jwt.Keyfunc) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return NewSigner(private), func(token *jwt.Token) (any, error) {
		if token.Header["kid"] != KeyID(public) {
			return nil, errors.New("another key")
		}
		return public, nil
	}
}

func TestMintedIdentitiesVerify(t *testing.T) {
	t.Parallel()
	signer, keys := pair(t)
	want := Principal{UserID: "u", OrgID: "o", KeyID: "k", Roles: []string{"ADMIN", "USER"}, Tier: "GOLD"}
	token, err := signer.Mint(want, "tokensvc", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	got, err := NewVerifier("tokensvc", keys).Verify(token)
	if err != nil || got.UserID != want.UserID || got.OrgID != want.OrgID || got.KeyID != want.KeyID || got.Tier != want.Tier ||
		!slices.Equal(got.Roles, want.Roles) {
		t.Fatalf("want %+v, got %+v, %v", want, got, err)
	}
	if !got.Is(RoleAdmin) || got.Is("admin") {
		t.Error("Is compares roles as they are written")
	}
}

func TestBadIdentitiesAreRefused(t *testing.T) {
	t.Parallel()
	signer, keys := pair(t)
	other, _ := pair(t)
	now := time.Now()
	mint := func(s *Signer, p Principal, audience string, at time.Time) string {
		token, err := s.Mint(p, audience, at)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	user := Principal{UserID: "u"}
	good := mint(signer, user, "tokensvc", now)
	parts := strings.Split(good, ".")
	secret, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.RegisteredClaims{Issuer: Issuer, Subject: "u",
		Audience:  jwt.ClaimStrings{"tokensvc"},
		ExpiresAt: jwt.NewNumericDate(now.Add(time.Minute))}).SignedString(signer.JWKS())
	if err != nil {
		t.Fatal(err)
	}
	for name, token := range map[string]string{
		"empty": "", "dots": strings.Repeat(".", 4000), "too long": good + strings.Repeat("A", 4096),
		"another audience": mint(signer, user, "analytics", now),
		"another key":      mint(other, user, "tokensvc", now),
		"expired":          mint(signer, user, "tokensvc", now.Add(-Lifetime-10*time.Second)),
		"from the future":  mint(signer, user, "tokensvc", now.Add(time.Minute)),
		"no subject":       mint(signer, Principal{}, "tokensvc", now),
		"HMAC":             secret,
		"cut":              parts[0] + "." + parts[1] + ".",
	} {
		if p, err := NewVerifier("tokensvc", keys).Verify(token); !errors.Is(err, ErrNoIdentity) || p.UserID != "" {
			t.Errorf("%s: want %v, got %+v, %v", name, ErrNoIdentity, p, err)
		}
	}
}

func TestMiddleware(t *testing.T) {
	t.Parallel()
	signer, keys := pair(t)
	good, err := signer.Mint(Principal{UserID: "u"}, "tokensvc", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	h := NewVerifier("tokensvc", keys).Middleware(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) },
		http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if p, ok := From(r.Context()); !ok || p.UserID != "u" {
				t.Error("no caller in the context")
			}
			w.WriteHeader(http.StatusNoContent)
		}))
	for name, c := range map[string]struct {
		values []string
		want   int
	}{"none": {nil, 401}, "good": {[]string{good}, 204}, "twice": {[]string{good, good}, 401}, "bad first": {[]string{"x", good}, 401},
		"joined": {[]string{good + "," + good}, 401}} {
		r := httptest.NewRequest(http.MethodGet, "/", http.NoBody)
		for _, v := range c.values {
			r.Header.Add(attributes.HeaderIdentity, v)
		}
		w := httptest.NewRecorder()
		if h.ServeHTTP(w, r); w.Code != c.want {
			t.Errorf("%s: want %d, got %d", name, c.want, w.Code)
		}
	}
	if _, ok := From(context.Background()); ok {
		t.Error("a caller out of nowhere")
	}
}

func FuzzVerify(f *testing.F) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	token, err := NewSigner(private).Mint(Principal{UserID: "u"}, "a", time.Now())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(token)
	f.Add("..")
	v := NewVerifier("b", func(*jwt.Token) (any, error) { return public, nil })
	f.Fuzz(func(t *testing.T, token string) {
		if p, err := v.Verify(token); err == nil {
			t.Fatalf("%q names %+v", token, p)
		}
	})
}

func TestTierOf(t *testing.T) {
	t.Parallel()
	tiers := config.Tiers{Default: "FREE", Levels: map[string]config.Tier{"USER": {Priority: 10}, "GOLD": {Priority: 30},
		"ALSO": {Priority: 30}, "ZERO": {}}}
	for name, c := range map[string]struct {
		roles []string
		want  string
	}{
		"none": {nil, "FREE"}, "unknown": {[]string{"X"}, "FREE"}, "one": {[]string{"USER"}, "USER"}, "highest": {[]string{"USER", "GOLD"},
			"GOLD"},
		"order does not matter": {[]string{"GOLD", "USER"}, "GOLD"}, "equals by name": {[]string{"GOLD", "ALSO"}, "ALSO"},
		"priority zero": {[]string{"ZERO"}, "ZERO"},
	} {
		if got := TierOf(c.roles, tiers); got != c.want {
			t.Errorf("%s: want %s, got %s", name, c.want, got)
		}
	}
}
