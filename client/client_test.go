package client_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/leaky-tokens/leaky-tokens/client"
	"github.com/leaky-tokens/leaky-tokens/client/api"
)

// gateway answers without a network, so that waits pass at once in a synctest bubble.
type gateway func(r *http.Request, body string) (int, http.Header, string)

func (g gateway) RoundTrip(r *http.Request) (*http.Response, error) {
	var body []byte
	if r.Body != nil {
		body, _ = io.ReadAll(r.Body)
	}
	status, header, text := g(r, string(body))
	if status == 0 {
		return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	}
	if header == nil {
		header = http.Header{"Content-Type": {"application/json"}}
	}
	return &http.Response{StatusCode: status, Header: header, Body: io.NopCloser(strings.NewReader(text)), Request: r}, nil
}

func newClient(t *testing.T, cfg client.Config, g gateway) *client.Client {
	t.Helper()
	cfg.Gateway, cfg.HTTP = "http://gateway", &http.Client{Transport: g}
	c, err := client.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestAnAddressThatIsNoneIsRefused(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"", "localhost:8080", "ftp://x", "http://", "http://a b"} {
		if _, err := client.New(client.Config{Gateway: address}); err == nil || !strings.Contains(err.Error(), "http(s)://") {
			t.Errorf("%q: got %v", address, err)
		}
	}
}

func TestRefusalsAreErrors(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		status     int
		body, want string
	}{
		"problem":       {409, `{"status":409,"message":"username already exists","errors":[{"field":"username","message":"m"}]}`, "username already exists"},
		"fallback":      {503, `{"service":"identity","status":"unavailable","message":"Circuit breaker open"}`, "Circuit breaker open"},
		"oauth2":        {400, `{"error":"invalid_grant","error_description":"it is used"}`, "invalid_grant: it is used"},
		"openai":        {404, `{"error":{"message":"no such model","code":"model_not_found"}}`, "no such model"},
		"no JSON":       {502, "<html>Bad Gateway</html>", "<html>Bad Gateway</html>"},
		"empty":         {403, "", "POST /api/v1/auth/register: 403"},
		"a number":      {500, "7", "7"},
		"wrong members": {400, `{"message":7}`, `{"message":7}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			calls := newClient(t, client.Config{Attempts: 1}, func(*http.Request, string) (int, http.Header, string) { return c.status, nil, c.body })
			_, err := calls.RegisterWithResponse(t.Context(), api.RegisterRequest{})
			refused, ok := errors.AsType[*client.Error](err)
			if !ok || refused.Status != c.status || int(refused.Problem.Status) != c.status || !strings.Contains(err.Error(), c.want) {
				t.Errorf("want %d with %q, got %v", c.status, c.want, err)
			}
		})
	}
}

func TestAnotherServerIsNotTakenForTheGateway(t *testing.T) {
	t.Parallel()
	c := newClient(t, client.Config{}, func(*http.Request, string) (int, http.Header, string) {
		return 200, http.Header{"Content-Type": {"text/html"}}, "<html>"
	})
	if _, err := c.GetMeWithResponse(t.Context()); err == nil || !strings.Contains(err.Error(), "is this the gateway") {
		t.Errorf("got %v", err)
	}
}

// TestWhatIsTriedAgain: as often as Config says, with the same body each time.
func TestWhatIsTriedAgain(t *testing.T) {
	t.Parallel()
	after := func(seconds int) http.Header { return http.Header{"Retry-After": {strconv.Itoa(seconds)}} }
	for name, c := range map[string]struct {
		method string
		status int // 0: nobody listens
		header http.Header
		key    string
		all    bool
		want   int           // attempts
		waited time.Duration // at least
	}{
		"GET on 503":                 {method: "GET", status: 503, header: after(1), want: 4, waited: 3 * time.Second},
		"GET on 503 without a wait":  {method: "GET", status: 503, want: 4},
		"POST on 503":                {method: "POST", status: 503, header: after(1), want: 1},
		"POST with a key on 503":     {method: "POST", status: 503, header: after(1), key: "k", want: 4, waited: 3 * time.Second},
		"POST that may happen twice": {method: "POST", status: 503, all: true, want: 4},
		"POST on 429":                {method: "POST", status: 429, header: after(2), want: 4, waited: 6 * time.Second},
		"a long wait":                {method: "POST", status: 429, header: after(3600), want: 1},
		"POST to nobody":             {method: "POST", status: 0, want: 4},
		"GET on 500":                 {method: "GET", status: 500, want: 1},
		"GET on 404":                 {method: "GET", status: 404, want: 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				attempts, began := 0, time.Now()
				calls := newClient(t, client.Config{RepeatAll: c.all}, func(_ *http.Request, body string) (int, http.Header, string) {
					if attempts++; c.method == "POST" && body != `{"a":1}` {
						t.Errorf("attempt %d: body %q", attempts, body)
					}
					return c.status, c.header, `{"message":"no"}`
				})
				var in any
				if c.method == "POST" {
					in = map[string]int{"a": 1}
				}
				var err error
				if c.key == "" {
					err = calls.Call(t.Context(), c.method, "/x", in, nil)
				} else {
					err = keyed(t.Context(), calls, c.key)
				}
				nobody := errors.Is(err, client.ErrUnreachable)
				if nobody != (c.status == 0) || err == nil || attempts != c.want || time.Since(began) < c.waited {
					t.Errorf("want %d attempts in %v, got %d in %v: %v", c.want, c.waited, attempts, time.Since(began), err)
				}
			})
		})
	}
}

// keyed posts {"a":1} with an idempotency key.
func keyed(ctx context.Context, c *client.Client, key string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://gateway/x", bytes.NewReader([]byte(`{"a":1}`)))
	if err != nil {
		return err
	}
	req.Header.Set("Idempotency-Key", key)
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	resp.Body.Close()
	return errors.New(resp.Status)
}

// TestALoginGoesOn: one login, a refresh before the token's end, and a new login when the session
// was ended elsewhere.
func TestALoginGoesOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var asked []string
		tokens := 0
		revoked := ""
		c := newClient(t, client.Config{Credential: client.Login("ann", "secret")}, func(r *http.Request, body string) (int, http.Header, string) {
			asked = append(asked, r.URL.Path)
			if r.URL.Path == "/api/v1/me" {
				if r.Header.Get("Authorization") == "Bearer "+revoked || r.Header.Get("Authorization") == "" {
					return 401, nil, `{"message":"authentication is required"}`
				}
				return 200, nil, `{"username":"ann"}`
			}
			if r.URL.Path == "/api/v1/auth/login" && body != `{"password":"secret","username":"ann"}` {
				t.Errorf("login with %q", body)
			}
			tokens++
			n := strconv.Itoa(tokens)
			return 200, nil, `{"token":"t` + n + `","refreshToken":"r` + n + `","expiresIn":600,"roles":[],"userId":"11111111-1111-4111-8111-111111111111"}`
		})
		me := func() {
			t.Helper()
			got, err := c.GetMeWithResponse(t.Context())
			if err != nil || got.JSON200 == nil || got.JSON200.Username != "ann" {
				t.Fatalf("got %+v, %v", got, err)
			}
		}
		me()
		me()
		time.Sleep(10 * time.Minute)
		me()
		revoked = "t2"
		me()
		want := []string{"/api/v1/auth/login", "/api/v1/me", "/api/v1/me", "/api/v1/auth/refresh", "/api/v1/me", "/api/v1/me",
			"/api/v1/auth/login", "/api/v1/me"}
		if !slices.Equal(asked, want) {
			t.Errorf("want %q, got %q", want, asked)
		}
	})
}

func TestAWrongPasswordIsToldOnce(t *testing.T) {
	t.Parallel()
	calls := 0
	c := newClient(t, client.Config{Credential: client.Login("ann", "wrong")}, func(*http.Request, string) (int, http.Header, string) {
		calls++
		return 401, nil, `{"message":"invalid credentials"}`
	})
	_, err := c.GetMeWithResponse(t.Context())
	if err == nil || !strings.Contains(err.Error(), "log in as ann") || !strings.Contains(err.Error(), "invalid credentials") || calls != 1 {
		t.Errorf("%d calls, %v", calls, err)
	}
}

// TestTheWaitEndsWithTheContext: and the error tells what the gateway said.
func TestTheWaitEndsWithTheContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		c := newClient(t, client.Config{Attempts: 1000}, func(*http.Request, string) (int, http.Header, string) {
			return 503, http.Header{"Retry-After": {"4"}}, ""
		})
		_, err := c.GetMeWithResponse(ctx)
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "503") {
			t.Errorf("got %v", err)
		}
	})
}
