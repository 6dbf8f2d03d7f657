package apitest

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"testing"
)

// most of a body is kept for validation, in bytes.
const most = 4 << 20

// Handler passes requests on to next and fails the test for an exchange that is not as the
// document has it.
func Handler(t testing.TB, next http.Handler) http.Handler {
	t.Helper()
	document, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var sent, answered limited
		body := r.Body
		r.Body = struct {
			io.Reader
			io.Closer
		}{io.TeeReader(body, &sent), body}
		seen := &recorder{ResponseWriter: w, body: &answered, status: http.StatusOK}
		asked := r.Clone(r.Context())
		next.ServeHTTP(seen, r)
		if sent.full || answered.full {
			return
		}
		if err := document.Check(r.Context(), Exchange{Request: asked, Sent: sent.Bytes(), Status: seen.status, Header: w.Header(),
			Body: answered.Bytes()}); err != nil && r.Context().Err() == nil {
			t.Error(err)
		}
	})
}

// limited keeps at most so many bytes.
type limited struct {
	bytes.Buffer
	full bool
}

func (l *limited) Write(b []byte) (int, error) {
	if l.full = l.full || l.Len()+len(b) > most; !l.full {
		l.Buffer.Write(b)
	}
	return len(b), nil
}

type recorder struct {
	http.ResponseWriter
	body   *limited
	status int
	wrote  bool
}

func (r *recorder) WriteHeader(status int) {
	if !r.wrote && status >= http.StatusOK {
		r.status, r.wrote = status, true
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(b []byte) (int, error) {
	r.wrote = true
	_, _ = r.body.Write(b)
	return r.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach Flush and the deadlines.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// Transport is a client's side of Handler: it passes requests on to next and tells report of
// each exchange that is not as the document has it. Bodies are read whole before they are
// handed on, but streams of LLM routes, which the document does not describe.
func Transport(next http.RoundTripper, report func(error)) (http.RoundTripper, error) {
	document, err := Load()
	if err != nil {
		return nil, err
	}
	return &transport{next: next, document: document, report: report}, nil
}

type transport struct {
	next     http.RoundTripper
	document *Document
	report   func(error)
}

// RoundTrip passes a request on and validates the answer.
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	pattern := t.document.pattern(r)
	if t.document.routes[pattern] == nil {
		return t.next.RoundTrip(r)
	}
	var sent limited
	asked := r
	if r.Body != nil {
		asked = r.Clone(r.Context())
		asked.Body = struct {
			io.Reader
			io.Closer
		}{io.TeeReader(r.Body, &sent), r.Body}
	}
	response, err := t.next.RoundTrip(asked)
	if err != nil {
		return response, err
	}
	body, err := io.ReadAll(response.Body)
	_ = response.Body.Close()
	if err != nil {
		return nil, fmt.Errorf("read answer of %s: %w", r.URL.Path, err)
	}
	response.Body = io.NopCloser(bytes.NewReader(body))
	if !sent.full {
		if err := t.document.Check(r.Context(), Exchange{Request: r, Sent: sent.Bytes(), Status: response.StatusCode, Header: response.Header,
			Body: body}); err != nil && r.Context().Err() == nil {
			t.report(err)
		}
	}
	return response, nil
}
