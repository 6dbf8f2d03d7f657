// Package smoketest makes one real call through the whole request path, as an app would, and
// waits until its tokens are on the books: what `leaky up` ends with.
package smoketest

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/leaky-tokens/leaky-tokens/client"
	"github.com/leaky-tokens/leaky-tokens/client/api"
	"github.com/leaky-tokens/leaky-tokens/internal/retry"
)

const (
	stepTimeout  = 10 * time.Second // of one request, with its repetitions while the gateway warms up
	booksTimeout = 15 * time.Second // until the usage is there; two seconds are promised
	attempts     = 50               // of one request; its time ends first
)

// Config is where and what to call.
type Config struct {
	Gateway  string      // http(s)://host:port
	TLS      *tls.Config // how it is trusted; nil: as the machine says
	Model    string      // a chat model
	Provider string      // who serves it
}

// Result is one call that is on the books.
type Result struct {
	User    string        // throw-away account; its key is revoked
	Told    int64         // tokens, as the provider's answer says
	Metered int64         // tokens, as analytics shows them
	Delay   time.Duration // from the end of the call until analytics showed it
}

type completion struct {
	Usage struct {
		Total int64 `json:"total_tokens"`
	} `json:"usage"`
}

// Run registers an account, makes a key, calls, and reads the books. It fails when the
// books differ from what the provider told.
func Run(ctx context.Context, c Config) (Result, error) {
	transport := &http.Transport{Proxy: nil, TLSClientConfig: c.TLS}
	defer transport.CloseIdleConnections()
	// A gateway that is just up may not know every route's endpoint yet, and answers 503 so long.
	gateway, err := client.New(client.Config{Gateway: c.Gateway, HTTP: &http.Client{Timeout: stepTimeout, Transport: transport},
		Attempts: attempts, RepeatAll: true})
	if err != nil {
		return Result{}, err
	}
	name := "proof-" + strings.ToLower(rand.Text()[:8])
	result := Result{User: name}
	who, err := step(ctx, "register an account", func(ctx context.Context) (*api.Session, error) {
		got, err := gateway.RegisterWithResponse(ctx, api.RegisterRequest{Username: name, Email: name + "@example.invalid",
			Password: "Aa1-" + rand.Text()})
		if err != nil {
			return nil, err
		}
		return got.JSON201, nil
	})
	if err != nil {
		return result, err
	}
	own := gateway.As(client.Bearer(who.Token))
	key, err := step(ctx, "make an API key", func(ctx context.Context) (*api.NewAPIKey, error) {
		got, err := own.CreateAPIKeyWithResponse(ctx, api.APIKeyRequest{UserID: &who.UserID, Name: new("proof")})
		if err != nil {
			return nil, err
		}
		return got.JSON201, nil
	})
	if err != nil {
		return result, err
	}
	answer, err := step(ctx, "call "+c.Model, func(ctx context.Context) (*completion, error) {
		var answer completion
		err := gateway.As(client.Bearer(key.APIKey)).Call(ctx, http.MethodPost, "/v1/chat/completions", map[string]any{"model": c.Model,
			"max_tokens": 64, "messages": []map[string]string{{"role": "user", "content": "Does every token count?"}}}, &answer)
		if err == nil && answer.Usage.Total <= 0 {
			err = errors.New("the answer tells no usage")
		}
		return &answer, err
	})
	if err != nil {
		return result, err
	}
	result.Told = answer.Usage.Total
	end := time.Now()
	if result.Metered, err = books(ctx, own, c.Provider, who.UserID.String()); err != nil {
		return result, fmt.Errorf("read the books: %w", err)
	}
	result.Delay = time.Since(end)
	if result.Metered != result.Told {
		return result, fmt.Errorf("the books say %d tokens, the provider said %d", result.Metered, result.Told)
	}
	if _, err := own.RevokeAPIKeyWithResponse(ctx, &api.RevokeAPIKeyParams{UserID: &who.UserID, APIKeyID: key.ID}); err != nil {
		return result, fmt.Errorf("revoke the key: %w", err)
	}
	return result, nil
}

// step does one call within its time.
func step[T any](ctx context.Context, what string, f func(context.Context) (*T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	var answer T
	body, err := f(ctx)
	if err == nil {
		answer, err = client.Answer(body)
	}
	if err != nil {
		return answer, fmt.Errorf("%s: %w", what, err)
	}
	return answer, nil
}

// books polls analytics until the account's call is there.
func books(ctx context.Context, own *client.Client, provider, user string) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, booksTimeout)
	defer cancel()
	for {
		got, err := own.ListUsageWithResponse(ctx, &api.ListUsageParams{Provider: provider})
		if err != nil {
			return 0, err
		}
		page, err := client.Answer(got.JSON200)
		if err != nil {
			return 0, err
		}
		for _, item := range page.Items {
			if item.UserID == user && item.Allowed {
				return item.Tokens, nil
			}
		}
		if !retry.Pause(ctx, 100*time.Millisecond) {
			return 0, fmt.Errorf("the call is not there after %s", booksTimeout)
		}
	}
}
