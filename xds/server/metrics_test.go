package server_test

import (
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/xds/server"
)

func TestShowsWhatEachEnvoyRuns(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	s, err := server.New(server.Config{Log: slog.New(slog.DiscardHandler), Metrics: registry, Patience: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	present := snap(t, "one", "a")
	publish(t, s, present)
	e := connect(t, serve(t, s), "fake")
	go e.run()
	for range 2 {
		e.next(t)
	}
	testenv.Eventually(t, "both types acknowledged", func() bool {
		n, err := testutil.GatherAndCount(registry, "leaky_xds_client_config_info")
		return err == nil && n == 2
	})
	all, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range all {
		if family.GetName() != "leaky_xds_client_config_info" {
			continue
		}
		labels := map[string]string{}
		for _, l := range family.GetMetric()[0].GetLabel() {
			labels[l.GetName()] = l.GetValue()
		}
		if labels["node"] == "" || labels["type"] != "Cluster" || labels["version"] == "" {
			t.Errorf("want node, type and version, got %v", labels)
		}
	}
	if err := e.stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, "the series go with the Envoy", func() bool {
		n, err := testutil.GatherAndCount(registry, "leaky_xds_client_config_info", "leaky_xds_client_refused_types",
			"leaky_xds_client_unanswered_pushes")
		return err == nil && n == 0
	})
}
