package oauth

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/leaky-tokens/leaky-tokens/identity/clientinfo"
	"github.com/leaky-tokens/leaky-tokens/identity/identitydb"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
)

const (
	kindDevice    = "device"
	accountCode   = "user-code" // what wrong user codes are counted under, with the address
	wrongPassword = "The user name or the password is wrong."
)

// device is what the second device page remembers.
type device struct {
	Hash   []byte      `json:"hash"`
	Client string      `json:"client"`
	Scopes []string    `json:"scopes"`
	Status int         `json:"status,omitzero"` // of the page
	Login  loginFields `json:"login,omitzero"`
	Wait   int64       `json:"wait,omitzero"` // seconds
}

// What the first device page says, by the parameter result that a form's answer redirects with.
const (
	resultUnknown   = "unknown"
	resultMalformed = "malformed"
	resultWait      = "wait"
	resultStale     = "stale"
	resultAnswered  = "answered"
	resultConnected = "connected"
	resultRefused   = "refused"
)

// showDevice is GET /oauth2/device: the page where a user types in the code of their
// device. A code in the link is filled in, and they must still confirm it (RFC 8628
// section 3.3.1). With page it is the second page, with result what became of a form: each form is
// answered by a redirect to here, so that the browser's "back" works.
func (p *Provider) showDevice(w http.ResponseWriter, r *http.Request) error {
	form, err := parseParams(r.URL.RawQuery)
	if err != nil {
		return err
	}
	if form["page"] != "" {
		return p.showDevicePage(w, r, form["page"])
	}
	code := readUserCode(form["user_code"])
	if code != "" {
		code = shownUserCode(code)
	}
	switch form["result"] {
	case resultConnected:
		return p.pages.write(w, http.StatusOK, "message", pageData{Title: "Connected",
			Message: "The device is connected. You can close this page and go on there."}, here)
	case resultRefused:
		return p.pages.write(w, http.StatusOK, "message", pageData{Title: "Refused",
			Message: "The device gets no access. You can close this page."}, here)
	case resultWait:
		wait, err := strconv.ParseInt(form["seconds"], 10, 32)
		if err != nil || wait < 1 {
			wait = 1
		}
		retryAfter(w, wait)
		return p.askCode(w, http.StatusTooManyRequests, code, later("Too many attempts.", wait))
	}
	if problem := deviceProblem(form["result"]); problem != "" {
		return p.askCode(w, http.StatusBadRequest, code, problem)
	}
	return p.askCode(w, http.StatusOK, code, "")
}

func deviceProblem(result string) string {
	switch result {
	case resultUnknown:
		return "This code is not known or has expired. Compare it with the one on your device."
	case resultMalformed:
		return "A code looks like BCDF-GHJK: eight letters."
	case resultStale:
		return "This page was open for too long. Type in the code again."
	case resultAnswered:
		return "This code has expired or was answered before. Start again on your device."
	}
	return ""
}

func (p *Provider) askCode(w http.ResponseWriter, status int, code, problem string) error {
	return p.pages.write(w, status, "usercode", pageData{Title: "Connect a device", Action: devicePath, UserCode: code,
		Problem: problem}, here)
}

// deviceResult sends the browser to the first page, which says what became of a form.
func deviceResult(w http.ResponseWriter, r *http.Request, result string) error {
	goTo(w, r, devicePath, url.Values{"result": {result}})
	return nil
}

// decideDevice is POST /oauth2/device: first the code, then the answer.
func (p *Provider) decideDevice(w http.ResponseWriter, r *http.Request) error {
	form, err := readForm(w, r)
	if err != nil {
		return err
	}
	if p.origins.Check(r) != nil {
		return pageError("This form was sent from another site.", "cross-origin form")
	}
	if form["form"] == "" {
		return p.findDevice(w, r, form["user_code"])
	}
	var d device
	if p.forms.open(kindDevice, form["form"], time.Now(), &d) != nil {
		return deviceResult(w, r, resultStale)
	}
	c, err := p.client(r.Context(), d.Client)
	if errors.Is(err, errNoClient) {
		return pageError("The application is not known any more.", "client is gone")
	}
	if err != nil {
		return err
	}
	if name := form["upstream"]; name != "" {
		return p.leave(w, r, name, away{Device: &d})
	}
	if form["decision"] != "allow" {
		// Who knows the code may end it; nothing is given to anybody.
		return p.closeDevice(w, r, identitydb.OAuthDecideDeviceParams{DeviceHash: d.Hash, State: stateDenied, Scope: strings.Join(d.Scopes,
			" ")}, nil)
	}
	who, err := p.signIn(r.Context(), form)
	if once, ok := errors.AsType[*loginAgain](err); ok {
		return p.deviceAgain(w, r, d, once)
	}
	if err != nil {
		return err
	}
	return p.connectTo(w, r, d, c, who)
}

// connect is what a user of another provider agreed to before they went there.
func (p *Provider) connect(w http.ResponseWriter, r *http.Request, d device, who identitydb.OAuthPersonRow) error {
	c, err := p.client(r.Context(), d.Client)
	if errors.Is(err, errNoClient) {
		return pageError("The application is not known any more.", "client is gone")
	}
	if err != nil {
		return err
	}
	return p.connectTo(w, r, d, c, who)
}

// deviceAgain shows the second page again, with what was wrong.
func (p *Provider) deviceAgain(w http.ResponseWriter, r *http.Request, d device, once *loginAgain) error {
	d.Status, d.Login, d.Wait = once.status, once.fields, once.seconds()
	return p.goToDevice(w, r, d)
}

// connectTo gives a device what the user allows it.
func (p *Provider) connectTo(w http.ResponseWriter, r *http.Request, d device, c identitydb.OauthClient,
	who identitydb.OAuthPersonRow) error {
	scopes, err := p.consented(r.Context(), c, who, d.Scopes)
	if refused, ok := errors.AsType[*protocolError](err); ok {
		return p.deviceAgain(w, r, d, &loginAgain{status: http.StatusForbidden, fields: loginFields{
			Problem: "This cannot be allowed: " + refused.description + "."}})
	}
	if err != nil {
		return err
	}
	now := time.Now()
	return p.closeDevice(w, r, identitydb.OAuthDecideDeviceParams{DeviceHash: d.Hash, State: stateApproved, UserID: &who.ID, AuthTime: &now,
		Scope: strings.Join(scopes, " ")},
		func(ctx context.Context, tx pgx.Tx) error { return auditConsent(ctx, tx, c, who, scopes) })
}

// findDevice looks for a code and shows who asks for what. Wrong codes are counted
// per address: 20^8 codes that live ten minutes leave no room for guessing then.
func (p *Provider) findDevice(w http.ResponseWriter, r *http.Request, typed string) error {
	code := readUserCode(typed)
	if code == "" {
		return deviceResult(w, r, resultMalformed)
	}
	attempt, wait := p.cfg.Throttle.Enter(r.Context(), accountCode+":"+clientinfo.From(r.Context()).Network())
	if wait > 0 {
		goTo(w, r, devicePath, url.Values{"result": {resultWait}, "seconds": {strconv.FormatInt(seconds(wait), 10)}})
		return nil
	}
	ctx, cancel := context.WithTimeout(r.Context(), queryTime)
	defer cancel()
	row, err := p.db.OAuthDeviceByUserCode(ctx, hashed(code))
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		attempt.Fail(ctx)
		return deviceResult(w, r, resultUnknown)
	case err != nil:
		attempt.Abandon(ctx)
		return fmt.Errorf("read device code: %w", err)
	}
	attempt.Abandon(ctx) // a right code forgives no wrong one: anybody can get right ones
	return p.goToDevice(w, r, device{Hash: row.DeviceHash, Client: row.ClientID, Scopes: strings.Fields(row.Scope), Status: http.StatusOK})
}

// goToDevice sends the browser to the second page.
func (p *Provider) goToDevice(w http.ResponseWriter, r *http.Request, d device) error {
	sealed, err := p.forms.seal(kindDevice, d, time.Now())
	if err != nil {
		return err
	}
	goTo(w, r, devicePath, url.Values{"page": {sealed}})
	return nil
}

// showDevicePage is GET /oauth2/device?page=: who asks for what, and the password.
func (p *Provider) showDevicePage(w http.ResponseWriter, r *http.Request, sealed string) error {
	var d device
	if p.forms.open(kindDevice, sealed, time.Now(), &d) != nil {
		return deviceResult(w, r, resultStale)
	}
	c, err := p.client(r.Context(), d.Client)
	if errors.Is(err, errNoClient) {
		return pageError("The application is not known any more.", "client is gone")
	}
	if err != nil {
		return err
	}
	retryAfter(w, d.Wait)
	names, end := p.cfg.Upstreams.Names(), here
	if len(names) > 0 {
		end = anywhere // browsers hold to it the redirect to the provider, too
	}
	return p.pages.write(w, d.Status, "consent", pageData{Title: "Connect a device", Action: devicePath, Form: sealed, Client: c.Name,
		Scopes: meanings(d.Scopes), Login: d.Login, Upstreams: names, Device: true}, end)
}

// closeDevice stores the user's answer, once.
func (p *Provider) closeDevice(w http.ResponseWriter, r *http.Request, decision identitydb.OAuthDecideDeviceParams,
	also func(context.Context, pgx.Tx) error) error {
	ctx, cancel := context.WithTimeout(r.Context(), queryTime)
	defer cancel()
	var n int64
	err := pgx.BeginFunc(ctx, p.cfg.Pool, func(tx pgx.Tx) error {
		var err error
		if n, err = identitydb.New(tx).OAuthDecideDevice(ctx, decision); err != nil {
			return fmt.Errorf("store decision: %w", err)
		}
		if n == 0 || also == nil {
			return nil
		}
		return also(ctx, tx)
	})
	switch {
	case err != nil:
		return err
	case n == 0:
		return deviceResult(w, r, resultAnswered)
	case decision.State == stateDenied:
		return deviceResult(w, r, resultRefused)
	}
	return deviceResult(w, r, resultConnected)
}

// loginFields are what the sign-in part of a page shows again.
type loginFields struct {
	Username string `json:"username,omitzero"`
	Problem  string `json:"problem,omitzero"`
}

// loginAgain asks for the password once more, on the same page.
type loginAgain struct {
	status int
	fields loginFields
	wait   time.Duration
}

func (l *loginAgain) Error() string { return l.fields.Problem }

func (l *loginAgain) seconds() int64 {
	if l.wait == 0 {
		return 0
	}
	return seconds(l.wait)
}

func retryAfter(w http.ResponseWriter, wait int64) {
	if wait > 0 {
		w.Header().Set("Retry-After", strconv.FormatInt(wait, 10))
	}
}

// later tells a person when to try again.
func later(what string, wait int64) string {
	if wait == 1 {
		return what + " Try again in a second."
	}
	return fmt.Sprintf("%s Try again in %d seconds.", what, wait)
}

// signIn takes name and password from a page; *loginAgain shows the page again. A
// wrong password is a 403: a 401 would owe the browser a challenge (RFC 9110).
func (p *Provider) signIn(ctx context.Context, form params) (identitydb.OAuthPersonRow, error) {
	name := strings.TrimSpace(form["username"])
	again := func(status int, wait time.Duration, problem string) error {
		return &loginAgain{status: status, wait: wait, fields: loginFields{Username: name, Problem: problem}}
	}
	if name == "" || form["password"] == "" {
		return identitydb.OAuthPersonRow{}, again(http.StatusBadRequest, 0, "Type in your user name and your password.")
	}
	id, err := p.cfg.SignIn(ctx, name, form["password"])
	if refused, ok := errors.AsType[*httpapi.Error](err); ok {
		wait, _ := strconv.Atoi(refused.Header.Get("Retry-After"))
		problem := later("Too many attempts.", max(1, int64(wait)))
		switch refused.Status {
		case http.StatusUnauthorized:
			return identitydb.OAuthPersonRow{}, again(http.StatusForbidden, 0, wrongPassword)
		case http.StatusServiceUnavailable:
			problem = "Too many people sign in at the moment. Try again."
		}
		return identitydb.OAuthPersonRow{}, again(refused.Status, time.Duration(max(1, wait))*time.Second, problem)
	}
	if err != nil {
		return identitydb.OAuthPersonRow{}, err
	}
	return p.signedIn(ctx, id, again)
}

func (p *Provider) signedIn(ctx context.Context, id uuid.UUID, again func(int, time.Duration, string) error) (identitydb.OAuthPersonRow,
	error) {
	who, err := p.person(ctx, id)
	if errors.Is(err, errGone) {
		return who, again(http.StatusForbidden, 0, wrongPassword)
	}
	return who, err
}
