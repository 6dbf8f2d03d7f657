// Package smoketest makes one real call through the whole request path, as an app would, and
// waits until its tokens are on the books: what `leaky up` ends with.
package smoketest

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"
)

const (
	stepTimeout  = 10 * time.Second // of one request, with its repetitions while the gateway warms up
	booksTimeout = 15 * time.Second // until the usage is there; two seconds are promised
)

// Config is where and what to call.
type Config struct {
	Gateway  string // http://host:port
	Model    string // a chat model
	Provider string // who serves it
}

// Result is one call that is on the books.
type Result struct {
	User    string        // throw-away account; its key is revoked
	Told    int64         // tokens, as the provider's answer says
	Metered int64         // tokens, as analytics shows them
	Delay   time.Duration // from the end of the call until analytics showed it
}

type account struct {
	UserID string `json:"userId"`
	Token  string `json:"token"`
}

type apiKey struct {
	ID     string `json:"id"`
	APIKey string `json:"apiKey"`
}

type completion struct {
	Usage struct {
		Total int64 `json:"total_tokens"`
	} `json:"usage"`
}

type usagePage struct {
	Items []struct {
		UserID  string `json:"userId"`
		Tokens  int64  `json:"tokens"`
		Allowed bool   `json:"allowed"`
	} `json:"items"`
}

// Run registers an account, makes a key, calls, and reads the books. It fails when the
// books differ from what the provider told.
func Run(ctx context.Context, c Config) (Result, error) {
	r := runner{gateway: c.Gateway, http: &http.Client{Timeout: stepTimeout, Transport: &http.Transport{Proxy: nil}}}
	defer r.http.CloseIdleConnections()
	secret := make([]byte, 12)
	if _, err := rand.Read(secret); err != nil {
		return Result{}, fmt.Errorf("make account: %w", err)
	}
	result := Result{User: "proof-" + hex.EncodeToString(secret[:4])}
	var who account
	if err := r.call(ctx, http.MethodPost, "/api/v1/auth/register", "", map[string]string{"username": result.User,
		"email": result.User + "@example.invalid", "password": "Aa1-" + hex.EncodeToString(secret)}, &who); err != nil {
		return result, fmt.Errorf("register an account: %w", err)
	}
	var key apiKey
	if err := r.call(ctx, http.MethodPost, "/api/v1/auth/api-keys", who.Token, map[string]string{"userId": who.UserID, "name": "proof"},
		&key); err != nil {
		return result, fmt.Errorf("make an API key: %w", err)
	}
	var answer completion
	err := r.call(ctx, http.MethodPost, "/v1/chat/completions", key.APIKey, map[string]any{"model": c.Model, "max_tokens": 64,
		"messages": []map[string]string{{"role": "user", "content": "Does every token count?"}}}, &answer)
	if err == nil && answer.Usage.Total <= 0 {
		err = errors.New("the answer tells no usage")
	}
	if err != nil {
		return result, fmt.Errorf("call %s: %w", c.Model, err)
	}
	result.Told = answer.Usage.Total
	end := time.Now()
	if result.Metered, err = r.books(ctx, c.Provider, who); err != nil {
		return result, fmt.Errorf("read the books: %w", err)
	}
	result.Delay = time.Since(end)
	if result.Metered != result.Told {
		return result, fmt.Errorf("the books say %d tokens, the provider said %d", result.Metered, result.Told)
	}
	query := url.Values{"userId": {who.UserID}, "apiKeyId": {key.ID}}
	if err := r.call(ctx, http.MethodDelete, "/api/v1/auth/api-keys?"+query.Encode(), who.Token, nil, nil); err != nil {
		return result, fmt.Errorf("revoke the key: %w", err)
	}
	return result, nil
}

type runner struct {
	gateway string
	http    *http.Client
}

// books polls analytics until the account's call is there.
func (r runner) books(ctx context.Context, provider string, who account) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, booksTimeout)
	defer cancel()
	for {
		var page usagePage
		if err := r.call(ctx, http.MethodGet, "/api/v1/analytics/usage?limit=20&provider="+url.QueryEscape(provider), who.Token, nil,
			&page); err != nil {
			return 0, err
		}
		for _, item := range page.Items {
			if item.UserID == who.UserID && item.Allowed {
				return item.Tokens, nil
			}
		}
		if !pause(ctx, 100*time.Millisecond) {
			return 0, fmt.Errorf("the call is not there after %s", booksTimeout)
		}
	}
}

// call repeats while the answer is 503: a gateway that is just up may not know every route's
// endpoint yet.
func (r runner) call(ctx context.Context, method, path, credential string, body, into any) error {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	for {
		status, text, err := r.once(ctx, method, path, credential, body)
		switch {
		case err != nil:
			return err
		case status == http.StatusServiceUnavailable && pause(ctx, 200*time.Millisecond):
			continue
		case status >= 300:
			return fmt.Errorf("%s %s answered %d: %.300s", method, path, status, text)
		case into == nil:
			return nil
		}
		if err := json.Unmarshal(text, into); err != nil {
			return fmt.Errorf("%s %s: %w", method, path, err)
		}
		return nil
	}
}

func (r runner) once(ctx context.Context, method, path, credential string, body any) (int, []byte, error) {
	var reader io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return 0, nil, err
		}
		reader = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, r.gateway+path, reader)
	if err != nil {
		return 0, nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if credential != "" {
		req.Header.Set("Authorization", "Bearer "+credential)
	}
	resp, err := r.http.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return resp.StatusCode, text, err
}

// pause waits, unless ctx ends first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
