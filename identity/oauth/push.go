package oauth

import (
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/leaky-tokens/leaky-tokens/identity/identitydb"
)

const (
	pushPath   = "/oauth2/par"
	kindPushed = "pushed request"
	// requestURN begins the name of a request that was pushed (RFC 9126 section 2.2). The request itself
	// stands behind it, sealed: no row, and any replica takes it.
	requestURN = "urn:ietf:params:oauth:request_uri:"
)

// push is POST /oauth2/par (RFC 9126): a client proves who it is and says what it wants, and the browser
// carries but a name for it, which nobody can read or change.
func (p *Provider) push(w http.ResponseWriter, r *http.Request) error {
	form, err := readForm(w, r)
	if err != nil {
		return err
	}
	c, err := p.authenticate(r, form)
	if err != nil {
		return err
	}
	if form["request_uri"] != "" {
		return refuse(codeInvalidRequest, "a pushed request names no other")
	}
	req, err := p.requestOf(c, form)
	if err != nil {
		return refuse(codeInvalidRequest, "redirect_uri is missing or does not match")
	}
	var login loginFields
	if err := p.fill(r, c, form, &req, &login); err != nil {
		return err
	}
	sealed, err := p.forms.seal(kindPushed, pushed{Request: req, Login: login}, time.Now())
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusCreated, map[string]any{"request_uri": requestURN + sealed, "expires_in": int64(formLife / time.Second)})
	return nil
}

// pushed is what a name of a pushed request holds.
type pushed struct {
	Request request     `json:"request"`
	Login   loginFields `json:"login"`
}

// askPushed shows the page of a request that was pushed.
func (p *Provider) askPushed(w http.ResponseWriter, c identitydb.OauthClient, name string) error {
	sealed, found := strings.CutPrefix(name, requestURN)
	var was pushed
	err := p.forms.open(kindPushed, sealed, time.Now(), &was)
	if !found || err != nil || was.Request.ClientID != c.ID {
		why := "request_uri is not one of ours, or of another client"
		if errors.Is(err, errLateForm) {
			why = "request_uri has expired"
		}
		return pageError("The application that sent you here took too long, or sent you wrong. Go back to it and start again.", why)
	}
	if !mayAnswer(c, was.Request.Redirect) || !allows(c, grantCode) {
		return pageError("The application that sent you here is not known any more.", "client changed")
	}
	return p.showConsent(w, was.Request, c, http.StatusOK, was.Login)
}
