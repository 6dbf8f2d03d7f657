// Package httpapi is the edge of every HTTP service behind Envoy: one error shape
// (RFC 9457), strict JSON bodies, security headers, correlation ids, health and
// metrics, and a server that drains on shutdown.
package httpapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"
)

// FieldError is one refused field of a request.
type FieldError struct {
	Field   string `json:"field"`
	Message string `json:"message"`
}

// Problem is the error body: RFC 9457 with the extra members of the contract.
type Problem struct {
	Type      string       `json:"type"`
	Title     string       `json:"title"`
	Status    int          `json:"status"`
	Detail    string       `json:"detail"`
	Instance  string       `json:"instance"`
	Message   string       `json:"message"`
	Timestamp time.Time    `json:"timestamp"`
	Path      string       `json:"path"`
	Errors    []FieldError `json:"errors,omitempty"`
}

// Error is an error that a caller may see: its message goes into the body as is.
type Error struct {
	Status  int
	Message string
	Fields  []FieldError
	Header  http.Header // extra response headers, may be nil
}

func (e *Error) Error() string { return fmt.Sprintf("%d: %s", e.Status, e.Message) }

// Fail makes an error with a status and a message for the caller.
func Fail(status int, format string, args ...any) *Error {
	return &Error{Status: status, Message: fmt.Sprintf(format, args...)}
}

// Unavailable is a 503 that is over in a moment: a store or another service does not answer.
func Unavailable(message string) *Error {
	return &Error{Status: http.StatusServiceUnavailable, Message: message, Header: http.Header{"Retry-After": {"1"}}}
}

// WriteError renders err. An error that is not an *Error is logged and shown as a
// bare 500, so that no SQL, host name or stack reaches a caller.
func WriteError(w http.ResponseWriter, r *http.Request, log *slog.Logger, err error) {
	known, ok := errors.AsType[*Error](err)
	if !ok {
		if r.Context().Err() != nil {
			return // the caller went away; nobody reads the answer
		}
		log.LogAttrs(r.Context(), slog.LevelError, "request failed", slog.String("method", r.Method), slog.String("path", r.URL.Path),
			slog.String("correlation_id", r.Header.Get(HeaderCorrelation)), slog.Any("error", err))
		known = Fail(http.StatusInternalServerError, "internal error")
	}
	for name, values := range known.Header {
		w.Header()[name] = values
	}
	if known.Status == http.StatusUnauthorized && w.Header().Get("WWW-Authenticate") == "" {
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(known.Status)
	_ = json.NewEncoder(w).Encode(Problem{Type: "about:blank", Title: http.StatusText(known.Status), Status: known.Status,
		Detail:   known.Message,
		Instance: r.URL.Path, Message: known.Message, Timestamp: time.Now().UTC(), Path: r.URL.Path, Errors: known.Fields})
}

// WriteJSON answers with a JSON body.
func WriteJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

// HandlerFunc is a handler that returns its error instead of writing it.
type HandlerFunc func(w http.ResponseWriter, r *http.Request) error

// Handle renders what h returns.
func Handle(log *slog.Logger, h HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := h(w, r); err != nil {
			WriteError(w, r, log, err)
		}
	})
}
