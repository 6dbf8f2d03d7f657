package oauth

import (
	"context"
	"errors"
	"fmt"
	"net/http"
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
	Hash   []byte   `json:"hash"`
	Client string   `json:"client"`
	Scopes []string `json:"scopes"`
}

// showDevice is GET /oauth2/device: the page where a user types in the code of her
// device. A code in the link is filled in, and she must still confirm it (RFC 8628
// section 3.3.1).
func (p *Provider) showDevice(w http.ResponseWriter, r *http.Request) error {
	form, err := parseParams(r.URL.RawQuery)
	if err != nil {
		return err
	}
	code := readUserCode(form["user_code"])
	if code != "" {
		code = shownUserCode(code)
	}
	return p.askCode(w, http.StatusOK, code, "")
}

func (p *Provider) askCode(w http.ResponseWriter, status int, code, problem string) error {
	return p.pages.write(w, status, "usercode", pageData{Title: "Connect a device", Action: "/oauth2/device", UserCode: code,
		Problem: problem}, "")
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
		return p.askCode(w, http.StatusBadRequest, "", "This page was open for too long. Type in the code again.")
	}
	c, err := p.client(r.Context(), d.Client)
	if errors.Is(err, errNoClient) {
		return pageError("The application is not known any more.", "client is gone")
	}
	if err != nil {
		return err
	}
	if form["decision"] != "allow" {
		// Who knows the code may end it; nothing is given to anybody.
		return p.closeDevice(w, r, identitydb.OAuthDecideDeviceParams{DeviceHash: d.Hash, State: stateDenied, Scope: strings.Join(d.Scopes,
			" ")}, nil)
	}
	who, err := p.signIn(r.Context(), form)
	if again, ok := errors.AsType[*loginAgain](err); ok {
		again.header(w)
		return p.showDeviceConsent(w, d, c, again.status, again.fields)
	}
	if err != nil {
		return err
	}
	scopes, err := p.consented(r.Context(), c, who, d.Scopes)
	if refused, ok := errors.AsType[*protocolError](err); ok {
		return p.showDeviceConsent(w, d, c, http.StatusForbidden, loginFields{Problem: "This cannot be allowed: " + refused.description + "."})
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
	const wrong = "This code is not known or has expired. Compare it with the one on your device."
	code := readUserCode(typed)
	if code == "" {
		return p.askCode(w, http.StatusBadRequest, "", "A code looks like BCDF-GHJK: eight letters.")
	}
	attempt, wait := p.cfg.Throttle.Enter(r.Context(), accountCode+":"+clientinfo.From(r.Context()).Network())
	if wait > 0 {
		w.Header().Set("Retry-After", fmt.Sprint(seconds(wait)))
		return p.askCode(w, http.StatusTooManyRequests, "", fmt.Sprintf("Too many attempts. Try again in %d seconds.", seconds(wait)))
	}
	ctx, cancel := context.WithTimeout(r.Context(), queryTime)
	defer cancel()
	row, err := p.db.OAuthDeviceByUserCode(ctx, hashed(code))
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		attempt.Fail()
		return p.askCode(w, http.StatusBadRequest, "", wrong)
	case err != nil:
		attempt.Abandon(ctx)
		return fmt.Errorf("read device code: %w", err)
	}
	attempt.Abandon(ctx) // a right code forgives no wrong one: anybody can get right ones
	c, err := p.client(ctx, row.ClientID)
	if err != nil {
		return err
	}
	return p.showDeviceConsent(w, device{Hash: row.DeviceHash, Client: c.ID, Scopes: strings.Fields(row.Scope)}, c, http.StatusOK,
		loginFields{})
}

func (p *Provider) showDeviceConsent(w http.ResponseWriter, d device, c identitydb.OauthClient, status int, login loginFields) error {
	sealed, err := p.forms.seal(kindDevice, d, time.Now())
	if err != nil {
		return err
	}
	return p.pages.write(w, status, "consent", pageData{Title: "Connect a device", Action: "/oauth2/device", Form: sealed, Client: c.Name,
		Scopes: meanings(d.Scopes), Login: login, Device: true}, "")
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
		return p.askCode(w, http.StatusBadRequest, "", "This code has expired or was answered before. Start again on your device.")
	case decision.State == stateDenied:
		return p.pages.write(w, http.StatusOK, "message", pageData{Title: "Refused",
			Message: "The device gets no access. You can close this page."}, "")
	}
	return p.pages.write(w, http.StatusOK, "message", pageData{Title: "Connected",
		Message: "The device is connected. You can close this page and go on there."}, "")
}

// loginFields are what the sign-in part of a page shows again.
type loginFields struct {
	Username string
	Problem  string
}

// loginAgain asks for the password once more, on the same page.
type loginAgain struct {
	status int
	fields loginFields
	wait   time.Duration
}

func (l *loginAgain) Error() string { return l.fields.Problem }

func (l *loginAgain) header(w http.ResponseWriter) {
	if l.wait > 0 {
		w.Header().Set("Retry-After", fmt.Sprint(seconds(l.wait)))
	}
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
		problem := fmt.Sprintf("Too many attempts. Try again in %d seconds.", max(1, wait))
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
