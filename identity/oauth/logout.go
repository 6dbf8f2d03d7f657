package oauth

import (
	"context"
	"errors"
	"net/http"
	"net/url"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"

	"github.com/leaky-tokens/leaky-tokens/identity/identitydb"
	"github.com/leaky-tokens/leaky-tokens/identity/keyring"
)

// logoutPath is where clients send those who sign out (OpenID Connect RP-Initiated Logout 1.0).
const logoutPath = "/oauth2/end_session"

// leaving is a request to sign out, checked.
type leaving struct {
	client   identitydb.OauthClient // without an id: nobody says who asks
	grant    uuid.UUID              // that ends; zero: none
	redirect string                 // where the browser goes; empty: to a page of ours
	state    string
}

// endSession is GET and POST /oauth2/end_session. There is no session of a browser to end: what ends is
// the grant that the ID token in id_token_hint was given with, its refresh token at once and its access
// tokens within a second. Who shows that token is the client or its user, so nobody is asked.
//
// The browser goes to post_logout_redirect_uri only if the client registered it (section 3).
func (p *Provider) endSession(w http.ResponseWriter, r *http.Request) error {
	form, err := parseParams(r.URL.RawQuery)
	if r.Method == http.MethodPost {
		form, err = readForm(w, r)
	}
	if wrong, ok := errors.AsType[*protocolError](err); ok {
		return pageError("The application sent you here in a way that cannot be understood.", wrong.description)
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), queryTime)
	defer cancel()
	l, err := p.leaving(ctx, form)
	if err != nil {
		return err
	}
	if l.grant != uuid.Nil {
		if err := p.cfg.Grants.RevokeFamily(ctx, l.grant, "logout"); err != nil {
			return err
		}
	}
	if l.redirect == "" {
		return p.pages.write(w, http.StatusOK, "message", pageData{Title: "Signed out", Message: l.told()}, here)
	}
	answer := url.Values{}
	if l.state != "" {
		answer.Set("state", l.state)
	}
	noStore(w)
	http.Redirect(w, r, withParams(l.redirect, answer), http.StatusSeeOther)
	return nil
}

// told is what the page says.
func (l leaving) told() string {
	if l.grant == uuid.Nil {
		return "Nothing keeps you signed in here: every application asks for your password anew."
	}
	return "You are signed out of " + l.client.Name + "."
}

// leaving checks a request to sign out. What is wrong with it is shown, and the browser goes nowhere.
func (p *Provider) leaving(ctx context.Context, form params) (l leaving, err error) {
	id := form["client_id"]
	if hint := form["id_token_hint"]; hint != "" {
		claims, err := p.hintedLogout(hint)
		if err != nil {
			return l, err
		}
		if id != "" && id != claims.Audience[0] {
			return l, pageError("The application that sent you here is another one than you signed in to.", "client_id is not that of id_token_hint")
		}
		id = claims.Audience[0]
		l.grant, _ = uuid.Parse(claims.Session) // an older token has none
	}
	l.redirect, l.state = form["post_logout_redirect_uri"], form["state"]
	if len(l.state) > maxState || !visible(l.state) {
		return l, pageError("The application sent you here in a way that cannot be understood.", "state is too long or not printable ASCII")
	}
	if id == "" {
		if l.redirect != "" {
			return l, pageError("The application that sent you here does not say which one it is.",
				"post_logout_redirect_uri needs id_token_hint or client_id")
		}
		return l, nil
	}
	l.client, err = p.client(ctx, id)
	switch {
	case errors.Is(err, errNoClient):
		return l, pageError("The application that sent you here is not known.", "client_id is unknown")
	case err != nil:
		return l, err
	case l.redirect != "" && !matchRedirect(l.client.LogoutRedirectUris, l.redirect):
		return l, pageError("The application that sent you here asked to go on to an address that is not registered for it.",
			"post_logout_redirect_uri does not match")
	}
	return l, nil
}

// hintedLogout reads an id_token_hint, which may have expired and must be an ID token of ours.
func (p *Provider) hintedLogout(text string) (idClaims, error) {
	var claims idClaims
	token, err := jwt.ParseWithClaims(text, &claims, p.cfg.Keys.Keyfunc, jwt.WithValidMethods([]string{"RS256"}),
		jwt.WithoutClaimsValidation())
	if errors.Is(err, keyring.ErrNoKey) {
		return claims, err
	}
	if err == nil {
		typ, _ := token.Header["typ"].(string)
		if typ == keyring.TypeID && claims.Issuer == p.cfg.Issuer && len(claims.Audience) == 1 && claims.Subject != "" {
			return claims, nil
		}
	}
	return claims, pageError("This request to sign out cannot be used any more.", "id_token_hint is no ID token of ours, or too old")
}
