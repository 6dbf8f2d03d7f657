package keyring

import (
	"bytes"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/jackc/pgx/v5"

	"github.com/leaky-tokens/leaky-tokens/identity/migrations"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

func sealer(t *testing.T, secret string) *Sealer {
	t.Helper()
	s, err := NewSealer(secret, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSealedForOneRowBySecret(t *testing.T) {
	t.Parallel()
	s := sealer(t, "a secret of this test")
	sealed := s.seal([]byte("private"), "row")
	if bytes.Contains(sealed, []byte("private")) {
		t.Fatal("not sealed")
	}
	if plain, err := s.open(sealed, "row"); err != nil || string(plain) != "private" {
		t.Fatalf("got %q, %v", plain, err)
	}
	if _, err := s.open(sealed, "another row"); !errors.Is(err, ErrForeignSecret) {
		t.Fatalf("moved to another row: want %v, got %v", ErrForeignSecret, err)
	}
	if _, err := sealer(t, "another secret of it").open(sealed, "row"); !errors.Is(err, ErrForeignSecret) {
		t.Fatalf("another secret: want %v, got %v", ErrForeignSecret, err)
	}
	if _, err := NewSealer("short", t.TempDir()); err == nil {
		t.Fatal("a short secret is taken")
	}
}

func TestDerivedKeysDifferByPurpose(t *testing.T) {
	t.Parallel()
	s := sealer(t, "a secret of this test")
	one, err := s.Derive("one")
	if err != nil || len(one) != 32 {
		t.Fatalf("got %d bytes, %v", len(one), err)
	}
	again, _ := sealer(t, "a secret of this test").Derive("one")
	two, _ := s.Derive("two")
	if !bytes.Equal(one, again) || bytes.Equal(one, two) {
		t.Fatal("want the same for one purpose on every replica, and another for another")
	}
}

// ring holds generated keys without a database: the first is the newest.
func ring(t *testing.T, activeIn ...time.Duration) *Ring {
	t.Helper()
	r := New(Config{Sealer: sealer(t, "a secret of this test")})
	s := &state{}
	for _, in := range activeIn {
		fresh, err := r.generate()
		if err != nil {
			t.Fatal(err)
		}
		private, err := r.parse(fresh.Kid, fresh.PrivateKey)
		if err != nil {
			t.Fatal(err)
		}
		s.keys = append(s.keys, loaded{kid: fresh.Kid, key: private, activeAt: time.Now().Add(in)})
	}
	r.state.Store(s)
	return r
}

func TestTheKeyWhoseTurnItIsSigns(t *testing.T) {
	t.Parallel()
	r := ring(t, time.Minute, -time.Minute, -time.Hour)
	text, err := r.Sign(TypeAccess, jwt.RegisteredClaims{Subject: "x"})
	if err != nil {
		t.Fatal(err)
	}
	token, err := jwt.Parse(text, r.Keyfunc, jwt.WithValidMethods([]string{"RS256"}))
	if err != nil || token.Header["kid"] != r.state.Load().keys[1].kid || token.Header["typ"] != "at+jwt" {
		t.Fatalf("want the second key, got %v, %v", token, err)
	}
	other := ring(t, -time.Minute)
	if _, err := jwt.Parse(text, other.Keyfunc); !errors.Is(err, ErrUnknownKey) {
		t.Fatalf("want %v, got %v", ErrUnknownKey, err)
	}
	if _, err := New(Config{}).Sign(TypeID, jwt.RegisteredClaims{}); !errors.Is(err, ErrNoKey) {
		t.Fatalf("want %v, got %v", ErrNoKey, err)
	}
}

// TestAnOldReadDoesNotBringBackAWithdrawnKey where it ends after the one of who was told of that.
func TestAnOldReadDoesNotBringBackAWithdrawnKey(t *testing.T) {
	t.Parallel()
	pool := testenv.Postgres(t)
	if err := migrations.Up(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	var pause atomic.Bool // at the next answer, before who asked has it
	answered, goOn := make(chan struct{}), make(chan struct{})
	paused := testenv.Queries{After: func(error) {
		if pause.CompareAndSwap(true, false) {
			close(answered)
			<-goOn
		}
	}}.Watched(t, pool)
	seal := sealer(t, "a secret of this test")
	replica, other := New(Config{Pool: paused, Sealer: seal, Life: time.Hour}), New(Config{Pool: pool, Sealer: seal, Life: time.Hour})
	if err := replica.Ensure(t.Context()); err != nil {
		t.Fatal(err)
	}
	leaked := replica.state.Load().keys[0].kid
	pause.Store(true)
	old := make(chan error, 1)
	go func() { old <- replica.Load(t.Context()) }()
	<-answered
	if err := other.Withdraw(t.Context(), leaked, func(pgx.Tx) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if err := replica.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	close(goOn)
	if err := <-old; err != nil {
		t.Fatal(err)
	}
	if kid := replica.state.Load().keys[0].kid; kid == leaked {
		t.Error("the withdrawn key signs")
	}
}
