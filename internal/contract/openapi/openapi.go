// Package openapi is the description of the control API, which the services implement
// and package client is generated from, and the pages that show it. No request of a
// caller passes it: it answers /v3/api-docs and /docs alone.
package openapi

import (
	"embed"
	"fmt"
	"net/http"
	"strings"
	"sync"

	"github.com/goccy/go-yaml"
)

// Paths of the document and of the page that shows it.
const (
	PathJSON = "/v3/api-docs"
	PathPage = "/docs"
)

//go:embed openapi.yaml
var document []byte

//go:embed page swaggerui
var files embed.FS

// YAML is the document as it is written.
func YAML() []byte { return document }

// JSON is the document as tools ask for it, members in the order of the file.
func JSON() ([]byte, error) {
	text, err := yaml.YAMLToJSON(document)
	if err != nil {
		return nil, fmt.Errorf("convert openapi.yaml to JSON: %w", err)
	}
	return text, nil
}

// contentPolicy lets the page load what this service serves and nothing else. Swagger UI
// writes style attributes and has its icons in data URLs.
const contentPolicy = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; " +
	"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// Routes are the document, its page with what that loads, and the places where the
// predecessor had them, by pattern.
func Routes() map[string]http.HandlerFunc {
	routes := map[string]http.HandlerFunc{
		"GET " + PathJSON:               serveJSON(),
		"GET " + PathPage:               serveFile("page/index.html", "text/html; charset=utf-8"),
		"GET " + PathPage + "/start.js": serveFile("page/start.js", "text/javascript; charset=utf-8"),
	}
	for name, contentType := range map[string]string{
		"swagger-ui-bundle.js": "text/javascript; charset=utf-8",
		"swagger-ui.css":       "text/css; charset=utf-8",
		"favicon-32x32.png":    "image/png",
	} {
		routes["GET "+PathPage+"/"+name] = serveFile("swaggerui/"+name, contentType)
	}
	for _, old := range []string{"/swagger-ui.html", "/swagger-ui/index.html"} {
		routes["GET "+old] = func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, PathPage, http.StatusPermanentRedirect)
		}
	}
	return routes
}

// Described tells whether a pattern of Routes is an operation of the document; the others are
// what the page loads.
func Described(pattern string) bool { return !strings.HasPrefix(pattern, "GET "+PathPage+"/") }

// serveJSON converts the document when the first caller asks for it.
func serveJSON() http.HandlerFunc {
	once := sync.OnceValues(JSON)
	return func(w http.ResponseWriter, _ *http.Request) {
		text, err := once()
		if err != nil { // a test converts it, so that this is never seen
			http.Error(w, "the document is malformed", http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "public, max-age=300")
		_, _ = w.Write(text)
	}
}

func serveFile(name, contentType string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Cache-Control", "public, max-age=300")
		w.Header().Set("Content-Security-Policy", contentPolicy)
		http.ServeFileFS(w, r, files, name)
	}
}
