package oauth

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/leaky-tokens/leaky-tokens/identity/identitydb"
	"github.com/leaky-tokens/leaky-tokens/identity/upstream"
	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
)

// Welcome gives the account of who signed in by another provider, and makes it at the first time. It
// is in the audit trail. *upstream.Refused when they may not come in.
type Welcome func(ctx context.Context, who upstream.Person) (uuid.UUID, error)

const kindAway = "away"

// away is a page that is left for another provider, sealed until the browser comes back. One of Request
// and Device says which page it was.
//
//	page ──form──▶ Begin ──303──▶ provider ──303──▶ /oauth2/callback ──▶ Finish ──▶ what the password leads to
//	                │ row and cookie                   │ row deleted, cookie dropped
//	                └─────────── not signed in: the page again, with why ◀──┘
type away struct {
	Login   upstream.Login `json:"login"`
	Request *request       `json:"request,omitzero"`
	Device  *device        `json:"device,omitzero"`
}

// leave sends the browser to the provider that its person chose on a page.
func (p *Provider) leave(w http.ResponseWriter, r *http.Request, name string, a away) error {
	state, browser := token(), token()
	login, to, err := p.cfg.Upstreams.Begin(r.Context(), name, state)
	if err != nil {
		return p.notSignedIn(w, r, a, err)
	}
	a.Login = login
	now := time.Now()
	sealed, err := p.forms.seal(kindAway, a, now)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), queryTime)
	defer cancel()
	err = p.db.AddUpstreamLogin(ctx, identitydb.AddUpstreamLoginParams{StateHash: hashed(state), BrowserHash: hashed(browser),
		Content: sealed, ExpiresAt: now.Add(formLife)})
	if err != nil {
		return fmt.Errorf("store upstream login: %w", err)
	}
	http.SetCookie(w, p.browserCookie(state, browser, int(formLife/time.Second)))
	noStore(w)
	http.Redirect(w, r, to, http.StatusSeeOther)
	return nil
}

// browserCookie binds a login to the browser that began it, so that nobody can have another's browser
// finish a login of their own (RFC 9700, 4.7). Each login has a cookie of its own: people have several
// tabs. It is not Strict, as the browser comes back from another site.
func (p *Provider) browserCookie(state, value string, maxAge int) *http.Cookie {
	c := &http.Cookie{Name: "leaky-sign-in-" + state[:8], Value: value, Path: config.UpstreamCallback, MaxAge: maxAge, HttpOnly: true,
		SameSite: http.SameSiteLaxMode}
	if strings.HasPrefix(p.cfg.Issuer, "https://") {
		c.Name, c.Path, c.Secure = "__Host-"+c.Name, "/", true
	}
	return c
}

// comeBack is GET /oauth2/callback: where another provider sends the browser back to.
func (p *Provider) comeBack(w http.ResponseWriter, r *http.Request) error {
	form, err := parseParams(r.URL.RawQuery)
	if wrong, ok := errors.AsType[*protocolError](err); ok {
		return pageError("The answer of the sign-in cannot be understood.", wrong.description)
	}
	a, err := p.returned(w, r, form["state"])
	if err != nil {
		return err
	}
	who, err := p.signedInAway(r.Context(), a, form)
	if err != nil {
		return p.notSignedIn(w, r, a, err)
	}
	if a.Device != nil {
		return p.connect(w, r, *a.Device, who)
	}
	return p.allowed(w, r, *a.Request, who)
}

// returned takes the login that an answer belongs to: once, for the browser that began it.
func (p *Provider) returned(w http.ResponseWriter, r *http.Request, state string) (a away, err error) {
	unknown := pageError("This sign-in is over: it took too long, it was used before, or it began in another browser. "+
		"Go back to the application and start again.", "state is missing, unknown, used or of another browser")
	if len(state) != len(token()) || !unreserved(state) {
		return a, unknown
	}
	cookie, err := r.Cookie(p.browserCookie(state, "", 0).Name)
	if err != nil {
		return a, unknown
	}
	http.SetCookie(w, p.browserCookie(state, "", -1))
	ctx, cancel := context.WithTimeout(r.Context(), queryTime)
	defer cancel()
	sealed, err := p.db.TakeUpstreamLogin(ctx, identitydb.TakeUpstreamLoginParams{StateHash: hashed(state), BrowserHash: hashed(cookie.Value)})
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return a, unknown
	case err != nil:
		return a, fmt.Errorf("take upstream login: %w", err)
	case p.forms.open(kindAway, sealed, time.Now(), &a) != nil:
		return a, unknown
	}
	return a, nil
}

// errorCode is how an error of OAuth2 looks, which a page may show.
var errorCode = regexp.MustCompile(`^[a-z_]{1,40}$`)

// signedInAway is who signed in at the other provider.
func (p *Provider) signedInAway(ctx context.Context, a away, form params) (who identitydb.OAuthPersonRow, err error) {
	refused := func(message, detail string) error {
		return &upstream.Refused{Message: message, Detail: a.Login.Upstream + ": " + detail}
	}
	code := form["error"]
	switch {
	case form["iss"] != "" && form["iss"] != a.Login.Issuer: // RFC 9207
		return who, refused("The answer is that of another provider.", "the answer has another iss")
	case code != "" && !errorCode.MatchString(code):
		return who, refused(a.Login.Upstream+" did not sign you in.", "an error that is none of OAuth2")
	case code != "":
		return who, refused(a.Login.Upstream+" did not sign you in ("+code+").", code)
	case form["code"] == "":
		return who, refused(a.Login.Upstream+" did not sign you in.", "neither code nor error")
	}
	person, err := p.cfg.Upstreams.Finish(ctx, a.Login, form["code"])
	if err != nil {
		return who, err
	}
	id, err := p.cfg.Welcome(ctx, person)
	if err != nil {
		return who, err
	}
	who, err = p.person(ctx, id)
	switch {
	case errors.Is(err, errGone):
		return who, refused("Your account is disabled. Ask your administrator.", "the account is disabled")
	case err == nil && a.Request != nil && !askedFor(*a.Request, who):
		return who, refused(anotherAccount, "another user than the client asked for")
	}
	return who, err
}

// notSignedIn shows the page again, with why nobody was signed in.
func (p *Provider) notSignedIn(w http.ResponseWriter, r *http.Request, a away, err error) error {
	told, ok := errors.AsType[*upstream.Refused](err)
	switch {
	case errors.Is(err, upstream.ErrUnknown):
		return pageError("Nobody can sign in that way here any more. Go back to the application and start again.", upstream.ErrUnknown.Error())
	case !ok:
		return err
	}
	p.log.LogAttrs(r.Context(), slog.LevelWarn, "nobody was signed in by another provider", slog.String("why", told.Detail),
		slog.String("correlation_id", r.Header.Get(httpapi.HeaderCorrelation)))
	p.metrics.refused(r, refuse(codeAccessDenied, "%s", told.Detail))
	once := &loginAgain{status: http.StatusForbidden, fields: loginFields{Problem: told.Message}}
	if a.Device != nil {
		return p.deviceAgain(w, r, *a.Device, once)
	}
	return p.again(w, r, *a.Request, once)
}
