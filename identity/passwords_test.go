package identity

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
)

// cheap costs next to nothing, for tests that are not about the cost.
func cheap(t testing.TB, slots int) *passwords {
	t.Helper()
	p, err := newPasswords()
	if err != nil {
		t.Fatal(err)
	}
	p.cost, p.slots = params{memory: 64, time: 1, threads: 1}, make(chan struct{}, slots)
	return p
}

func TestPasswordsRoundTrip(t *testing.T) {
	t.Parallel()
	p, err := newPasswords()
	if err != nil {
		t.Fatal(err)
	}
	stored, err := p.hash(t.Context(), "correct horse")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(stored, "$argon2id$v=19$m=19456,t=2,p=1$") || len(stored) > 255 {
		t.Fatalf("got %q", stored)
	}
	for name, c := range map[string]struct {
		stored, password string
		want             bool
	}{
		"right":                   {stored, "correct horse", true},
		"wrong":                   {stored, "correct horsf", false},
		"empty":                   {stored, "", false},
		"unknown user":            {"", "correct horse", false},
		"other parameters inside": {must(cheap(t, 1).hash(t.Context(), "x")), "x", true},
	} {
		got, err := p.verify(t.Context(), c.stored, c.password)
		if err != nil || got != c.want {
			t.Errorf("%s: want %v, got %v, %v", name, c.want, got, err)
		}
	}
}

func must(s string, err error) string {
	if err != nil {
		panic(err)
	}
	return s
}

func TestAFloodOfLoginsIsTurnedAway(t *testing.T) {
	t.Parallel()
	p := cheap(t, 1)
	p.slots <- struct{}{} // somebody hashes all the time
	ctx, cancel := context.WithCancel(t.Context())
	var mu sync.Mutex
	var busy, left int
	var wg sync.WaitGroup
	for range 3 * maxWaiting {
		wg.Go(func() {
			_, err := p.hash(ctx, "x")
			mu.Lock()
			defer mu.Unlock()
			switch {
			case errors.Is(err, errBusy):
				if busy++; busy == 2*maxWaiting {
					cancel() // the others stand in line
				}
			case errors.Is(err, context.Canceled):
				left++
			}
		})
	}
	wg.Wait()
	cancel()
	if busy != 2*maxWaiting || left != maxWaiting {
		t.Fatalf("want %d turned away and %d in line, got %d and %d", 2*maxWaiting, maxWaiting, busy, left)
	}
}

func FuzzParseHash(f *testing.F) {
	f.Add(must(cheap(f, 1).hash(context.Background(), "x")))
	f.Add("$argon2id$v=19$m=4294967295,t=4294967295,p=255$AAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA")
	f.Add("$2a$10$abc")
	f.Fuzz(func(t *testing.T, s string) {
		cost, salt, sum, err := parseHash(s)
		if err == nil && (cost.memory > 256<<10 || cost.time > 16 || cost.threads == 0 || len(salt) == 0 || len(sum) < 16) {
			t.Fatalf("%q: %+v, %d, %d", s, cost, len(salt), len(sum))
		}
	})
}
