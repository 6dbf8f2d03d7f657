package oauth

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/leaky-tokens/leaky-tokens/identity/grants"
	"github.com/leaky-tokens/leaky-tokens/identity/identitydb"
)

// States of a device code.
const (
	statePending  = "pending"
	stateApproved = "approved"
	stateDenied   = "denied"
	stateUsed     = "used"
)

const (
	// slowDown is what each hasty poll adds to the interval (RFC 8628 section 3.5).
	slowDown = 5
	// longestInterval keeps a device that never learns from overflowing its row, in seconds.
	longestInterval = int32(deviceLife / time.Second)
	// pollLeeway forgives a network that delivers two polls closer than they were sent.
	pollLeeway = 250 * time.Millisecond
)

// deviceAuthorization is POST /oauth2/device_authorization (RFC 8628 section 3.1).
func (p *Provider) deviceAuthorization(w http.ResponseWriter, r *http.Request) error {
	form, err := readForm(w, r)
	if err != nil {
		return err
	}
	c, err := p.authenticate(r, form)
	if err != nil {
		return err
	}
	if !allows(c, grantDevice) {
		return refuse(codeUnauthorizedClient, "the client is not registered for this grant type")
	}
	scopes, err := requestedScopes(form["scope"], c.Scopes)
	if err != nil {
		return err
	}
	resources, err := p.knownResources(form[paramResource])
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), queryTime)
	defer cancel()
	device, user := token(), userCode()
	err = p.db.OAuthInsertDevice(ctx, identitydb.OAuthInsertDeviceParams{DeviceHash: hashed(device), UserHash: hashed(user), ClientID: c.ID,
		Scope: strings.Join(scopes, " "), PollInterval: int32(p.cfg.Interval / time.Second), ExpiresAt: time.Now().Add(deviceLife),
		Resources: strings.Fields(resources)})
	if err != nil {
		return fmt.Errorf("store device code: %w", err)
	}
	page := p.cfg.Issuer + "/oauth2/device"
	writeJSON(w, http.StatusOK, map[string]any{"device_code": device, "user_code": shownUserCode(user), "verification_uri": page,
		"verification_uri_complete": page + "?" + url.Values{"user_code": {shownUserCode(user)}}.Encode(),
		"expires_in":                int64(deviceLife / time.Second), "interval": int64(p.cfg.Interval / time.Second)})
	return nil
}

// byDevice is what a device polls for (RFC 8628 sections 3.4 and 3.5).
func (p *Provider) byDevice(ctx context.Context, c identitydb.OauthClient, form params, key string) (answer, error) {
	code := form["device_code"]
	if code == "" {
		return answer{}, refuse(codeInvalidRequest, "device_code is required")
	}
	var row identitydb.OauthDevice
	var grant grants.Grant
	var family uuid.UUID
	var refresh, resources string
	var refused error
	err := pgx.BeginFunc(ctx, p.cfg.Pool, func(tx pgx.Tx) error {
		q := identitydb.New(tx)
		var err error
		row, err = q.OAuthLockDevice(ctx, hashed(code))
		if errors.Is(err, pgx.ErrNoRows) || err == nil && row.ClientID != c.ID {
			refused = badGrant("the device code")
			return nil
		}
		if err != nil {
			return fmt.Errorf("read device code: %w", err)
		}
		now := time.Now()
		if refused = pollRefusal(row, now); refused != nil {
			return p.polled(ctx, q, row, refused, now)
		}
		if grant, err = p.deviceGrant(ctx, q, c, row); err != nil {
			return err
		}
		grant.Key, grant.Bound = key, public(c)
		if resources, refused = p.fewerResources(form[paramResource], grant.Resources); refused != nil {
			return nil
		}
		family, refresh, err = p.cfg.Grants.BeginIn(ctx, tx, grant)
		if err != nil {
			return err
		}
		return q.OAuthUseDevice(ctx, row.DeviceHash)
	})
	if err == nil {
		err = refused
	}
	if err != nil {
		return answer{}, err
	}
	grant.Resources = resources
	return p.complete(ctx, c, grant, family, refresh, "")
}

func (p *Provider) deviceGrant(ctx context.Context, q *identitydb.Queries, c identitydb.OauthClient,
	row identitydb.OauthDevice) (g grants.Grant, err error) {
	g = p.grantOf(c, *row.UserID, row.Scope, *row.AuthTime)
	g.Resources = strings.Join(row.Resources, " ")
	g.OrgID, err = actsFor(ctx, q, c, *row.UserID)
	return g, err
}

// pollRefusal is why a device gets no token yet, or nil. Its order matters: a device
// learns of the end of its code before it is told to slow down.
func pollRefusal(row identitydb.OauthDevice, now time.Time) error {
	early := row.PolledAt != nil && now.Before(row.PolledAt.Add(time.Duration(row.PollInterval)*time.Second-pollLeeway))
	switch {
	case row.State == stateUsed:
		return badGrant("the device code")
	case !now.Before(row.ExpiresAt):
		return refuse(codeExpiredToken, "the device code has expired")
	case row.State == stateDenied:
		return refuse(codeAccessDenied, "the user refused")
	case early:
		return refuse(codeSlowDown, "poll less often: wait five seconds longer between two polls")
	case row.State != stateApproved || row.UserID == nil || row.AuthTime == nil:
		return refuse(codeAuthorizationWaits, "the user has not decided yet")
	}
	return nil
}

func (p *Provider) polled(ctx context.Context, q *identitydb.Queries, row identitydb.OauthDevice, refused error, now time.Time) error {
	interval := row.PollInterval
	if known, ok := errors.AsType[*protocolError](refused); ok && known.code == codeSlowDown {
		interval = min(interval+slowDown, longestInterval)
	}
	return q.OAuthPolledDevice(ctx, identitydb.OAuthPolledDeviceParams{DeviceHash: row.DeviceHash, PolledAt: &now, PollInterval: interval})
}
