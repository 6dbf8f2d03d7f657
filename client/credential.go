package client

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/leaky-tokens/leaky-tokens/client/api"
)

// Credential is who calls. Bearer and Login make them.
type Credential interface {
	// token is for Authorization: Bearer; not bad, which the gateway has refused.
	token(ctx context.Context, c *Client, bad string) (string, error)
}

type bearer string

// Bearer is an API key or an access token.
func Bearer(token string) Credential { return bearer(token) }

func (b bearer) token(context.Context, *Client, string) (string, error) { return string(b), nil }

// early is how long before its end an access token is renewed.
const early = 30 * time.Second

// login is a session that goes on.
type login struct {
	username, password string

	mu      sync.Mutex
	session api.Session
	ends    time.Time // of the session's access token
}

// Login is a user with a password. The client logs in with the first call, renews the access token
// before it ends, and logs in again when the session has ended.
func Login(username, password string) Credential {
	return &login{username: username, password: password}
}

func (l *login) token(ctx context.Context, c *Client, bad string) (string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.session.Token != "" && l.session.Token != bad && time.Now().Before(l.ends) {
		return l.session.Token, nil
	}
	anonymous := c.As(nil)
	if l.session.RefreshToken != "" && l.session.Token != bad {
		asked := time.Now()
		got, err := anonymous.RefreshSessionWithResponse(ctx, api.RefreshRequest{RefreshToken: l.session.RefreshToken})
		if err == nil && got.JSON200 != nil {
			return l.keep(*got.JSON200, asked), nil
		}
	}
	asked := time.Now()
	got, err := anonymous.LoginWithResponse(ctx, api.LoginRequest{Username: l.username, Password: l.password})
	if err != nil {
		return "", fmt.Errorf("log in as %s: %w", l.username, err)
	}
	if got.JSON200 == nil {
		return "", fmt.Errorf("log in as %s: status %d without a session", l.username, got.StatusCode())
	}
	return l.keep(*got.JSON200, asked), nil
}

func (l *login) keep(s api.Session, asked time.Time) string {
	l.session, l.ends = s, asked.Add(time.Duration(s.ExpiresIn)*time.Second-early)
	return s.Token
}
