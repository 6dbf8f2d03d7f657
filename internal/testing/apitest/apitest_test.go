package apitest

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestWhatDiffersFromTheDocumentIsFound(t *testing.T) {
	t.Parallel()
	document, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	const (
		jsonType = "application/json"
		problem  = "application/problem+json"
		status   = `{"service":"token-service","status":"ok","timestamp":"2026-01-02T03:04:05Z"}`
		refusal  = `{"type":"about:blank","title":"Bad Request","status":400,"detail":"d","instance":"/x","message":"d",` +
			`"timestamp":"2026-01-02T03:04:05Z","path":"/x"}`
	)
	for name, c := range map[string]struct {
		method, path, sent string
		status             int
		contentType, body  string
		want               string // part of the error; empty: none
	}{
		"as described":        {"GET", "/api/v1/tokens/status", "", 200, jsonType, status, ""},
		"a member too many":   {"GET", "/api/v1/tokens/status", "", 200, jsonType, strings.Replace(status, "{", `{"secret":1,`, 1), "secret"},
		"a member is missing": {"GET", "/api/v1/tokens/status", "", 200, jsonType, `{"service":"x","status":"ok"}`, "timestamp"},
		"a member of a wrong type": {"GET", "/api/v1/tokens/status", "", 200, jsonType,
			strings.Replace(status, `"token-service"`, "7", 1), "service"},
		"another content type":       {"GET", "/api/v1/tokens/status", "", 200, "text/plain", status, "text/plain"},
		"a refusal as described":     {"GET", "/api/v1/tokens/quota", "", 400, problem, refusal, ""},
		"a refusal of another shape": {"GET", "/api/v1/tokens/quota", "", 400, problem, `{"message":"no"}`, "title"},
		"an accepted request without what is required": {"GET", "/api/v1/analytics/usage", "", 200, jsonType,
			`{"provider":"x","count":0,"items":[]}`, "provider"},
		"an accepted body that is not as described": {"POST", "/api/v1/tokens/purchase", `{"provider":"x","tokens":0}`, 202, jsonType,
			`{"sagaId":"11111111-1111-4111-8111-111111111111","status":"STARTED","createdAt":"2026-01-02T03:04:05Z"}`, "minimum"},
		"a path parameter with slashes": {"GET", "/v1/models/openai/gpt-4o", "", 200, jsonType,
			`{"id":"gpt-4o","object":"model","created":0,"owned_by":"openai"}`, ""},
		"an unknown route that is refused": {"GET", "/api/v1/tokens/new", "", 404, problem, refusal, ""},
		"an unknown route that is served":  {"GET", "/api/v1/tokens/new", "", 200, jsonType, "{}", ErrNotDescribed.Error()},
		"an unknown method that is served": {"PUT", "/api/v1/tokens/status", "", 200, jsonType, "{}", ErrNotDescribed.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := httptest.NewRequest(c.method, c.path, http.NoBody)
			r.Header.Set("Content-Type", jsonType)
			err := document.Check(t.Context(), Exchange{Request: r, Sent: []byte(c.sent), Status: c.status,
				Header: http.Header{"Content-Type": {c.contentType}}, Body: []byte(c.body)})
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("want an error with %q, got %v", c.want, err)
			}
		})
	}
}

// TestTheTransportHandsOn: callers get the answer that the server gave, and the report is of
// what is not as described.
func TestTheTransportHandsOn(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"path":"` + r.URL.Path + `"}`))
	}))
	t.Cleanup(server.Close)
	var found []error
	rt, err := Transport(http.DefaultTransport, func(err error) { found = append(found, err) })
	if err != nil {
		t.Fatal(err)
	}
	for path, reports := range map[string]int{"/v1/chat/completions": 0, "/api/v1/tokens/status": 1} {
		found = nil
		response, err := (&http.Client{Transport: rt}).Get(server.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		text := make([]byte, 100)
		n, _ := response.Body.Read(text)
		response.Body.Close()
		if !strings.Contains(string(text[:n]), path) || len(found) != reports {
			t.Errorf("%s: got %q, reported %v", path, text[:n], errors.Join(found...))
		}
	}
}
