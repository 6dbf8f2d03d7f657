package oauth

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/leaky-tokens/leaky-tokens/identity/identitydb"
	"github.com/leaky-tokens/leaky-tokens/identity/keyring"
)

// Clients that registered an address hear when a grant of theirs has ended (OpenID Connect Back-Channel
// Logout 1.0), whatever ended it: a trigger writes that down in the transaction that ends the grant.

const (
	logoutEvery    = time.Second
	logoutsAtOnce  = 20              // of one turn
	logoutTime     = 5 * time.Second // for one client's answer
	logoutTokenTTL = 2 * time.Minute // section 2.4 recommends no more
	logoutTries    = 8               // over about four minutes
	logoutKept     = 24 * time.Hour  // of what nobody tells, as the switch is off
	logoutEvent    = "http://schemas.openid.net/event/backchannel-logout"
)

// logoutClaims are those of a logout token (section 2.4).
type logoutClaims struct {
	jwt.RegisteredClaims
	Session string              `json:"sid"`
	Events  map[string]struct{} `json:"events"`
}

// tellClients tells clients of grants that have ended, until ctx ends. Several replicas may.
func (p *Provider) tellClients(ctx context.Context) error {
	client := &http.Client{Timeout: logoutTime, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	every := time.NewTicker(logoutEvery)
	defer every.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-every.C:
			if err := p.tellDue(ctx, client); err != nil && ctx.Err() == nil {
				p.said.Warn(ctx, "clients are not told of grants that ended, trying again", err)
			}
		}
	}
}

// tellDue tells what is due at once, each client by itself.
func (p *Provider) tellDue(ctx context.Context, client *http.Client) error {
	due, err := p.db.OAuthTakeLogouts(ctx, logoutsAtOnce)
	if err != nil {
		return fmt.Errorf("read logouts: %w", err)
	}
	var all errgroup.Group
	for _, one := range due {
		all.Go(func() error {
			err := p.tell(ctx, client, one)
			if err != nil && one.Attempts < logoutTries && !errors.Is(err, errRefused) {
				return nil // its next turn is set
			}
			if err != nil {
				p.log.Warn("a client was not told that a grant has ended", slog.String("client", one.ClientID), slog.Any("error", err))
			}
			return p.db.OAuthDropLogout(ctx, one.ID)
		})
	}
	return all.Wait()
}

// errRefused says that a client heard and wants none of it: to tell it again is no use.
var errRefused = errors.New("the client refused")

func (p *Provider) tell(ctx context.Context, client *http.Client, one identitydb.OauthLogout) error {
	now := time.Now()
	token, err := p.cfg.Keys.Sign(keyring.TypeLogout, logoutClaims{Session: one.Family.String(), Events: map[string]struct{}{logoutEvent: {}},
		RegisteredClaims: jwt.RegisteredClaims{Issuer: p.cfg.Issuer, Subject: one.UserID.String(), Audience: jwt.ClaimStrings{one.ClientID},
			ID: uuid.NewString(), IssuedAt: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(now.Add(logoutTokenTTL))}})
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, one.Uri, strings.NewReader(url.Values{"logout_token": {token}}.Encode()))
	if err != nil {
		return fmt.Errorf("tell client: %w", err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := client.Do(r)
	if err != nil {
		return fmt.Errorf("tell client: %w", err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 4<<10))
	switch {
	case resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusNoContent:
		return nil
	case resp.StatusCode < http.StatusInternalServerError && resp.StatusCode != http.StatusTooManyRequests:
		return fmt.Errorf("%w: it answered %d", errRefused, resp.StatusCode)
	}
	return fmt.Errorf("tell client: it answered %d", resp.StatusCode)
}
