package oauth

import (
	"errors"
	"net/http"
	"net/url"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/leaky-tokens/leaky-tokens/identity/keyring"
)

const (
	authorizePath = "/oauth2/authorize"
	devicePath    = "/oauth2/device"
	kindAgain     = "authorize again"
)

// anotherTry is a page that a form was answered with.
type anotherTry struct {
	Request request     `json:"request"`
	Status  int         `json:"status"`
	Login   loginFields `json:"login"`
	Wait    int64       `json:"wait,omitzero"` // seconds
}

// again shows the page of an authorization request once more, by way of a redirect: a page that
// answers a form directly is one that the browser's "back" cannot show.
func (p *Provider) again(w http.ResponseWriter, r *http.Request, req request, once *loginAgain) error {
	sealed, err := p.forms.seal(kindAgain, anotherTry{Request: req, Status: once.status, Login: once.fields, Wait: once.seconds()}, time.Now())
	if err != nil {
		return err
	}
	goTo(w, r, authorizePath, url.Values{"page": {sealed}})
	return nil
}

// goTo sends the browser to a page of ours.
func goTo(w http.ResponseWriter, r *http.Request, path string, query url.Values) {
	noStore(w)
	http.Redirect(w, r, path+"?"+query.Encode(), http.StatusSeeOther)
}

// showAgain is GET /oauth2/authorize?page=: what was sealed by again. A reload long after shows the
// page without what was wrong then.
func (p *Provider) showAgain(w http.ResponseWriter, r *http.Request, sealed string) error {
	var page anotherTry
	late := p.forms.open(kindAgain, sealed, time.Now(), &page)
	if errors.Is(late, errForeignForm) {
		return pageError("This page cannot be used any more. Go back to the application and start again.", "foreign page")
	}
	c, err := p.stillKnown(r.Context(), page.Request)
	if err != nil {
		return err
	}
	if late != nil {
		page.Status, page.Login.Problem, page.Wait = http.StatusOK, "", 0
	}
	retryAfter(w, page.Wait)
	return p.showConsent(w, page.Request, c, page.Status, page.Login)
}

// hinted reads whom an id_token_hint speaks of (OpenID Connect Core section 3.1.2.1). It may have
// expired, but it must be ours, and for the client that shows it.
func (p *Provider) hinted(text, client string) (string, error) {
	var claims jwt.RegisteredClaims
	token, err := jwt.ParseWithClaims(text, &claims, p.cfg.Keys.Keyfunc, jwt.WithValidMethods([]string{"RS256"}),
		jwt.WithoutClaimsValidation())
	if errors.Is(err, keyring.ErrNoKey) {
		return "", err
	}
	if err != nil || claims.Issuer != p.cfg.Issuer || len(claims.Audience) != 1 || claims.Audience[0] != client || claims.Subject == "" {
		return "", refuse(codeInvalidRequest, "id_token_hint is no ID token of this client, or too old")
	}
	if typ, _ := token.Header["typ"].(string); typ == keyring.TypeAccess {
		return "", refuse(codeInvalidRequest, "id_token_hint is no ID token")
	}
	return claims.Subject, nil
}
