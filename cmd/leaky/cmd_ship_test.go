package main

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// TestMigrateIsAStepOfItsOwn: it makes the schemas, does nothing the second time, and refuses what it
// cannot do before it has done anything.
func TestMigrateIsAStepOfItsOwn(t *testing.T) {
	t.Parallel()
	stores := []string{"LEAKY_POSTGRES_URL=" + testenv.PostgresURL(t), "LEAKY_CLICKHOUSE_URL=" + testenv.ClickHouse(t)}
	dir := stateDir(t)
	for range 2 {
		if out, errs, ok := leaky(t, dir, stores, "migrate"); !ok || !strings.Contains(out, "up to date") {
			t.Fatalf("%s%s", out, errs)
		}
	}
	if _, errs, ok := leaky(t, dir, stores[:1], "migrate"); ok || !strings.Contains(errs, "LEAKY_CLICKHOUSE_URL") {
		t.Errorf("without ClickHouse: %s", errs)
	}
	gone := append([]string{"LEAKY_POSTGRES_URL=postgres://leaky:hidden@127.0.0.1:1/leaky"}, stores[1])
	if _, errs, ok := leaky(t, dir, gone, "migrate", "--wait", "1s"); ok || !strings.Contains(errs, "identity in Postgres") ||
		strings.Contains(errs, "hidden") {
		t.Errorf("without Postgres: %s", errs)
	}
}

func TestBootstrapCopiesTheProgram(t *testing.T) {
	t.Parallel()
	dir := stateDir(t)
	program := filepath.Join(dir, "run", "leaky")
	for range 2 { // the pod may start again
		if out, errs, ok := leaky(t, dir, nil, "bootstrap", filepath.Join(dir, "run", "envoy.json"), "--copy", program); !ok {
			t.Fatalf("%s%s", out, errs)
		}
	}
	own, err := os.Stat(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.Stat(program); err != nil || got.Size() != own.Size() || got.Mode() != 0o500 {
		t.Errorf("%v, %v", got, err)
	}
	if _, errs, ok := leaky(t, dir, nil, "bootstrap", "--copy", program); ok || !strings.Contains(errs, "FILE") {
		t.Errorf("without a file: %s", errs)
	}
}

func TestDrainNeedsAnEnvoy(t *testing.T) {
	t.Parallel()
	if _, errs, ok := leaky(t, stateDir(t), nil, "drain", "--first", "0s"); ok || !strings.Contains(errs, "close Envoy's listeners") {
		t.Error(errs)
	}
}

func TestProveWithoutAModelAsksForHealth(t *testing.T) {
	t.Parallel()
	gateway := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/actuator/health" {
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	defer gateway.Close()
	dir := stateDir(t)
	if out, errs, ok := leaky(t, dir, nil, "prove", gateway.URL, "-o", "json"); !ok || !strings.Contains(out, `"status": "UP"`) {
		t.Errorf("%s%s", out, errs)
	}
	gateway.Close()
	if out, _, ok := leaky(t, dir, nil, "prove", gateway.URL, "--wait", "2s"); ok {
		t.Errorf("nobody is there: %s", out)
	}
}
