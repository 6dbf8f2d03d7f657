package oauth

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/leaky-tokens/leaky-tokens/identity/identitydb"
)

// Grant types.
const (
	grantCode    = "authorization_code"
	grantClient  = "client_credentials"
	grantRefresh = "refresh_token"
	grantDevice  = "urn:ietf:params:oauth:grant-type:device_code" // RFC 8628 section 3.4
)

func grantTypes() []string { return []string{grantCode, grantClient, grantRefresh, grantDevice} }

// clientID is the id of a client that was registered; one that a document describes has its URL.
var clientID = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

var errNoClient = errors.New("no such client")

func (p *Provider) client(ctx context.Context, id string) (identitydb.OauthClient, error) {
	if !clientID.MatchString(id) {
		return p.described(ctx, id)
	}
	c, err := p.db.OAuthClient(ctx, id)
	if errors.Is(err, pgx.ErrNoRows) {
		return c, errNoClient
	}
	if err != nil {
		return c, fmt.Errorf("read client: %w", err)
	}
	return c, nil
}

// public says that a client has nothing to prove who it is with.
func public(c identitydb.OauthClient) bool { return len(c.SecretHash) == 0 && c.Keys == "" }

func allows(c identitydb.OauthClient, grant string) bool {
	return slices.Contains(c.GrantTypes, grant)
}

// credentials are what a client shows at an endpoint.
type credentials struct {
	id        string
	secret    string
	assertion string // signed by one of its keys (RFC 7523)
	basic     bool   // by the Authorization header
}

// refused is the one answer to every failed authentication, whatever failed. The challenge answers
// an Authorization header alone (RFC 6749 section 5.2): a browser would ask its user for it.
func (g credentials) refused() *protocolError {
	e := badClient()
	if !g.basic {
		e.challenge = ""
	}
	return e
}

// clientCredentials reads them from the Authorization header (client_secret_basic) or
// the body (client_secret_post, or client_id alone), never from both (RFC 6749
// section 2.3).
func clientCredentials(r *http.Request, form params) (credentials, error) {
	headers := r.Header.Values("Authorization")
	if len(headers) > 1 {
		return credentials{}, refuse(codeInvalidRequest, "more than one Authorization header")
	}
	if form["client_assertion"] != "" || form["client_assertion_type"] != "" {
		return assertedCredentials(form, len(headers) > 0)
	}
	if len(headers) == 0 {
		return credentials{id: form["client_id"], secret: form["client_secret"]}, nil
	}
	if _, twice := form["client_secret"]; twice {
		return credentials{}, refuse(codeInvalidRequest, "the client authenticates in two ways")
	}
	scheme, encoded, _ := strings.Cut(headers[0], " ")
	if !strings.EqualFold(scheme, "Basic") || len(encoded) > maxValue {
		return credentials{}, badClient()
	}
	raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(encoded))
	if err != nil {
		return credentials{}, badClient()
	}
	// Both parts are form-encoded before they are joined (RFC 6749 section 2.3.1).
	rawID, rawSecret, ok := strings.Cut(string(raw), ":")
	id, idErr := url.QueryUnescape(rawID)
	secret, secretErr := url.QueryUnescape(rawSecret)
	if !ok || idErr != nil || secretErr != nil {
		return credentials{}, badClient()
	}
	if other := form["client_id"]; other != "" && other != id {
		return credentials{}, refuse(codeInvalidRequest, "client_id is not that of the Authorization header")
	}
	return credentials{id: id, secret: secret, basic: true}, nil
}

// authenticate finds out which client calls, and whether it may call once more.
func (p *Provider) authenticate(r *http.Request, form params) (identitydb.OauthClient, error) {
	c, err := p.prove(r, form)
	if refused, ok := errors.AsType[*protocolError](err); err != nil && !ok {
		return c, err
	} else if ok && refused.code != codeInvalidClient {
		return c, err // it was not looked for
	}
	proven := ""
	if err == nil && !public(c) {
		proven = c.ID
	}
	if wait := p.pace(r.Context(), proven); wait != nil {
		return identitydb.OauthClient{}, wait
	}
	return c, err
}

// prove checks a client's credentials. A public client names itself, with an empty secret or
// none (RFC 6749 section 2.3.1); what it presents next (a code with its verifier, a refresh token, a
// device code) is bound to it.
//
// Failures are not throttled as guesses: a secret is 256 random bits, which nobody guesses, and
// whoever asks from the address of somebody who tries must not be turned away.
func (p *Provider) prove(r *http.Request, form params) (identitydb.OauthClient, error) {
	given, err := clientCredentials(r, form)
	if err != nil {
		return identitydb.OauthClient{}, err
	}
	c, err := p.client(r.Context(), given.id)
	switch {
	case errors.Is(err, errNoClient):
		return c, given.refused()
	case err != nil:
		return c, err
	case given.assertion != "":
		if err := p.checkAssertion(r.Context(), c, given.assertion); err != nil && !errors.Is(err, errAssertion) {
			return identitydb.OauthClient{}, err
		} else if err == nil {
			return c, nil
		}
	case public(c) && given.secret == "", len(c.SecretHash) > 0 && sameSecret(c.SecretHash, given.secret):
		return c, nil
	}
	return identitydb.OauthClient{}, given.refused()
}
