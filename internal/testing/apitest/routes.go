package apitest

import (
	"net/http"
	"slices"
	"strings"
	"testing"
)

// Services that operations are marked with (x-service) beside the names of the services.
const (
	Common  = "common"  // every service serves it
	Gateway = "gateway" // Envoy answers itself
)

// Operations are the patterns of a service's operations, sorted.
func (d *Document) Operations(service string) []string {
	var found []string
	for pattern, route := range d.routes {
		if route.Operation.Extensions["x-service"] == service {
			found = append(found, pattern)
		}
	}
	slices.Sort(found)
	return found
}

// Routes fails the test for each route of a service that is not described, and for each
// operation of it that is not served. What only preflights ask (OPTIONS) is no operation.
func Routes(t testing.TB, service string, served []string) {
	t.Helper()
	document, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	described := document.Operations(service)
	if len(described) == 0 {
		t.Errorf("openapi.yaml has no operation with x-service: %s", service)
	}
	for _, pattern := range served {
		if !slices.Contains(described, pattern) && !strings.HasPrefix(pattern, http.MethodOptions+" ") {
			t.Errorf("%s serves %q, and openapi.yaml does not have it", service, pattern)
		}
	}
	for _, pattern := range described {
		if !slices.Contains(served, pattern) {
			t.Errorf("openapi.yaml has %q of %s, and it is not served", pattern, service)
		}
	}
}
