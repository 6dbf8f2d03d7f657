package jwks

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// server serves a key set that a test changes.
type server struct {
	*httptest.Server
	text    atomic.Pointer[string]
	status  atomic.Int64
	fetches atomic.Int64
}

func serve(t *testing.T, text string) *server {
	t.Helper()
	s := &server{}
	s.text.Store(&text)
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		s.fetches.Add(1)
		if status := s.status.Load(); status != 0 {
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(int(status))
			return
		}
		_, _ = w.Write([]byte(*s.text.Load()))
	}))
	t.Cleanup(s.Close)
	return s
}

func ed(t testing.TB, kid string) string {
	t.Helper()
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf(`{"kty":"OKP","crv":"Ed25519","kid":%q,"x":%q}`, kid, base64.RawURLEncoding.EncodeToString(public))
}

func set(keys ...string) string { return `{"keys":[` + strings.Join(keys, ",") + `]}` }

func TestKeysRotateAndStayOnFailure(t *testing.T) {
	t.Parallel()
	s := serve(t, set(ed(t, "a")))
	k, err := New(Config{URL: s.URL, RefreshEvery: time.Hour, UnknownEvery: time.Nanosecond})
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Ready(); !errors.Is(err, ErrUnavailable) {
		t.Fatalf("before the first fetch: want %v, got %v", ErrUnavailable, err)
	}
	if _, err := k.Key(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Key(t.Context(), "b"); !errors.Is(err, ErrUnknownKey) {
		t.Fatalf("want %v, got %v", ErrUnknownKey, err)
	}
	rotated := set(ed(t, "b"))
	s.text.Store(&rotated)
	if _, err := k.Key(t.Context(), "b"); err != nil {
		t.Fatalf("a new key is found by asking again: %v", err)
	}
	if _, err := k.Key(t.Context(), "a"); !errors.Is(err, ErrUnknownKey) {
		t.Fatalf("a retired key: want %v, got %v", ErrUnknownKey, err)
	}
	for _, status := range []int64{500, 302} {
		s.status.Store(status)
		if _, err := k.Key(t.Context(), "c"); !errors.Is(err, ErrUnavailable) {
			t.Fatalf("status %d: want %v, got %v", status, ErrUnavailable, err)
		}
		if _, err := k.Key(t.Context(), "b"); err != nil {
			t.Fatalf("a key at hand is kept on failure: %v", err)
		}
	}
	s.status.Store(0)
	for _, broken := range []string{"", "{}", `{"keys":[]}`, "<html>", strings.Repeat(" ", maxBytes+1), `{"keys":[` + strings.Repeat(`{},`,
		100) + `{}]}`} {
		s.text.Store(&broken)
		if _, err := k.Key(t.Context(), "c"); !errors.Is(err, ErrUnavailable) {
			t.Fatalf("%.20q: want %v, got %v", broken, ErrUnavailable, err)
		}
		if _, err := k.Key(t.Context(), "b"); err != nil {
			t.Fatalf("a key at hand is kept over a broken set: %v", err)
		}
	}
}

func TestInventedKeyIDsCauseFewFetches(t *testing.T) {
	t.Parallel()
	s := serve(t, set(ed(t, "a")))
	k, err := New(Config{URL: s.URL, UnknownEvery: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.Key(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			if _, err := k.Key(context.Background(), fmt.Sprint("invented ", i)); !errors.Is(err, ErrUnknownKey) {
				t.Errorf("want %v, got %v", ErrUnknownKey, err)
			}
		})
	}
	wg.Wait()
	if n := s.fetches.Load(); n > 2 {
		t.Fatalf("want two fetches at most, got %d", n)
	}
}

// slow is an issuer that answers, with what it had when it was asked, when it is told to.
type slow struct {
	text    atomic.Pointer[string]
	answers chan struct{}
	asked   atomic.Int64
}

func (s *slow) has(text string) { s.text.Store(&text) }

func (s *slow) RoundTrip(*http.Request) (*http.Response, error) {
	text := *s.text.Load()
	s.asked.Add(1)
	<-s.answers
	return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(strings.NewReader(text))}, nil
}

// TestEachCallerOfANewKeyGetsIt, who asks for it and who comes meanwhile, also where the issuer was asked
// a moment before there was the key. Invented ids cause no more questions by that.
func TestEachCallerOfANewKeyGetsIt(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		kids    []string // looked for before there is the key, each by a caller that waits
		answers int      // to them before there is the key
		want    int64    // questions
	}{
		"several callers":                  {want: 1},
		"an invented id of before":         {kids: []string{"invented"}, answers: 1, want: 2},
		"one that is being asked for":      {kids: []string{"invented"}, want: 2},
		"many invented that are asked for": {kids: []string{"one", "two", "three", "four"}, want: 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				issuer := &slow{answers: make(chan struct{}, 100)}
				issuer.has(set(ed(t, "a")))
				k, err := New(Config{URL: "http://issuer", Client: &http.Client{Transport: issuer}, UnknownEvery: time.Hour})
				if err != nil {
					t.Fatal(err)
				}
				issuer.answers <- struct{}{}
				if err := k.refreshNow(t.Context()); err != nil {
					t.Fatal(err)
				}
				issuer.asked.Store(0)
				for range c.answers {
					issuer.answers <- struct{}{}
				}
				var callers sync.WaitGroup
				look := func(kid string, want error) {
					callers.Go(func() {
						if _, err := k.Key(t.Context(), kid); !errors.Is(err, want) {
							t.Errorf("%s: want %v, got %v", kid, want, err)
						}
					})
				}
				for _, kid := range c.kids {
					look(kid, ErrUnknownKey)
					synctest.Wait()
				}
				issuer.has(set(ed(t, "a"), ed(t, "new")))
				for range 3 {
					look("new", nil)
					synctest.Wait()
				}
				for range 10 {
					issuer.answers <- struct{}{}
				}
				callers.Wait()
				if n := issuer.asked.Load(); n != c.want {
					t.Errorf("want %d questions, got %d", c.want, n)
				}
			})
		})
	}
}

// TestACallerWaitsNoLongerThanItsCall for the answer to another's question.
func TestACallerWaitsNoLongerThanItsCall(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		issuer := &slow{answers: make(chan struct{})}
		issuer.has(set(ed(t, "a")))
		k, err := New(Config{URL: "http://issuer", Client: &http.Client{Transport: issuer}})
		if err != nil {
			t.Fatal(err)
		}
		first := make(chan error)
		go func() {
			_, err := k.Key(t.Context(), "a")
			first <- err
		}()
		synctest.Wait()
		short, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if _, err := k.Key(short, "a"); !errors.Is(err, ErrUnavailable) {
			t.Errorf("want %v, got %v", ErrUnavailable, err)
		}
		close(issuer.answers)
		if err := <-first; err != nil {
			t.Error(err)
		}
	})
}

func TestRunWaitsForTheIssuer(t *testing.T) {
	t.Parallel()
	s := serve(t, set(ed(t, "a")))
	s.status.Store(503)
	k, err := New(Config{URL: s.URL})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	testenv.Eventually(t, "two fetches", func() bool { return s.fetches.Load() >= 2 })
	s.status.Store(0)
	testenv.Eventually(t, "keys ready", func() bool { return k.Ready() == nil })
	stop()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestParseTakesOnlySafeKeys(t *testing.T) {
	t.Parallel()
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey := func(kid string, key *rsa.PublicKey, more string) string {
		return fmt.Sprintf(`{"kty":"RSA","kid":%q,"n":%q,"e":%q%s}`, kid, base64.RawURLEncoding.EncodeToString(key.N.Bytes()),
			base64.RawURLEncoding.EncodeToString(big.NewInt(int64(key.E)).Bytes()), more)
	}
	strong, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := Parse([]byte(set(ed(t, "good"), ed(t, ""), rsaKey("strong", &strong.PublicKey, `,"use":"sig","alg":"RS256"`),
		rsaKey("weak", &weak.PublicKey, ""),
		rsaKey("encryption", &strong.PublicKey, `,"use":"enc"`), rsaKey("remote", &strong.PublicKey, `,"x5u":"http://evil.example"`),
		`{"kty":"oct","kid":"secret","k":"AAAA"}`, `{"kty":"RSA","kid":"broken","n":"!","e":"AQAB"}`)))
	if err != nil || len(keys) != 2 || keys["good"] == nil || keys["strong"] == nil {
		t.Fatalf("want good and strong, got %v, %v", keys, err)
	}
}

func TestOnlyHTTPAddressesAndFiles(t *testing.T) {
	t.Parallel()
	for _, url := range []string{"", "file://host/etc/passwd", "file:etc/passwd", "http://", "127.0.0.1:80", "://"} {
		if _, err := New(Config{URL: url}); err == nil {
			t.Errorf("%q was taken", url)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(set(ed(f, "a"))))
	f.Add([]byte(`{"keys":[{"kty":"RSA","kid":"a","n":"AQ","e":"AQ","d":"AQ"}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		keys, err := Parse(text)
		if err == nil && len(keys) == 0 {
			t.Fatal("no key and no error")
		}
		if err == nil && !json.Valid(text) {
			t.Fatal("keys out of something that is not JSON")
		}
	})
}
