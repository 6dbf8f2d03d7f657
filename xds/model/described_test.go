package model_test

import (
	"cmp"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/openapi"
	"github.com/leaky-tokens/leaky-tokens/xds/model"
)

// TestOperationsAreRoutedAsDescribed: each operation that is not internal reaches its service,
// and whoever needs a credential or a scope there is the same in the routes and in the document.
func TestOperationsAreRoutedAsDescribed(t *testing.T) {
	t.Parallel()
	g, _, err := build(t, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	spec, err := openapi3.NewLoader().LoadFromData(openapi.YAML())
	if err != nil {
		t.Fatal(err)
	}
	checked := 0
	for path, item := range spec.Paths.Map() {
		for method, operation := range item.Operations() {
			service, _ := operation.Extensions["x-service"].(string)
			internal, _ := operation.Extensions["x-internal"].(bool)
			route := find(g.Routes, method, strings.NewReplacer("{id}", "x", "{userId}", "x", "{sagaId}", "x", "{model}", "x",
				"{service}", "tokensvc").Replace(path))
			cluster := ""
			if route.Forward != nil {
				cluster = route.Forward.Cluster
			}
			switch {
			case internal || service == "xds":
				if cluster == service {
					t.Errorf("%s %s is internal, and the gateway sends it to %s", method, path, service)
				}
				continue
			case service == "common", service == "gateway":
				continue // on every service's own port; Envoy answers some itself
			case service == "stubs":
				service = "stub-" + strings.Split(path, "/")[3]
			}
			checked++
			if cluster != service {
				t.Errorf("%s %s is of %s, and the gateway sends it to %q", method, path, service, cluster)
			}
			checkScope(t, route, method, path, operation)
		}
	}
	if checked < 60 {
		t.Errorf("only %d operations were looked at", checked)
	}
}

// checkScope compares the scope that a route asks for with the one beside bearerAuth.
func checkScope(t *testing.T, route model.Route, method, path string, operation *openapi3.Operation) {
	t.Helper()
	if operation.Security == nil {
		t.Errorf("%s %s has no security; write [] for everybody", method, path)
		return
	}
	var scopes []string
	needed := false
	for _, requirement := range *operation.Security {
		if s, ok := requirement["bearerAuth"]; ok {
			scopes, needed = s, true
		}
	}
	if service := operation.Extensions["x-service"]; service == "identity" && route.Rule == attributes.RulePublic {
		return // identity looks after these itself
	}
	if public := route.Rule == attributes.RulePublic; public == needed {
		t.Errorf("%s %s: the route's rule is %q, and security is %v", method, path, route.Rule, *operation.Security)
	}
	read, write, two := strings.Cut(route.Scope, " ")
	want := read
	if two && method != http.MethodGet {
		want = write
	}
	if !attributes.ForOthers(want) {
		want = ""
	}
	want, _, _ = strings.Cut(want, "|") // the others are more than the document needs to say
	if !slices.Equal(scopes, slices.DeleteFunc([]string{want}, func(s string) bool { return s == "" })) {
		t.Errorf("%s %s: the route asks for the scope %q, the document says %q", method, path, want, scopes)
	}
}

// find is the first route that takes a request without a body.
func find(routes []model.Route, method, path string) model.Route {
	for _, r := range routes {
		m := r.Match
		if m.Expects || m.NotHost != "" || m.Connect || m.Regex != "" || m.Guarded || cmp.Or(m.Method, method) != method {
			continue
		}
		if m.Path == path || m.Path == "" && strings.HasPrefix(path, m.Prefix) {
			return r
		}
	}
	return model.Route{}
}
