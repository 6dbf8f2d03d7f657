package diff_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
	"github.com/leaky-tokens/leaky-tokens/xds/diff"
	"github.com/leaky-tokens/leaky-tokens/xds/model"
	"github.com/leaky-tokens/leaky-tokens/xds/protos"
	"github.com/leaky-tokens/leaky-tokens/xds/snapshot"
)

func build(t *testing.T, yaml, key string) *snapshot.Snapshot {
	t.Helper()
	cfg, err := config.Parse([]byte(yaml))
	if err != nil {
		t.Fatal(err)
	}
	set, err := limits.Load("")
	if err != nil {
		t.Fatal(err)
	}
	g, secrets, err := model.Build(model.Input{Config: cfg, StateDir: "/s", Limits: set.Paths(), Key: func(string, config.ProviderKey) (string, error) { return key, nil }})
	if err != nil {
		t.Fatal(err)
	}
	s, err := snapshot.Build(g, secrets, protos.Trust{File: "/ca"})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

const before = `
providers:
  openai: {url: "http://127.0.0.1:1", api_key_env: KEY}
models:
  - {name: a, provider: openai}
  - {name: b, provider: openai}
`

// routes are what is told of a chat model of OpenAI's: each of its calls has two routes.
func routes(sign, model string) []string {
	var all []string
	for _, call := range []string{"openai-chat", "openai-completions", "openai-responses"} {
		all = append(all, sign+" Route "+call+":openai/"+model, sign+" Route "+call+":openai/"+model+"#2")
	}
	return all
}

func TestChangesAreToldOneByOne(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		old, text string
		want      []string
	}{
		"nothing":     {"", "", nil},
		"a new model": {"name: b,", "name: c,", slices.Concat(routes("-", "b"), routes("+", "c"))},
		"an address": {"127.0.0.1:1", "127.0.0.1:2", slices.Concat([]string{"~ Cluster egress-openai", "~ Cluster provider-openai",
			"~ Route egress/openai"}, routes("~", "a"), routes("~", "b"))},
		"a bound of the listener": {"providers:", "gateway: {max_request_headers: 50}\nproviders:", []string{"~ Listener gateway"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			changes, err := diff.Between(build(t, before, "k"), build(t, strings.Replace(before, c.old, c.text, 1), "k"))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, change := range changes {
				if name == "an address" && change.Type == "Route" && strings.Contains(change.Unified(), "+  cluster:") {
					t.Errorf("want no route told for a cluster's new name, got\n%s", change.Unified())
				}
				got = append(got, change.Sign()+" "+change.Type+" "+change.Name)
			}
			slices.Sort(got)
			slices.Sort(c.want)
			if !slices.Equal(got, c.want) {
				t.Errorf("want %q, got %q", c.want, got)
			}
		})
	}
}

// TestSecretsAreNotTold: that a key changed is, and the key is not.
func TestSecretsAreNotTold(t *testing.T) {
	t.Parallel()
	changes, err := diff.Between(build(t, before, "first-secret"), build(t, before, "second-secret"))
	if err != nil || len(changes) != 1 || changes[0].Type != "Secret" || strings.Contains(changes[0].Unified(), "-secret\n") {
		t.Errorf("want one secret changed and none told, got %+v %v", changes, err)
	}
}

func TestUnifiedShowsTheLine(t *testing.T) {
	t.Parallel()
	changes, err := diff.Between(build(t, before, "k"), build(t, strings.Replace(before, "KEY}", "KEY, max_pending: 7}", 1), "k"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range changes {
		if c.Name == "provider-openai" && (!strings.Contains(c.Unified(), "-    maxPendingRequests: 256") ||
			!strings.Contains(c.Unified(), "+    maxPendingRequests: 7")) {
			t.Errorf("want the changed line, got\n%s", c.Unified())
		}
	}
	if len(changes) == 0 {
		t.Error("want the cluster changed")
	}
}
