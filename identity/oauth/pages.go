package oauth

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"strconv"

	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
)

//go:embed templates/*.html templates/style.css
var templates embed.FS

// pages render what a person sees. They need no script, no cookie and no other file.
type pages struct {
	set    *template.Template
	style  template.CSS
	policy string // of the style, as Content-Security-Policy names it
}

type meaningOf struct{ Scope, Text string }

// pageData is what the templates show.
type pageData struct {
	Title     string
	Style     template.CSS
	Action    string // where the form goes
	Form      string // what the page remembers, sealed
	Client    string
	Own       bool   // the client is the product's own
	Stranger  string // who vouches for a client that no administrator registered
	Host      string // where the answer goes, when it is a host
	Scopes    []meaningOf
	Login     loginFields
	Upstreams []string // other providers to sign in by
	Device    bool
	UserCode  string
	Problem   string
	Message   string
}

func meanings(scopes []string) []meaningOf {
	var all []meaningOf
	for _, s := range scopes {
		all = append(all, meaningOf{Scope: s, Text: meaning(s)})
	}
	return all
}

func newPages() (*pages, error) {
	set, err := template.ParseFS(templates, "templates/*.html")
	if err != nil {
		return nil, fmt.Errorf("parse pages: %w", err)
	}
	style, err := templates.ReadFile("templates/style.css")
	if err != nil {
		return nil, fmt.Errorf("read style: %w", err)
	}
	sum := sha256.Sum256(style)
	return &pages{set: set, style: template.CSS(style), //nolint:gosec // our own file
		policy: "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"}, nil
}

// Where the form of a page may end.
const (
	here     = "; form-action 'self'"
	anywhere = ""
)

// write renders a page. It is not isolated from who opened it (Cross-Origin-Opener-Policy): it keeps
// no session that an opener could ride on, and applications that sign in by a popup lose it otherwise.
func (p *pages) write(w http.ResponseWriter, status int, name string, data pageData, formAction string) error {
	data.Style = p.style
	var text bytes.Buffer
	if err := p.set.ExecuteTemplate(&text, name+".html", data); err != nil {
		return fmt.Errorf("render page %s: %w", name, err)
	}
	noStore(w)
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src "+p.policy+formAction+"; frame-ancestors 'none'; base-uri 'none'")
	w.WriteHeader(status)
	_, _ = w.Write(text.Bytes())
	return nil
}

// shownError is a mistake that a person reads, and the developer's side of it.
type shownError struct {
	message string
	detail  string
}

func (e *shownError) Error() string { return e.detail }

func pageError(message, detail string) error { return &shownError{message: message, detail: detail} }

// page renders what h returns as a page.
func (p *Provider) page(h httpapi.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := p.whenReady(h)(w, r)
		if err == nil {
			return
		}
		status, data := http.StatusBadRequest, pageData{Title: "This does not work"}
		if told, ok := errors.AsType[*shownError](err); ok {
			data.Message, data.Problem = told.message, told.detail
			p.metrics.refused(r, refuse(codeInvalidRequest, "%s", told.detail))
		} else {
			known := p.asProtocol(r, err)
			p.metrics.refused(r, known)
			status, data.Message, data.Problem = known.status, "The request could not be answered.", known.description
			if known.retryAfter > 0 {
				w.Header().Set("Retry-After", strconv.FormatInt(seconds(known.retryAfter), 10))
			}
		}
		if err := p.pages.write(w, status, "message", data, here); err != nil {
			p.warn(r, err)
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
}
