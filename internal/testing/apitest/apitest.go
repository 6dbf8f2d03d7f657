// Package apitest holds what services answer in tests against the API's document
// (openapi.yaml): each exchange that a test makes is validated, and each list of routes is
// compared with the operations of its service. It is not part of the product.
package apitest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/openapi"
)

// Document is the API's document, ready to validate exchanges.
type Document struct {
	spec       *openapi3.T
	operations *http.ServeMux  // finds the operation of a request
	wide       *http.ServeMux  // those that begin with a parameter
	folders    map[string]bool // first elements of the paths of all others
	routes     map[string]*routers.Route
}

// Load reads and checks the document once. For tests it is stricter than it is written: an
// answer may not have members that its schema does not name.
var Load = sync.OnceValues(func() (*Document, error) {
	spec, err := openapi3.NewLoader().LoadFromData(openapi.YAML())
	if err != nil {
		return nil, fmt.Errorf("load openapi.yaml: %w", err)
	}
	if err := spec.Validate(context.Background()); err != nil {
		return nil, fmt.Errorf("openapi.yaml: %w", err)
	}
	for _, contentType := range []string{"text/html", "text/csv", "application/x-ndjson"} {
		openapi3filter.RegisterBodyDecoder(contentType, openapi3filter.PlainBodyDecoder)
	}
	d := &Document{spec: spec, operations: http.NewServeMux(), wide: http.NewServeMux(), folders: map[string]bool{},
		routes: map[string]*routers.Route{}}
	for path, item := range spec.Paths.Map() {
		for method, operation := range item.Operations() {
			pattern := Pattern(method, path, operation)
			mux := d.operations
			if strings.HasPrefix(path, "/{") {
				mux = d.wide
			} else {
				d.folders[folder(path)] = true
			}
			mux.HandleFunc(pattern, func(http.ResponseWriter, *http.Request) {})
			for _, answer := range operation.Responses.Map() {
				for _, media := range answer.Value.Content {
					closeObjects(media.Schema.Value)
				}
			}
			d.routes[pattern] = &routers.Route{Spec: spec, Path: path, PathItem: item, Method: method, Operation: operation}
		}
	}
	return d, nil
})

// Pattern is an operation as a ServeMux has it. A path parameter with x-slashes may hold some.
func Pattern(method, path string, operation *openapi3.Operation) string {
	for _, p := range operation.Parameters {
		if slashes, _ := p.Value.Extensions["x-slashes"].(bool); slashes {
			path = strings.Replace(path, "{"+p.Value.Name+"}", "{"+p.Value.Name+"...}", 1)
		}
	}
	if path == "/" {
		path = "/{$}"
	}
	return method + " " + path
}

// closeObjects refuses members that are not named, wherever nothing else is said.
func closeObjects(s *openapi3.Schema) {
	if s == nil {
		return
	}
	if len(s.Properties) > 0 && s.AdditionalProperties.Has == nil && s.AdditionalProperties.Schema == nil {
		no := false
		s.AdditionalProperties.Has = &no
	}
	for _, p := range s.Properties {
		closeObjects(p.Value)
	}
	for _, one := range s.AnyOf {
		closeObjects(one.Value)
	}
	if s.Items != nil {
		closeObjects(s.Items.Value)
	}
	if s.AdditionalProperties.Schema != nil {
		closeObjects(s.AdditionalProperties.Schema.Value)
	}
}

// Exchange is one request with its answer.
type Exchange struct {
	Request *http.Request // its body is not read
	Sent    []byte        // the request's body
	Status  int
	Header  http.Header // of the answer
	Body    []byte      // of the answer
}

// ErrNotDescribed is an answer of a route that the document does not have.
var ErrNotDescribed = errors.New("served, and not in openapi.yaml")

// Check validates an exchange: the answer always, the request when it was accepted, as tests
// send malformed ones on purpose. What is not described must be refused. Requests that have
// no path as the document writes it (CONNECT, OPTIONS *), and what a browser asks before a page's
// request (a preflight is no operation), are passed over.
func (d *Document) Check(ctx context.Context, e Exchange) error {
	request := e.Request.Clone(ctx)
	request.Body = http.NoBody
	request.URL.RawQuery = withoutEmpty(request.URL.RawQuery)
	if request.Method == http.MethodHead || request.Method == http.MethodConnect || !strings.HasPrefix(request.URL.Path, "/") {
		return nil
	}
	if request.Method == http.MethodOptions && e.Status == http.StatusNoContent && len(e.Body) == 0 {
		return nil
	}
	pattern := d.pattern(request)
	route := d.routes[pattern]
	if route == nil {
		if e.Status >= http.StatusBadRequest || e.Status/100 == 3 {
			return nil
		}
		return fmt.Errorf("%s %s: %d: %w", request.Method, request.URL.Path, e.Status, ErrNotDescribed)
	}
	input := &openapi3filter.RequestValidationInput{Request: request, Route: route, PathParams: pathParams(pattern, request.URL),
		Options: &openapi3filter.Options{AuthenticationFunc: openapi3filter.NoopAuthenticationFunc, IncludeResponseStatus: true,
			MultiError: true}}
	if e.Status < http.StatusBadRequest {
		request.Body, request.ContentLength = readCloser{bytes.NewReader(e.Sent)}, int64(len(e.Sent))
		request.Header.Del("Content-Length")
		if err := openapi3filter.ValidateRequest(ctx, input); err != nil {
			return fmt.Errorf("%s: the request was accepted and is not as described: %w", pattern, err)
		}
	}
	answer := &openapi3filter.ResponseValidationInput{RequestValidationInput: input, Status: e.Status, Header: e.Header,
		Options: input.Options}
	answer.SetBodyBytes(e.Body)
	if err := openapi3filter.ValidateResponse(ctx, answer); err != nil {
		return fmt.Errorf("%s: the answer %d is not as described: %w\n%.2000s", pattern, e.Status, err, e.Body)
	}
	return nil
}

// pattern is that of the request's operation; empty: there is none.
func (d *Document) pattern(r *http.Request) string {
	_, found := d.operations.Handler(r)
	if found == "" && !d.folders[folder(r.URL.Path)] {
		_, found = d.wide.Handler(r)
	}
	return found
}

// folder is the first element of a path.
func folder(path string) string {
	first, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	return first
}

// withoutEmpty leaves parameters out that have no value: the API takes them for absent.
func withoutEmpty(query string) string {
	kept := slices.DeleteFunc(strings.Split(query, "&"), func(pair string) bool {
		_, value, _ := strings.Cut(pair, "=")
		return value == ""
	})
	return strings.Join(kept, "&")
}

type readCloser struct{ *bytes.Reader }

func (readCloser) Close() error { return nil }

// pathParams are the values that a path has for the parameters of its pattern.
func pathParams(pattern string, u *url.URL) map[string]string {
	values := map[string]string{}
	_, template, _ := strings.Cut(pattern, " ")
	segments := strings.Split(u.EscapedPath(), "/")
	for i, s := range strings.Split(template, "/") {
		name, isParam := strings.CutPrefix(s, "{")
		if !isParam || i >= len(segments) || s == "{$}" {
			continue
		}
		name = strings.TrimSuffix(name, "}")
		text := segments[i]
		if short, many := strings.CutSuffix(name, "..."); many {
			name, text = short, strings.Join(segments[i:], "/")
		}
		if plain, err := url.PathUnescape(text); err == nil {
			text = plain
		}
		values[name] = text
	}
	return values
}
