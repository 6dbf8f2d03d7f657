// Package client calls the control API of a gateway: a method for each operation of
// openapi.yaml, a login that goes on by itself, repetition where it does no harm, and
// refusals as errors. It stands outside the request path, in the programs of callers; the
// LLM routes are for the SDKs of their providers.
package client

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/leaky-tokens/leaky-tokens/client/api"
	"github.com/leaky-tokens/leaky-tokens/internal/retry"
)

// Config is what New needs.
type Config struct {
	Gateway    string       // http(s)://host[:port]
	Credential Credential   // who calls; nil: nobody in particular
	HTTP       *http.Client // nil: one with a timeout of 30 s
	// Attempts is how often one call is tried at most, default 4, 1: no repetition. Tried again is what
	// the gateway did not carry out (429, nobody listens), and on 503 what may happen twice: GET, PUT,
	// DELETE, and POST with an Idempotency-Key.
	Attempts int
	// RepeatAll tries every POST again on 503, for who does not mind that it may happen twice.
	RepeatAll bool
}

// Client calls one gateway as one caller. The methods of api.ClientWithResponses are its own:
// their answers are good ones, everything else is an error. It is safe for concurrent use.
type Client struct {
	*api.ClientWithResponses

	cfg  Config
	base *url.URL
}

const (
	defaultTimeout  = 30 * time.Second
	defaultAttempts = 4
	// longestWait is what a Retry-After may ask for; a call that has to wait longer has failed.
	longestWait = 5 * time.Second
	// most of an answer is read, in bytes.
	most = 64 << 20
)

// ErrUnreachable says that nobody listens at the gateway's address.
var ErrUnreachable = errors.New("nothing answers there")

// New makes a client; it calls nobody.
func New(cfg Config) (*Client, error) {
	base, err := url.Parse(strings.TrimSuffix(cfg.Gateway, "/"))
	if err != nil || base.Scheme != "http" && base.Scheme != "https" || base.Host == "" {
		return nil, fmt.Errorf("gateway %q: write http(s)://host[:port]", cfg.Gateway)
	}
	if cfg.HTTP == nil {
		cfg.HTTP = &http.Client{Timeout: defaultTimeout}
	}
	cfg.Attempts = cmp.Or(cfg.Attempts, defaultAttempts)
	c := &Client{cfg: cfg, base: base}
	// The generated code builds requests and reads answers; good is what sends them.
	c.ClientWithResponses, err = api.NewClientWithResponses(base.String(), api.WithHTTPClient(good{c}))
	if err != nil {
		return nil, fmt.Errorf("make client: %w", err)
	}
	return c, nil
}

// As is the same client for another caller.
func (c *Client) As(who Credential) *Client {
	cfg := c.cfg
	cfg.Credential = who
	other, err := New(cfg)
	if err != nil { // New accepted the same address before
		panic(err)
	}
	return other
}

// Call sends in as JSON (nil: no body) to a path that has no method here and decodes the answer into
// out (nil: it is dropped). path may have a query.
func (c *Client) Call(ctx context.Context, method, path string, in, out any) error {
	req, err := c.Request(ctx, method, path, in)
	if err != nil {
		return err
	}
	resp, err := good{c}.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, most))
	if err != nil {
		return fmt.Errorf("%s %s: read answer: %w", method, req.URL.Path, err)
	}
	if out == nil || len(text) == 0 {
		return nil
	}
	if err := json.Unmarshal(text, out); err != nil {
		return fmt.Errorf("%s %s: parse answer: %w", method, req.URL.Path, err)
	}
	return nil
}

// Request is what Call sends, for Do: with headers of the caller's own, and the answer whatever it is.
func (c *Client) Request(ctx context.Context, method, path string, in any) (*http.Request, error) {
	var body io.Reader = http.NoBody
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("encode request of %s %s: %w", method, path, err)
		}
		body = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base.String()+path, body)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	return req, nil
}

// Answer is the body of a good answer, such as JSON200 of a result: there is none when the gateway
// answered with another good status, or without JSON.
func Answer[T any](body *T) (T, error) {
	if body == nil {
		var none T
		return none, errors.New("the gateway answered well, but not as openapi.yaml has it: is it of another version?")
	}
	return *body, nil
}

// good sends requests for the generated code and passes on good answers alone.
type good struct{ c *Client }

// Do sends a request. Its errors are *Error for a refusal.
func (g good) Do(req *http.Request) (*http.Response, error) {
	resp, err := g.c.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 != 2 {
		defer resp.Body.Close()
		return nil, refusal(req, resp)
	}
	if media := resp.Header.Get("Content-Type"); media != "" && !strings.Contains(media, "json") {
		_ = resp.Body.Close()
		return nil, fmt.Errorf("%s %s: want JSON, got %s: is this the gateway?", req.Method, req.URL.Path, media)
	}
	return resp, nil
}

// Do sends a request with the client's credential, unless it has one of its own, again and again as
// Config says, and gives the last answer, whatever its status.
func (c *Client) Do(req *http.Request) (*http.Response, error) {
	var resp *http.Response
	tried := 0
	policy := retry.Policy{First: 200 * time.Millisecond, Most: longestWait, Spread: true}
	err := policy.Do(req.Context(), func(context.Context) error {
		if resp != nil {
			_ = resp.Body.Close()
		}
		tried++
		var err error
		resp, err = c.once(req) //nolint:bodyclose // closed above, or by the caller
		wait, again := c.again(req, resp, err)
		if err != nil && (!again || tried >= c.cfg.Attempts) {
			return retry.Permanent(err)
		}
		if err == nil && (!again || tried >= c.cfg.Attempts) {
			return nil
		}
		return &later{err: err, resp: resp, wait: wait}
	}, nil)
	if l, ok := errors.AsType[*later](err); ok && l.resp != nil {
		_ = l.resp.Body.Close()
		return nil, fmt.Errorf("%s %s: gave up waiting after status %d: %w", req.Method, req.URL.Path, l.resp.StatusCode,
			context.Cause(req.Context()))
	}
	return resp, err
}

// later asks the policy for another try, after what the answer says if it says something.
type later struct {
	err  error
	resp *http.Response // nil without an answer
	wait time.Duration  // 0: as the policy has it
}

func (l *later) Error() string {
	if l.err != nil {
		return l.err.Error()
	}
	return fmt.Sprintf("status %d", l.resp.StatusCode)
}

// Unwrap tells the policy how long to wait, and callers what went wrong.
func (l *later) Unwrap() []error {
	found := []error{}
	if l.err != nil {
		found = append(found, l.err)
	}
	if l.wait > 0 {
		found = append(found, &backoff.RetryAfterError{Duration: l.wait})
	}
	return found
}

// again tells whether a call is worth another try, and how long the answer asks to wait.
func (c *Client) again(req *http.Request, resp *http.Response, err error) (wait time.Duration, yes bool) {
	if req.Context().Err() != nil || req.Body != nil && req.Body != http.NoBody && req.GetBody == nil {
		return 0, false
	}
	if err != nil {
		return 0, errors.Is(err, ErrUnreachable)
	}
	seconds, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
	wait = time.Duration(seconds) * time.Second
	switch resp.StatusCode {
	case http.StatusTooManyRequests:
		return wait, wait <= longestWait
	case http.StatusServiceUnavailable:
		twice := req.Method != http.MethodPost && req.Method != http.MethodPatch || req.Header.Get("Idempotency-Key") != ""
		return min(wait, longestWait), twice || c.cfg.RepeatAll
	}
	return 0, false
}

// once sends a request, a second time with a fresh token when the first was not good any more.
func (c *Client) once(req *http.Request) (*http.Response, error) {
	who := c.cfg.Credential
	if req.Header.Get("Authorization") != "" || who == nil {
		return c.send(req, "")
	}
	token, err := who.token(req.Context(), c, "")
	if err != nil {
		return nil, err
	}
	resp, err := c.send(req, token)
	if err != nil || resp.StatusCode != http.StatusUnauthorized || req.Body != nil && req.Body != http.NoBody && req.GetBody == nil {
		return resp, err
	}
	fresh, err := who.token(req.Context(), c, token)
	if err != nil || fresh == token {
		return resp, nil //nolint:nilerr // the refusal that is there says more
	}
	_ = resp.Body.Close()
	return c.send(req, fresh)
}

func (c *Client) send(req *http.Request, token string) (*http.Response, error) {
	if req.GetBody != nil {
		body, err := req.GetBody()
		if err != nil {
			return nil, fmt.Errorf("%s %s: %w", req.Method, req.URL.Path, err)
		}
		req = req.Clone(req.Context())
		req.Body = body
	}
	if token != "" {
		if req.GetBody == nil {
			req = req.Clone(req.Context())
		}
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := c.cfg.HTTP.Do(req)
	if refusedConnection(err) {
		return nil, fmt.Errorf("%s: %w: %w", c.base, ErrUnreachable, err)
	}
	if err != nil {
		return nil, fmt.Errorf("call the gateway: %w", err)
	}
	return resp, nil
}

// refusedConnection tells whether nobody listens, rather than somebody who answers badly.
func refusedConnection(err error) bool {
	dial, ok := errors.AsType[*net.OpError](err)
	return ok && dial.Op == "dial" && (errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOENT))
}
