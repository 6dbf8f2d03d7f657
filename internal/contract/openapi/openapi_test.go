package openapi_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/openapi"
)

type document struct {
	OpenAPI string
	Tags    []struct{ Name string }
	Paths   yaml.MapSlice
}

func read(t *testing.T) document {
	t.Helper()
	var d document
	if err := yaml.Unmarshal(openapi.YAML(), &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// TestTheDocumentIsSorted: people look operations up by path, and tags in the page.
func TestTheDocumentIsSorted(t *testing.T) {
	t.Parallel()
	d := read(t)
	var tags, paths []string
	for _, tag := range d.Tags {
		tags = append(tags, strings.ToLower(tag.Name))
	}
	for _, item := range d.Paths {
		path, _ := item.Key.(string)
		paths = append(paths, path)
	}
	if len(paths) < 60 || !slices.IsSorted(paths) {
		t.Errorf("paths are not sorted: %q", paths)
	}
	if len(tags) < 10 || !slices.IsSorted(tags) {
		t.Errorf("tags are not sorted: %q", tags)
	}
}

func get(t *testing.T, path string) *httptest.ResponseRecorder {
	t.Helper()
	mux := http.NewServeMux()
	for pattern, h := range openapi.Routes() {
		mux.HandleFunc(pattern, h)
	}
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, http.NoBody))
	return w
}

func TestTheDocumentIsServedAsJSON(t *testing.T) {
	t.Parallel()
	w := get(t, openapi.PathJSON)
	var d document
	if err := json.Unmarshal(w.Body.Bytes(), &struct{ OpenAPI *string }{&d.OpenAPI}); err != nil {
		t.Fatal(err)
	}
	if d.OpenAPI != "3.1.0" || w.Header().Get("Content-Type") != "application/json" {
		t.Errorf("got OpenAPI %q as %q", d.OpenAPI, w.Header().Get("Content-Type"))
	}
}

// TestThePageNeedsNobodyElse: all that the page loads is served beside it, and its policy lets
// it load nothing more.
func TestThePageNeedsNobodyElse(t *testing.T) {
	t.Parallel()
	page := get(t, openapi.PathPage)
	if page.Code != http.StatusOK || !strings.Contains(page.Header().Get("Content-Security-Policy"), "default-src 'none'") {
		t.Fatalf("got %d with %v", page.Code, page.Header())
	}
	assets := regexp.MustCompile(`(?:src|href)="([^"]+)"`).FindAllStringSubmatch(page.Body.String(), -1)
	if len(assets) != 4 {
		t.Errorf("want four assets, got %q", assets)
	}
	for _, a := range assets {
		if w := get(t, a[1]); w.Code != http.StatusOK || w.Body.Len() == 0 {
			t.Errorf("%s: %d, %d bytes", a[1], w.Code, w.Body.Len())
		}
	}
	for _, old := range []string{"/swagger-ui.html", "/swagger-ui/index.html"} {
		if w := get(t, old); w.Code != http.StatusPermanentRedirect || w.Header().Get("Location") != openapi.PathPage {
			t.Errorf("%s: %d to %q", old, w.Code, w.Header().Get("Location"))
		}
	}
}
