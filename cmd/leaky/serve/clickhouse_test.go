package serve

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
)

func TestOnlyTheStoresUserMaySendStatements(t *testing.T) {
	t.Parallel()
	ok := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	guarded := onlyFor(url.UserPassword("leaky", "right"), ok)
	for name, tc := range map[string]struct {
		path string
		set  func(*http.Request)
		want int
	}{
		"nobody": {"/", func(*http.Request) {}, 403},
		"ping":   {"/ping", func(*http.Request) {}, 200},
		"basic":  {"/", func(r *http.Request) { r.SetBasicAuth("leaky", "right") }, 200},
		"headers": {"/", func(r *http.Request) {
			r.Header.Set("X-ClickHouse-User", "leaky")
			r.Header.Set("X-ClickHouse-Key", "right")
		}, 200},
		"wrong password": {"/", func(r *http.Request) { r.SetBasicAuth("leaky", "wrong") }, 403},
		"wrong user":     {"/", func(r *http.Request) { r.SetBasicAuth("root", "right") }, 403},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := httptest.NewRequest(http.MethodPost, tc.path, nil)
			tc.set(r)
			w := httptest.NewRecorder()
			guarded.ServeHTTP(w, r)
			if w.Code != tc.want {
				t.Fatalf("want %d, got %d", tc.want, w.Code)
			}
		})
	}
}
