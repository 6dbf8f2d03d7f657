package httpapi

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

func wrapped(t *testing.T, ready func(context.Context) error) http.Handler {
	t.Helper()
	mux := http.NewServeMux()
	log := slog.New(slog.DiscardHandler)
	mux.Handle("GET /api/v1/things/{id}", Handle(log, func(w http.ResponseWriter, r *http.Request) error {
		WriteJSON(w, http.StatusOK, map[string]string{"id": r.PathValue("id")})
		return nil
	}))
	mux.Handle("GET /fails", Handle(log, func(http.ResponseWriter,
		*http.Request) error {
		return errors.New("SELECT secret FROM host.internal")
	}))
	mux.HandleFunc("GET /panics", func(http.ResponseWriter, *http.Request) { panic("at the disco") })
	mux.HandleFunc("GET /streams", func(w http.ResponseWriter, _ *http.Request) {
		if _, ok := w.(http.Flusher); !ok {
			t.Error("no Flusher")
		}
	})
	return Common{Name: "thing", Log: log, Metrics: prometheus.NewRegistry(), Ready: ready}.Wrap(mux)
}

func ask(h http.Handler, method, path string, header http.Header) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, http.NoBody)
	for name, values := range header {
		r.Header[name] = values
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestWrapGivesEveryServiceTheSameEdge(t *testing.T) {
	t.Parallel()
	h := wrapped(t, nil)
	for _, c := range []struct {
		method, path string
		status       int
		content      string
	}{
		{"GET", "/api/v1/things/7", 200, "application/json"},
		{"GET", "/healthz", 200, "application/json"},
		{"GET", "/readyz", 200, "application/json"},
		{"GET", "/actuator/health", 200, "application/json"},
		{"GET", "/actuator/health/liveness", 200, "application/json"},
		{"GET", "/actuator/health/readiness", 200, "application/json"},
		{"GET", "/actuator/info", 200, "application/json"},
		{"GET", "/metrics", 200, "text/plain"},
		{"GET", "/actuator/prometheus", 200, "text/plain"},
		{"GET", "/nowhere", 404, "application/problem+json"},
		{"POST", "/api/v1/things/7", 405, "application/problem+json"},
		{"GET", "/fails", 500, "application/problem+json"},
		{"GET", "/panics", 500, "application/problem+json"},
		{"GET", "/streams", 200, ""},
	} {
		w := ask(h, c.method, c.path, nil)
		if w.Code != c.status || !strings.HasPrefix(w.Header().Get("Content-Type"), c.content) {
			t.Errorf("%s %s: want %d %s, got %d %s", c.method, c.path, c.status, c.content, w.Code, w.Header().Get("Content-Type"))
		}
		for name, value := range SecurityHeaders() {
			if got := w.Header().Values(name); len(got) != 1 || got[0] != value {
				t.Errorf("%s: %s is %q", c.path, name, got)
			}
		}
		if body := w.Body.String(); strings.Contains(body, "SELECT") || strings.Contains(body, "disco") {
			t.Errorf("%s shows what went wrong inside: %s", c.path, body)
		}
	}
	if allow := ask(h, "POST", "/api/v1/things/7", nil).Header().Get("Allow"); !strings.Contains(allow, "GET") {
		t.Errorf("405 without Allow: %q", allow)
	}
}

func TestRequestsAreCountedByRoute(t *testing.T) {
	t.Parallel()
	h := wrapped(t, nil)
	for _, path := range []string{"/api/v1/things/1", "/api/v1/things/2", "/x/1", "/x/2", "/panics", "/healthz"} {
		ask(h, "GET", path, nil)
	}
	ask(h, "BREW", "/x", nil)
	ask(h, "GET", "/metrics", nil)
	text := ask(h, "GET", "/metrics", nil).Body.String()
	if strings.Contains(text, `uri="/healthz"`) || strings.Contains(text, `uri="/metrics"`) {
		t.Error("probes are counted as requests")
	}
	for _, want := range []string{
		`http_server_requests_seconds_count{application="thing",exception="none",method="GET",outcome="SUCCESS",status="200",uri="/api/v1/things/{id}"} 2`,
		`http_server_requests_seconds_count{application="thing",exception="none",method="GET",outcome="CLIENT_ERROR",status="404",uri="UNKNOWN"} 2`,
		`http_server_requests_seconds_count{application="thing",exception="panic",method="GET",outcome="SERVER_ERROR",status="500",uri="/panics"} 1`,
		`http_server_requests_seconds_count{application="thing",exception="none",method="OTHER",outcome="CLIENT_ERROR",status="404",uri="UNKNOWN"} 1`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("missing: %s", want)
		}
	}
}

func TestCorrelationIDs(t *testing.T) {
	t.Parallel()
	h := wrapped(t, nil)
	for given, kept := range map[string]bool{"abc-1._:Z": true, "": false, "a b": false, strings.Repeat("a", 129): false, "a\r\nX: y": false} {
		got := ask(h, "GET", "/healthz", http.Header{HeaderCorrelation: {given}}).Header().Values(HeaderCorrelation)
		if len(got) != 1 || (got[0] == given) != kept || got[0] == "" {
			t.Errorf("%q: kept %v, want %v", given, got, kept)
		}
	}
}

func TestNotReady(t *testing.T) {
	t.Parallel()
	h := wrapped(t, func(context.Context) error { return errors.New("waiting for a store") })
	for path, want := range map[string]int{"/readyz": 503, "/actuator/health": 503, "/healthz": 200} {
		if got := ask(h, "GET", path, nil).Code; got != want {
			t.Errorf("%s: want %d, got %d", path, want, got)
		}
	}
}

func TestServeDrains(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	entered, leave := make(chan struct{}), make(chan struct{})
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() {
		served <- Serve(ctx, ln, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			close(entered)
			<-leave
			_, _ = io.WriteString(w, "done")
		}))
	}()
	answer := make(chan string, 1)
	go func() {
		resp, err := http.Get("http://" + ln.Addr().String())
		if err != nil {
			answer <- err.Error()
			return
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		answer <- string(body)
	}()
	<-entered
	stop()
	close(leave)
	if got := <-answer; got != "done" {
		t.Errorf("the call in flight got %q", got)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}
