package console

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/leaky-tokens/leaky-tokens/client"
	"github.com/leaky-tokens/leaky-tokens/client/api"
)

const (
	clientID = "leaky-console" // identity/oauth makes it
	// scope is all that the console's client may have; identity leaves out what a user may not.
	scope = "openid profile models.call tokens.read tokens.write analytics.read admin offline_access account"
	// early is how long before its end an access token is renewed.
	early = time.Minute
	// mostAnswer is what is read of an answer of the token endpoint, in bytes.
	mostAnswer = 64 << 10
)

// login sends a browser to the page where people sign in (RFC 6749 section 4.1, RFC 7636).
func (s *site) login(w http.ResponseWriter, r *http.Request) error {
	if host := strings.TrimPrefix(strings.TrimPrefix(s.origin, "https://"), "http://"); r.Host != host {
		// The answer comes to the origin that is registered, and so must the cookie.
		http.Redirect(w, r, s.origin+path+"/login?"+url.Values{"next": {next(r.URL.Query().Get("next"))}}.Encode(), http.StatusSeeOther)
		return nil
	}
	a := attempt{State: rand.Text(), Verifier: rand.Text() + rand.Text(), Next: next(r.URL.Query().Get("next")),
		Until: time.Now().Add(signInLife)}
	if err := s.seal.put(w, signInCookie, a, signInLife); err != nil {
		return err
	}
	challenge := sha256.Sum256([]byte(a.Verifier))
	q := url.Values{"response_type": {"code"}, "client_id": {clientID}, "redirect_uri": {s.redirect()}, "scope": {scope}, "state": {a.State},
		"code_challenge": {base64.RawURLEncoding.EncodeToString(challenge[:])}, "code_challenge_method": {"S256"}}
	http.Redirect(w, r, s.cfg.PublicURL+"/oauth2/authorize?"+q.Encode(), http.StatusSeeOther)
	return nil
}

func (s *site) redirect() string { return s.origin + path + "/callback" }

// next is where a sign-in leads: a page of ours, never another site's.
func next(given string) string {
	u, err := url.Parse(given)
	if err != nil || u.IsAbs() || u.Host != "" || len(given) > 1000 || !strings.HasPrefix(u.Path, path+"/") ||
		strings.ContainsAny(given, "\\\r\n") || strings.Contains(u.Path, "//") {
		return path + "/"
	}
	return u.EscapedPath() + query(u.RawQuery)
}

func query(raw string) string {
	if raw == "" {
		return ""
	}
	return "?" + raw
}

// callback takes the answer of a sign-in that began in this browser.
func (s *site) callback(w http.ResponseWriter, r *http.Request) error {
	var a attempt
	err := s.seal.get(r, signInCookie, &a)
	q := r.URL.Query()
	if err != nil && r.Header.Get("Sec-Fetch-Site") == "cross-site" {
		return s.again(w, r) // the page to sign in at is another site's: strict cookies come with the next step
	}
	s.seal.drop(w, signInCookie)
	issuer := q.Get("iss")
	switch {
	case err != nil || time.Now().After(a.Until):
		return &shown{status: http.StatusBadRequest, title: "Sign in again", text: "This sign-in took too long, or it began in another browser."}
	case subtle.ConstantTimeCompare([]byte(q.Get("state")), []byte(a.State)) != 1 || issuer != "" && issuer != s.cfg.PublicURL:
		return &shown{status: http.StatusBadRequest, title: "Sign in again", text: "This answer belongs to another sign-in."}
	case q.Get("error") == "access_denied":
		http.Redirect(w, r, path+"/", http.StatusSeeOther)
		return nil
	case q.Get("code") == "":
		return &shown{status: http.StatusBadRequest, title: "Sign in again",
			text: "The sign-in was refused: " + brief(q.Get("error_description"))}
	}
	got, err := s.token(r.Context(), url.Values{"grant_type": {"authorization_code"}, "code": {q.Get("code")}, "redirect_uri": {s.redirect()},
		"code_verifier": {a.Verifier}})
	if err != nil {
		return err
	}
	got.Until = time.Now().Add(sessionLife)
	if err := s.seal.put(w, sessionCookie, got, sessionLife); err != nil {
		return err
	}
	http.Redirect(w, r, a.Next, http.StatusSeeOther)
	return nil
}

// again has the browser ask for the same page once more, as a step of our own site: it sends no strict
// cookie with a step that another site began.
func (s *site) again(w http.ResponseWriter, r *http.Request) error {
	return s.pages.write(w, http.StatusOK, "again", page{Title: "One moment", Again: r.URL.EscapedPath() + query(r.URL.RawQuery)})
}

// token asks the token endpoint.
func (s *site) token(ctx context.Context, form url.Values) (session, error) {
	form.Set("client_id", clientID)
	var got api.TokenAnswer
	if err := s.post(ctx, "/oauth2/token", form, &got); err != nil {
		return session{}, err
	}
	return session{Access: got.AccessToken, Refresh: got.RefreshToken, Ends: time.Now().Add(time.Duration(got.ExpiresIn) * time.Second)}, nil
}

// errSignedOut says that a session is over.
var errSignedOut = errors.New("signed out")

// post sends a form to an endpoint of OAuth2; errSignedOut when what it sends is good no more.
func (s *site) post(ctx context.Context, at string, form url.Values, out any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.cfg.Gateway+at, strings.NewReader(form.Encode()))
	if err != nil {
		return fmt.Errorf("ask %s: %w", at, err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := s.api.Do(req)
	if err != nil {
		return fmt.Errorf("ask %s: %w", at, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, mostAnswer))
	switch {
	case err != nil:
		return fmt.Errorf("read answer of %s: %w", at, err)
	case resp.StatusCode == http.StatusBadRequest || resp.StatusCode == http.StatusUnauthorized:
		return errSignedOut
	case resp.StatusCode != http.StatusOK:
		return &client.Error{Method: http.MethodPost, Path: at, Status: resp.StatusCode, Header: resp.Header}
	case out == nil:
		return nil
	}
	if err := json.Unmarshal(text, out); err != nil {
		return fmt.Errorf("parse answer of %s: %w", at, err)
	}
	return nil
}

// session is who is signed in, with a token that is good for a while; errSignedOut without one.
func (s *site) session(w http.ResponseWriter, r *http.Request) (session, error) {
	var now session
	if err := s.seal.get(r, sessionCookie, &now); err != nil || !time.Now().Before(now.Until) {
		return now, errSignedOut
	}
	if time.Until(now.Ends) > early {
		return now, nil
	}
	if now.Refresh == "" {
		return now, errSignedOut
	}
	// Parts of one page ask at once, with one refresh token: it is used once.
	found, err, _ := s.refreshes.Do(now.Refresh, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), callTimeout)
		defer cancel()
		return s.token(ctx, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {now.Refresh}})
	})
	if err != nil {
		return now, err
	}
	fresh, _ := found.(session)
	fresh.Until = now.Until
	return fresh, s.seal.put(w, sessionCookie, fresh, time.Until(now.Until))
}

// logout ends the grant behind a session, so that its tokens end with the cookie.
func (s *site) logout(w http.ResponseWriter, r *http.Request) error {
	var now session
	if err := s.seal.get(r, sessionCookie, &now); err == nil {
		for _, token := range []string{now.Refresh, now.Access} {
			if token == "" {
				continue
			}
			if err := s.post(r.Context(), "/oauth2/revoke", url.Values{"token": {token}, "client_id": {clientID}}, nil); err != nil {
				s.cfg.Log.Warn("a token was not revoked at sign-out; it ends by itself", slog.Any("error", err))
			}
		}
	}
	s.seal.drop(w, sessionCookie)
	http.Redirect(w, r, path+"/", http.StatusSeeOther)
	return nil
}
