package httpapi

import (
	"net/http"
	"slices"
)

// Mux is a ServeMux that knows its patterns, so that tests can hold what is served
// against what is described. The zero value is ready for use.
type Mux struct {
	http.ServeMux
	patterns []string
	// Unmatched answers for a path or method that is not there; false: a problem will do. May be nil.
	Unmatched func(w http.ResponseWriter, r *http.Request, err *Error) bool
}

// Handle registers a handler.
func (m *Mux) Handle(pattern string, h http.Handler) {
	m.patterns = append(m.patterns, pattern)
	m.ServeMux.Handle(pattern, h)
}

// HandleFunc registers a function.
func (m *Mux) HandleFunc(pattern string, h func(http.ResponseWriter, *http.Request)) {
	m.Handle(pattern, http.HandlerFunc(h))
}

// Patterns are those registered so far, sorted.
func (m *Mux) Patterns() []string { return slices.Sorted(slices.Values(m.patterns)) }
