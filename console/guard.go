package console

import (
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"github.com/leaky-tokens/leaky-tokens/client"
	"github.com/leaky-tokens/leaky-tokens/client/api"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
)

const (
	// mostForm is the largest form, in bytes.
	mostForm = 16 << 10
	// mostQuery is the longest query, in bytes.
	mostQuery = 4 << 10

	contentPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; " +
		"form-action 'self'; frame-ancestors 'none'"
)

// shown is a problem as a person reads it.
type shown struct {
	status      int
	title, text string
}

func (e *shown) Error() string { return e.title + ": " + e.text }

// brief bounds a text that somebody else wrote.
func brief(text string) string {
	const most = 300
	if len(text) > most {
		return strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}

// open guards what needs no session: every page has the same headers, and a form comes from a page of ours.
func (s *site) open(h func(w http.ResponseWriter, r *http.Request) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := s.admit(w, r); err != nil {
			s.fail(w, r, nil, err)
			return
		}
		if err := h(w, r); err != nil {
			s.fail(w, r, nil, err)
		}
	})
}

// admit bounds a request, and refuses a write that another site's page sent. Browsers state the origin
// of every POST; who states none is no browser of ours.
func (s *site) admit(w http.ResponseWriter, r *http.Request) error {
	if len(r.URL.RawQuery) > mostQuery {
		return &shown{status: http.StatusRequestURITooLong, title: "Too long", text: "The address is longer than any of ours."}
	}
	if _, err := url.ParseQuery(r.URL.RawQuery); err != nil {
		return &shown{status: http.StatusBadRequest, title: "Malformed", text: "The address is malformed."}
	}
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		return nil
	}
	site := r.Header.Get("Sec-Fetch-Site")
	if r.Header.Get("Origin") != s.origin || site != "" && site != "same-origin" {
		return &shown{status: http.StatusForbidden, title: "Refused", text: "This form was not sent from a page of the console."}
	}
	r.Body = http.MaxBytesReader(w, r.Body, mostForm)
	if err := r.ParseForm(); err != nil {
		return &shown{status: http.StatusBadRequest, title: "Malformed", text: "The form is malformed, or too large."}
	}
	return nil
}

// visit is one request of somebody who is signed in.
type visit struct {
	w   http.ResponseWriter
	r   *http.Request
	api *client.Client // as they
	me  api.Me
}

// admin tells whether they are an administrator, to show them the way. The control API decides.
func (v *visit) admin() bool {
	for _, role := range v.me.Roles {
		if role == principal.RoleAdmin {
			return true
		}
	}
	return false
}

// fragment tells whether a part of a page is asked for, and not a page.
func (v *visit) fragment() bool { return v.r.Header.Get("HX-Request") == "true" }

type pageFunc func(v *visit) error

// signedIn finds out who asks.
func (s *site) signedIn(h pageFunc) http.Handler {
	return s.open(func(w http.ResponseWriter, r *http.Request) error {
		now, err := s.session(w, r)
		if errors.Is(err, errSignedOut) {
			return s.welcome(w, r)
		}
		if err != nil {
			return err
		}
		v := &visit{w: w, r: r, api: s.api.As(client.Bearer(now.Access))}
		got, err := v.api.GetMeWithResponse(r.Context())
		if err == nil {
			v.me, err = client.Answer(got.JSON200)
		}
		if err == nil {
			err = h(v)
		}
		if refused, ok := errors.AsType[*client.Error](err); ok && refused.Status == http.StatusUnauthorized {
			s.seal.drop(w, sessionCookie)
			return s.welcome(w, r)
		}
		if err != nil {
			s.fail(w, r, v, err)
		}
		return nil
	})
}

// welcome is for who is not signed in.
func (s *site) welcome(w http.ResponseWriter, r *http.Request) error {
	if r.Header.Get("HX-Request") == "true" { // a part of a page that outlived its session
		w.Header().Set("HX-Refresh", "true")
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	if r.Method == http.MethodGet && r.Header.Get("Sec-Fetch-Site") == "cross-site" {
		return s.again(w, r) // they may be, though this step came without cookies
	}
	to := path + "/"
	if r.Method == http.MethodGet {
		to = next(r.URL.EscapedPath() + query(r.URL.RawQuery))
	}
	login := path + "/login?" + url.Values{"next": {to}}.Encode()
	return s.pages.write(w, http.StatusUnauthorized, "welcome", page{Title: "Sign in", Data: login})
}

// fail shows what went wrong: what the control API says as it says it, and nothing of what is ours.
func (s *site) fail(w http.ResponseWriter, r *http.Request, v *visit, err error) {
	if r.Context().Err() != nil {
		return
	}
	problem, ok := errors.AsType[*shown](err)
	if !ok {
		problem = s.explain(w, r, err)
	}
	p := page{Title: problem.title, Problem: problem.text}
	if v != nil {
		p.Visit = s.visitOf(v, "")
	}
	name := "problem"
	if r.Header.Get("HX-Request") == "true" {
		name = "problem-part"
	}
	if err := s.pages.write(w, problem.status, name, p); err != nil {
		s.cfg.Log.Error("page not rendered", slog.Any("error", err))
	}
}

// explain says in a sentence why a call failed. Errors of calls hold no token: those are in headers.
func (s *site) explain(w http.ResponseWriter, r *http.Request, err error) *shown {
	if errors.Is(err, errSignedOut) {
		return &shown{status: http.StatusBadRequest, title: "Sign in again", text: "The sign-in is good no more."}
	}
	refused, ok := errors.AsType[*client.Error](err)
	if ok && refused.Status < http.StatusInternalServerError {
		p := &shown{status: refused.Status, title: http.StatusText(refused.Status), text: brief(refused.Problem.Message)}
		if wait := refused.Header.Get("Retry-After"); refused.Status == http.StatusTooManyRequests {
			if seconds, err := strconv.Atoi(wait); err == nil {
				w.Header().Set("Retry-After", strconv.Itoa(seconds))
			}
			p.text = "You asked for more than your limit of requests allows. Wait a moment, and reload."
		}
		return p
	}
	s.said.Warn(r.Context(), "page not answered", err, slog.String("path", r.URL.Path))
	return &shown{status: http.StatusServiceUnavailable, title: "Not available", text: "A part of the gateway does not answer just now. " +
		"Reload in a moment; the parts that work go on."}
}

// id reads a UUID that somebody typed or clicked.
func id(text, what string) (uuid.UUID, error) {
	found, err := uuid.Parse(text)
	if err != nil || len(text) != 36 {
		return found, &shown{status: http.StatusBadRequest, title: "Malformed", text: what + " is not an id."}
	}
	return found, nil
}

// orgOf is the caller's organisation of an id, if they are in it.
func (v *visit) orgOf(id uuid.UUID) (api.Organisation, bool) {
	for _, o := range v.me.Organisations {
		if o.ID == id {
			return o, true
		}
	}
	return api.Organisation{}, false
}
