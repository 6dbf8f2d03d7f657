package payment

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// largestAnswer bounds what is read of an answer, in bytes.
const largestAnswer = 256 << 10

// caller sends one request and reads one JSON answer.
type caller struct {
	base   string
	apiKey string
	client *http.Client
}

func newCaller(cfg Config) (*caller, error) {
	u, err := url.Parse(cfg.URL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		return nil, errors.New("make payment client: the URL must be http(s)://host[:port]")
	}
	if cfg.Timeout <= 0 {
		return nil, errors.New("make payment client: Timeout is needed")
	}
	var transport http.RoundTripper = &http.Transport{DialContext: (&net.Dialer{Timeout: cfg.Timeout}).DialContext, MaxIdleConnsPerHost: 64,
		IdleConnTimeout:     time.Minute,
		TLSHandshakeTimeout: cfg.Timeout, ForceAttemptHTTP2: true}
	if cfg.Spans != nil {
		transport = cfg.Spans(transport)
	}
	return &caller{base: strings.TrimSuffix(cfg.URL, "/"), apiKey: cfg.APIKey, client: &http.Client{Transport: transport, Timeout: cfg.Timeout,
		// A payment is never somewhere else; following would send the key there.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}, nil
}

// request is one call. Key is its idempotency key; a repeated call has the same.
type request struct {
	method, path, key string
	contentType, body string
}

// send decodes the answer into dst and gives its status and whether it is a replay of an
// earlier answer. Errors are ErrUndecided.
func (c *caller) send(ctx context.Context, r request, dst any) (status int, replayed bool, err error) {
	req, err := http.NewRequestWithContext(ctx, r.method, c.base+r.path, strings.NewReader(r.body))
	if err != nil {
		return 0, false, fmt.Errorf("make payment request: %w", err)
	}
	req.Header.Set("Accept", "application/json")
	if r.contentType != "" {
		req.Header.Set("Content-Type", r.contentType)
	}
	if r.key != "" {
		req.Header.Set("Idempotency-Key", r.key)
	}
	if c.apiKey != "" {
		req.Header.Set("Authorization", "Bearer "+c.apiKey)
	}
	res, err := c.client.Do(req)
	if err != nil {
		return 0, false, fmt.Errorf("%w: %w", ErrUndecided, err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, largestAnswer))
	if err != nil {
		return 0, false, fmt.Errorf("%w: %w", ErrUndecided, err)
	}
	switch {
	case res.StatusCode >= 500, res.StatusCode == http.StatusTooManyRequests, res.StatusCode == http.StatusRequestTimeout:
		return 0, false, fmt.Errorf("%w: status %d", ErrUndecided, res.StatusCode)
	case res.StatusCode == http.StatusUnauthorized || res.StatusCode == http.StatusForbidden || res.StatusCode/100 == 3:
		return 0, false, fmt.Errorf("%w: status %d", ErrRefused, res.StatusCode)
	}
	// A refusal may have any shape; what matters of it is its status, or that it names our payment.
	if err := json.Unmarshal(body, dst); err != nil && res.StatusCode < 400 {
		return 0, false, fmt.Errorf("%w: status %d with a body that is no JSON of a payment", ErrUndecided, res.StatusCode)
	}
	return res.StatusCode, strings.EqualFold(res.Header.Get("Idempotent-Replayed"), "true"), nil
}
