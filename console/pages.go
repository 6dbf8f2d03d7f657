package console

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"strings"
)

// pages render templates, and serve what they load.
type pages struct {
	set    map[string]*template.Template // by name; each with the frame around it
	static map[string]asset
}

// asset is a file that pages load.
type asset struct {
	content     []byte
	contentType string
	version     string // of its content: pages name it, so that browsers may keep the file for long
}

// page is what a template shows.
type page struct {
	Title   string
	Problem string
	Again   string // address that the page goes on to by itself
	Visit   *visitView
	Data    any
}

// visitView is what the frame shows of who is signed in.
type visitView struct {
	Username string
	Nav      []navItem
}

type navItem struct {
	Href, Label string
	Current     bool
}

// visitOf is the frame around a page, current being its place in the menu.
func (s *site) visitOf(v *visit, current string) *visitView {
	view := &visitView{Username: v.me.Username}
	for _, n := range []navItem{{Href: "/", Label: "Overview"}, {Href: "/requests", Label: "Requests"}, {Href: "/usage", Label: "Usage"},
		{Href: "/keys", Label: "Keys"}, {Href: "/limits", Label: "Limits"}, {Href: "/balance", Label: "Balance"},
		{Href: "/orgs", Label: "Organisations"}, {Href: "/system", Label: "System"}} {
		if n.Href == "/system" && !v.admin() {
			continue
		}
		view.Nav = append(view.Nav, navItem{Href: path + n.Href, Label: n.Label, Current: n.Href == current})
	}
	return view
}

// show renders a page of who is signed in.
func (s *site) show(v *visit, name, nav, title string, data any) error {
	return s.pages.write(v.w, http.StatusOK, name, page{Title: title, Visit: s.visitOf(v, nav), Data: data})
}

// part renders a part of a page.
func (s *site) part(v *visit, name string, data any) error {
	return s.pages.write(v.w, http.StatusOK, name, page{Data: data})
}

func newPages() (*pages, error) {
	p := &pages{set: map[string]*template.Template{}, static: map[string]asset{}}
	kinds := map[string]string{".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}
	assets, err := fs.ReadDir(files, "static")
	if err != nil {
		return nil, fmt.Errorf("read static files: %w", err)
	}
	for _, f := range assets {
		kind, ok := kinds[f.Name()[strings.LastIndexByte(f.Name(), '.'):]]
		if !ok {
			continue // a licence
		}
		content, err := fs.ReadFile(files, "static/"+f.Name())
		if err != nil {
			return nil, fmt.Errorf("read static file: %w", err)
		}
		sum := sha256.Sum256(content)
		p.static[f.Name()] = asset{content: content, contentType: kind, version: hex.EncodeToString(sum[:6])}
	}
	return p, p.parse()
}

// parse reads the templates: those in templates/parts are there for each of the others.
func (p *pages) parse() error {
	funcs := formats()
	funcs["static"] = func(name string) (string, error) {
		a, ok := p.static[name]
		if !ok {
			return "", fmt.Errorf("no static file %s", name)
		}
		return path + "/static/" + name + "?v=" + a.version, nil
	}
	shared, err := template.New("").Funcs(funcs).ParseFS(files, "templates/parts/*.html")
	if err != nil {
		return fmt.Errorf("parse templates: %w", err)
	}
	for _, t := range shared.Templates() {
		p.set[strings.TrimSuffix(t.Name(), ".html")] = shared
	}
	names, err := fs.Glob(files, "templates/*.html")
	if err != nil {
		return fmt.Errorf("list templates: %w", err)
	}
	for _, file := range names {
		own, err := shared.Clone()
		if err == nil {
			_, err = own.ParseFS(files, file)
		}
		if err != nil {
			return fmt.Errorf("parse %s: %w", file, err)
		}
		p.set[strings.TrimSuffix(strings.TrimPrefix(file, "templates/"), ".html")] = own
	}
	return nil
}

// render gives a page, or nothing of it.
func (p *pages) render(name string, data page) ([]byte, error) {
	t, ok := p.set[name]
	if !ok {
		return nil, fmt.Errorf("render page: no template %s", name)
	}
	var text bytes.Buffer
	if err := t.ExecuteTemplate(&text, name+".html", data); err != nil {
		return nil, fmt.Errorf("render page %s: %w", name, err)
	}
	return text.Bytes(), nil
}

// write answers with a page.
func (p *pages) write(w http.ResponseWriter, status int, name string, data page) error {
	text, err := p.render(name, data)
	if err != nil {
		return err
	}
	pageHeaders(w.Header(), "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(text)
	return nil
}

// pageHeaders are those of what a session sees.
func pageHeaders(h http.Header, contentType string) {
	h.Set("Content-Type", contentType)
	h.Set("Content-Security-Policy", contentPolicy)
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	// no-referrer, which the services' answers have, makes browsers send "Origin: null" with our own forms.
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
}

func (p *pages) serveStatic(w http.ResponseWriter, r *http.Request) {
	a, ok := p.static[r.PathValue("name")]
	if !ok {
		http.NotFound(w, r)
		return
	}
	h := w.Header()
	h.Set("Content-Type", a.contentType)
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cache-Control", "no-cache")
	if r.URL.Query().Get("v") == a.version {
		h.Set("Cache-Control", "public, max-age=31536000, immutable")
	}
	_, _ = w.Write(a.content)
}
