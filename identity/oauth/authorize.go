package oauth

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/leaky-tokens/leaky-tokens/identity/audit"
	"github.com/leaky-tokens/leaky-tokens/identity/identitydb"
)

const (
	kindAuthorize = "authorize"
	maxState      = 8 << 10 // bytes
	maxNonce      = 255     // bytes
)

// request is an authorization request that passed every check; the page keeps it
// sealed until it is answered.
type request struct {
	ClientID  string   `json:"client"`
	Redirect  string   `json:"redirect"`
	Left      bool     `json:"left,omitzero"` // the client left redirect_uri out
	Scopes    []string `json:"scopes"`
	Resources string   `json:"resources,omitzero"`
	State     string   `json:"state,omitzero"`
	Nonce     string   `json:"nonce,omitzero"`
	Challenge string   `json:"challenge"`
	Key       string   `json:"jkt,omitzero"` // that the code is bound to
	Subject   string   `json:"sub,omitzero"` // the one user who may answer, by id_token_hint
}

// showAuthorize is GET /oauth2/authorize: the page where a user signs in and consents. With page it
// shows once more what a form was answered with.
func (p *Provider) showAuthorize(w http.ResponseWriter, r *http.Request) error {
	form, err := parseParams(r.URL.RawQuery)
	if err == nil && form["page"] != "" {
		return p.showAgain(w, r, form["page"])
	}
	return p.ask(w, r, form, err)
}

// ask checks an authorization request and shows the page. While the client and its
// redirect URI are not sound the user is told and goes nowhere (RFC 6749 section
// 4.1.2.1: an open redirector otherwise); after that the client is told.
func (p *Provider) ask(w http.ResponseWriter, r *http.Request, form params, malformed error) error {
	c, err := p.client(r.Context(), form["client_id"])
	if errors.Is(err, errNoClient) {
		return pageError("The application that sent you here is not known.", "client_id is missing or unknown")
	}
	if err != nil {
		return err
	}
	if strings.HasPrefix(form["request_uri"], requestURN) {
		return p.askPushed(w, c, form["request_uri"])
	}
	req, err := p.requestOf(c, form)
	if err != nil {
		return pageError("The application that sent you here asked for an answer at an address that is not registered for it.",
			"redirect_uri is missing or does not match")
	}
	var login loginFields
	if malformed == nil {
		malformed = p.fill(r, c, form, &req, &login)
	}
	if refused, ok := errors.AsType[*protocolError](malformed); ok {
		p.metrics.refused(r, refused)
		p.sendBack(w, r, req, url.Values{"error": {refused.code}, "error_description": {refused.description}})
		return nil
	}
	if malformed != nil {
		return malformed
	}
	return p.showConsent(w, req, c, http.StatusOK, login)
}

// errRedirect says that an answer would go to where it must not.
var errRedirect = errors.New("redirect URI does not match")

// requestOf reads a request as far as where its answer goes; errRedirect if that is not sound.
func (p *Provider) requestOf(c identitydb.OauthClient, form params) (request, error) {
	redirect, left := form["redirect_uri"], false
	if redirect == "" && len(c.RedirectUris) == 1 {
		redirect, left = c.RedirectUris[0], true // RFC 6749 section 3.1.2.3
	}
	if !mayAnswer(c, redirect) {
		return request{}, errRedirect
	}
	return request{ClientID: c.ID, Redirect: redirect, Left: left, State: form["state"], Nonce: form["nonce"],
		Challenge: form["code_challenge"], Key: form["dpop_jkt"]}, nil
}

// fill checks what comes after client and redirect URI.
func (p *Provider) fill(r *http.Request, c identitydb.OauthClient, form params, req *request, login *loginFields) (err error) {
	login.Username = loginHint(form["login_hint"])
	if req.Scopes, err = checkRequest(c, form); err != nil {
		return err
	}
	if req.Resources, err = p.knownResources(form[paramResource]); err != nil {
		return err
	}
	if form["id_token_hint"] == "" {
		return nil
	}
	if req.Subject, err = p.hinted(form["id_token_hint"], c.ID); err != nil {
		return err
	}
	id, err := uuid.Parse(req.Subject)
	if err != nil {
		return refuse(codeInvalidRequest, "id_token_hint is none of ours")
	}
	who, err := p.person(r.Context(), id)
	if errors.Is(err, errGone) {
		return refuse(codeLoginRequired, "the user of the id_token_hint is gone")
	}
	login.Username = who.Username
	return err
}

func loginHint(text string) string {
	if len(text) > 100 {
		return ""
	}
	return text
}

// checkRequest checks the parameters that say what is wanted, and gives the scopes.
func checkRequest(c identitydb.OauthClient, form params) ([]string, error) {
	challenge := form["code_challenge"]
	prompts := strings.Fields(form["prompt"])
	switch {
	case form["request"] != "":
		return nil, refuse(codeRequestUnsupported, "request objects are not supported")
	case form["request_uri"] != "":
		return nil, refuse(codeURIUnsupported, "request_uri is not supported")
	case form["response_type"] == "":
		return nil, refuse(codeInvalidRequest, "response_type is required")
	case form["response_type"] != "code":
		return nil, refuse(codeUnsupportedResponse, "response_type must be code")
	case !allows(c, grantCode):
		return nil, refuse(codeUnauthorizedClient, "the client is not registered for authorization_code")
	case form["response_mode"] != "" && form["response_mode"] != "query":
		return nil, refuse(codeInvalidRequest, "response_mode must be query")
	case challenge == "":
		return nil, refuse(codeInvalidRequest, "code_challenge is required (RFC 7636)")
	case form["code_challenge_method"] != "S256":
		return nil, refuse(codeInvalidRequest, "code_challenge_method must be S256")
	case len(challenge) != 43 || !unreserved(challenge):
		return nil, refuse(codeInvalidRequest, "code_challenge must be 43 characters of base64url")
	case len(form["state"]) > maxState || !visible(form["state"]):
		return nil, refuse(codeInvalidRequest, "state must be at most %d printable ASCII characters", maxState)
	case form["dpop_jkt"] != "" && (len(form["dpop_jkt"]) != 43 || !unreserved(form["dpop_jkt"])):
		return nil, refuse(codeInvalidRequest, "dpop_jkt must be 43 characters of base64url (RFC 9449)")
	case len(form["nonce"]) > maxNonce || !visible(form["nonce"]):
		return nil, refuse(codeInvalidRequest, "nonce must be at most %d printable ASCII characters", maxNonce)
	case slices.Contains(prompts, "none") && len(prompts) > 1:
		return nil, refuse(codeInvalidRequest, "prompt must be none alone or not at all")
	case len(prompts) == 1 && prompts[0] == "none":
		// There is no session that would answer without a page.
		return nil, refuse(codeLoginRequired, "the user must sign in")
	}
	return requestedScopes(form["scope"], c.Scopes)
}

func (p *Provider) showConsent(w http.ResponseWriter, req request, c identitydb.OauthClient, status int, login loginFields) error {
	sealed, err := p.forms.seal(kindAuthorize, req, time.Now())
	if err != nil {
		return err
	}
	// No form-action: browsers hold to it the whole chain of redirects that follows the form, of which
	// the later ones are the application's own, and it cannot name [::1].
	return p.pages.write(w, status, "consent", pageData{Title: "Sign in", Action: authorizePath, Form: sealed, Client: c.Name,
		Own: c.ID == ConsoleClient, Scopes: meanings(req.Scopes), Login: login, Upstreams: p.cfg.Upstreams.Names(),
		Host: hostOf(req.Redirect), Stranger: strangerOf(c)}, anywhere)
}

// strangerOf says what stands behind the name of a client that no administrator registered.
func strangerOf(c identitydb.OauthClient) string {
	switch c.Registered {
	case byDocument:
		return "It describes itself at " + c.ID + "; nobody here has checked that."
	case byItself:
		return "It registered itself under this name; nobody here has checked that."
	}
	return ""
}

func hostOf(redirect string) string {
	u, err := url.Parse(redirect)
	if err != nil || u.Host == "" {
		return ""
	}
	return u.Hostname()
}

// decideAuthorize is POST /oauth2/authorize: the user's answer. A POST without our
// form is an authorization request, which clients may also POST (OpenID Connect Core
// section 3.1.2.1).
func (p *Provider) decideAuthorize(w http.ResponseWriter, r *http.Request) error {
	form, err := readBody(w, r)
	if form["form"] == "" {
		if form == nil {
			return err
		}
		return p.ask(w, r, form, err)
	}
	if err != nil {
		return err
	}
	if p.origins.Check(r) != nil {
		return pageError("This form was sent from another site.", "cross-origin form")
	}
	var req request
	late := p.forms.open(kindAuthorize, form["form"], time.Now(), &req)
	if errors.Is(late, errForeignForm) {
		return pageError("This page cannot be used any more. Go back to the application and start again.", "foreign form")
	}
	c, err := p.stillKnown(r.Context(), req)
	if err != nil {
		return err
	}
	if name := form["upstream"]; name != "" && late == nil {
		return p.leave(w, r, name, away{Request: &req})
	}
	if form["decision"] != "allow" && form["upstream"] == "" {
		p.sendBack(w, r, req, url.Values{"error": {codeAccessDenied}, "error_description": {"the user refused"}})
		return nil
	}
	if late != nil {
		return p.again(w, r, req, &loginAgain{status: http.StatusOK, fields: loginFields{Username: loginHint(form["username"]),
			Problem: "This page was open for a long time. Sign in again."}})
	}
	who, err := p.signInAs(r.Context(), req, form)
	if once, ok := errors.AsType[*loginAgain](err); ok {
		return p.again(w, r, req, once)
	}
	if err != nil {
		return err
	}
	return p.allow(w, r, req, c, who)
}

// allowed is what a user of another provider agreed to before they went there.
func (p *Provider) allowed(w http.ResponseWriter, r *http.Request, req request, who identitydb.OAuthPersonRow) error {
	c, err := p.stillKnown(r.Context(), req)
	if err != nil {
		return err
	}
	return p.allow(w, r, req, c, who)
}

// allow gives the client what the user agreed to, by way of the browser.
func (p *Provider) allow(w http.ResponseWriter, r *http.Request, req request, c identitydb.OauthClient,
	who identitydb.OAuthPersonRow) error {
	answer, err := p.grantCode(r.Context(), req, c, who)
	if refused, ok := errors.AsType[*protocolError](err); ok {
		p.metrics.refused(r, refused)
		answer, err = url.Values{"error": {refused.code}, "error_description": {refused.description}}, nil
	}
	if err != nil {
		return err
	}
	p.sendBack(w, r, req, answer)
	return nil
}

// stillKnown looks the client of a sealed request up again.
func (p *Provider) stillKnown(ctx context.Context, req request) (identitydb.OauthClient, error) {
	c, err := p.client(ctx, req.ClientID)
	if errors.Is(err, errNoClient) || err == nil && (!mayAnswer(c, req.Redirect) || !allows(c, grantCode)) {
		return c, pageError("The application that sent you here is not known any more.", "client changed")
	}
	return c, err
}

// signInAs signs in the one user that the client asked for, if it did: it must not get the tokens of
// another (OpenID Connect Core section 3.1.2.2).
func (p *Provider) signInAs(ctx context.Context, req request, form params) (identitydb.OAuthPersonRow, error) {
	who, err := p.signIn(ctx, form)
	if err == nil && !askedFor(req, who) {
		return who, &loginAgain{status: http.StatusForbidden, fields: loginFields{Problem: anotherAccount}}
	}
	return who, err
}

const anotherAccount = "The application asked for another account. Sign in with that one, or refuse."

func askedFor(req request, who identitydb.OAuthPersonRow) bool {
	return req.Subject == "" || who.ID.String() == req.Subject
}

// grantCode makes the code that the client redeems.
func (p *Provider) grantCode(ctx context.Context, req request, c identitydb.OauthClient, who identitydb.OAuthPersonRow) (url.Values,
	error) {
	ctx, cancel := context.WithTimeout(ctx, queryTime)
	defer cancel()
	scopes, err := p.consented(ctx, c, who, req.Scopes)
	if err != nil {
		return nil, err
	}
	code, now := token(), time.Now()
	redirect := req.Redirect
	if req.Left {
		redirect = "" // nothing that the client has to repeat (RFC 6749 section 4.1.3)
	}
	err = pgx.BeginFunc(ctx, p.cfg.Pool, func(tx pgx.Tx) error {
		err := identitydb.New(tx).OAuthInsertCode(ctx, identitydb.OAuthInsertCodeParams{CodeHash: hashed(code), ClientID: c.ID, UserID: who.ID,
			RedirectUri: redirect, Challenge: req.Challenge, Scope: strings.Join(scopes, " "), Nonce: req.Nonce, AuthTime: now,
			ExpiresAt: now.Add(codeLife), Resources: strings.Fields(req.Resources), Jkt: req.Key})
		if err != nil {
			return fmt.Errorf("store code: %w", err)
		}
		return auditConsent(ctx, tx, c, who, scopes)
	})
	if err != nil {
		return nil, err
	}
	return url.Values{"code": {code}}, nil
}

// consented are the scopes that a user really gives to a client.
func (p *Provider) consented(ctx context.Context, c identitydb.OauthClient, who identitydb.OAuthPersonRow, scopes []string) ([]string,
	error) {
	ok, err := p.mayAct(ctx, c, who.ID)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, refuse(codeAccessDenied, "the user is no member of the client's organisation")
	}
	return grantedScopes(scopes, who.Roles)
}

func auditConsent(ctx context.Context, tx pgx.Tx, c identitydb.OauthClient, who identitydb.OAuthPersonRow, scopes []string) error {
	return audit.Record(ctx, tx, audit.Entry{Actor: who.ID.String(), Client: c.ID, Action: "client.consent", Target: c.ID,
		Detail: map[string]string{"scope": strings.Join(scopes, " ")}})
}

// sendBack answers the client by way of the browser, with who answers (RFC 9207) and
// the client's state. 303 makes the browser drop the form (RFC 9700 section 4.12).
func (p *Provider) sendBack(w http.ResponseWriter, r *http.Request, req request, answer url.Values) {
	answer.Set("iss", p.cfg.Issuer)
	if req.State != "" {
		answer.Set("state", req.State)
	}
	noStore(w)
	http.Redirect(w, r, withParams(req.Redirect, answer), http.StatusSeeOther)
}
