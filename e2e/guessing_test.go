package e2e

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
)

// office is a client at an address of its own, which the other tests do not share.
func office(t *testing.T, address string) *http.Client {
	t.Helper()
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}
	client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{DialContext: dialer.DialContext, MaxIdleConnsPerHost: 16}}
	t.Cleanup(client.CloseIdleConnections)
	return client
}

// asked sends a POST and gives the status.
func asked(ctx context.Context, client *http.Client, path, body string, header ...string) (int, string, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, running.Gateway+path, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := client.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text), err
}

// TestWhoIsRightIsNotRefusedForGuesses: twenty wrong passwords of twenty names at an address, then a
// thousand right logins, exchanges and introspections from it, of which none is refused.
func TestWhoIsRightIsNotRefusedForGuesses(t *testing.T) {
	t.Parallel()
	const guesses, logins, each, clients, atOnce = 20, 20, 490, 10, 8
	client := office(t, "127.0.0.77")
	root := newAccount(t, "ADMIN")
	var jobs []app // each has a limit of its own, which is not what this is about
	for range clients {
		jobs = append(jobs, newApp(t, root, jobApp("tokens.read")))
	}
	name, password := registered(t).Username, "correct horse 9"
	login := func(name, password string) (int, string, error) {
		return asked(t.Context(), client, "/api/v1/auth/login", `{"username":"`+name+`","password":"`+password+`"}`)
	}
	for i := range guesses {
		if status, text, err := login("guessed-"+string(rune('a'+i)), "Wrong-pass-1"); err != nil || status != http.StatusUnauthorized {
			t.Fatalf("guess %d: want 401, got %d %s %v", i, status, text, err)
		}
	}
	var right, refused atomic.Int64
	var once sync.Once
	var group errgroup.Group
	group.SetLimit(atOnce)
	count := func(what string, ask func() (int, string, error)) {
		group.Go(func() error {
			status, text, err := ask()
			if err == nil && status == http.StatusOK {
				right.Add(1)
				return nil
			}
			refused.Add(1)
			once.Do(func() { t.Errorf("%s: want 200, got %d %s %v", what, status, text, err) })
			return nil
		})
	}
	form := func(job app, path string, values url.Values) func() (int, string, error) {
		return func() (int, string, error) { return asked(t.Context(), client, path, values.Encode(), job.basic()...) }
	}
	for i := range each {
		if i < logins {
			count("login", func() (int, string, error) { return login(name, password) })
		}
		count("exchange", form(jobs[i%clients], "/oauth2/token", url.Values{"grant_type": {"client_credentials"}}))
		count("introspection", form(jobs[i%clients], "/oauth2/introspect", url.Values{"token": {"x"}}))
	}
	_ = group.Wait()
	if right.Load() != logins+2*each || refused.Load() != 0 {
		t.Errorf("want %d right ones served and 0 refused, got %d and %d", logins+2*each, right.Load(), refused.Load())
	}
}
