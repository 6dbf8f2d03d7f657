package snapshot_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	authzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ratelimit/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	goyaml "github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/leaky-tokens/leaky-tokens/envoy"
	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
	"github.com/leaky-tokens/leaky-tokens/internal/mtls"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
	"github.com/leaky-tokens/leaky-tokens/xds/model"
	"github.com/leaky-tokens/leaky-tokens/xds/protos"
	"github.com/leaky-tokens/leaky-tokens/xds/snapshot"
)

var update = flag.Bool("update", false, "rewrite the golden files")

var trust = protos.Trust{File: "/etc/ssl/certs/ca-certificates.crt"}

func build(t testing.TB, yaml, limitsYAML string, env map[string]string) (*model.Gateway, *snapshot.Snapshot, error) {
	t.Helper()
	cfg, err := config.Parse([]byte(yaml))
	if err != nil {
		t.Fatalf("parse: %v\n%s", err, yaml)
	}
	set, err := limits.Load("")
	if limitsYAML != "" {
		set, err = limits.Parse([]byte(limitsYAML))
	}
	if err != nil {
		t.Fatalf("limits: %v", err)
	}
	g, secrets, err := model.Build(model.Input{Config: cfg, StateDir: "/state", Limits: set.Paths(),
		Key:      func(_ string, p config.ProviderKey) (string, error) { return env[p.APIKeyEnv], nil },
		Identity: mtls.Pair{Certificate: []byte("golden certificate"), Key: []byte("golden key")}, Roots: []byte("golden roots")})
	if err != nil {
		return nil, nil, err
	}
	s, err := snapshot.Build(g, secrets, trust)
	return g, s, err
}

// TestGolden compares Envoy's whole configuration with the file beside its input:
// go test ./xds/snapshot -update rewrites them, and the diff is what Envoy will see.
func TestGolden(t *testing.T) {
	t.Parallel()
	inputs, err := filepath.Glob("testdata/*.in.yaml")
	if err != nil || len(inputs) < 2 {
		t.Fatalf("inputs: %v %v", inputs, err)
	}
	for _, in := range inputs {
		t.Run(filepath.Base(in), func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(in)
			if err != nil {
				t.Fatal(err)
			}
			limitsText, err := os.ReadFile(strings.TrimSuffix(in, ".in.yaml") + ".limits.yaml")
			if err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
			_, s, err := build(t, string(text), string(limitsText), map[string]string{"OPENAI_API_KEY": "golden-openai",
				"GEMINI_API_KEY": "golden-gemini"})
			if err != nil {
				t.Fatal(err)
			}
			got := render(t, s)
			golden := strings.TrimSuffix(in, ".in.yaml") + ".out.yaml"
			if *update {
				if err := os.WriteFile(golden, got, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(string(got), "\n")); diff != "" {
				t.Errorf("%s (-want +got):\n%s", golden, diff)
			}
		})
	}
}

// render is a snapshot as YAML, with the scripts named instead of shown: they have files
// of their own.
func render(t *testing.T, s *snapshot.Snapshot) []byte {
	t.Helper()
	var out []byte
	for _, kind := range snapshot.Types() {
		for _, name := range slices.Sorted(maps.Keys(s.Resources[kind])) {
			text, err := protojson.Marshal(s.Resources[kind][name].(proto.Message))
			if err != nil {
				t.Fatal(err)
			}
			var tree any
			if err := json.Unmarshal(text, &tree); err != nil {
				t.Fatal(err)
			}
			if text, err = json.Marshal(nameScripts(tree)); err != nil {
				t.Fatal(err)
			}
			yaml, err := goyaml.JSONToYAML(text)
			if err != nil {
				t.Fatal(err)
			}
			out = fmt.Appendf(out, "--- # %s %s\n%s", snapshot.ShortType(kind), name, yaml)
		}
	}
	return out
}

func nameScripts(tree any) any {
	switch node := tree.(type) {
	case map[string]any:
		for key, value := range node {
			node[key] = nameScripts(value)
		}
	case []any:
		for i, value := range node {
			node[i] = nameScripts(value)
		}
	case string:
		switch node {
		case envoy.GuardLua():
			return "(guard.lua)"
		case envoy.SpliceLua:
			return "(splice.lua)"
		}
	}
	return tree
}

// TestEveryRouteAsksWhoCalls: whatever the configuration, no route gets past ext_authz,
// each forwards to a cluster that exists, and no LLM call that takes tokens goes out without a hold.
func TestEveryRouteAsksWhoCalls(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		g, s, err := build(t, drawConfig(r), "", map[string]string{"KEY": "k"})
		if err != nil {
			r.Fatalf("build: %v", err)
		}
		routes := s.Resources[resourcev3.RouteType][protos.RoutesName].(*routev3.RouteConfiguration)
		hosts := routes.GetVirtualHosts()
		var want []model.Route // calls that stream have a route of their own before that of others
		for _, m := range g.Routes {
			if want = append(want, m); m.LLM != nil && m.Forward != nil && !m.LLM.Gemini && !m.LLM.Free {
				want = append(want, m)
			}
		}
		if len(hosts) != 1 || len(hosts[0].GetRoutes()) != len(want) {
			r.Fatalf("want one host with %d routes, got %v", len(want), hosts)
		}
		for i, route := range hosts[0].GetRoutes() {
			checkRoute(r, want[i], route, s)
		}
		last := hosts[0].GetRoutes()[len(want)-1]
		if last.GetMatch().GetPrefix() != "/" || len(last.GetMatch().GetHeaders()) > 0 {
			r.Fatalf("want the last route to take everything, got %v", last.GetMatch())
		}
	})
}

func checkRoute(r *rapid.T, m model.Route, route *routev3.Route, s *snapshot.Snapshot) {
	packed := route.GetTypedPerFilterConfig()[attributes.NamespaceAuth]
	var authz authzv3.ExtAuthzPerRoute
	if packed == nil || packed.UnmarshalTo(&authz) != nil || authz.GetDisabled() {
		r.Fatalf("route %s: no authorisation", route.GetName())
	}
	rule := authz.GetCheckSettings().GetContextExtensions()[attributes.ContextRule]
	if rule != attributes.RuleAuthenticated && rule != attributes.RulePublic && rule != "role:ADMIN" {
		r.Fatalf("route %s: rule %q", route.GetName(), rule)
	}
	if route.GetTypedPerFilterConfig()["edge"] != nil || route.GetTypedPerFilterConfig()["correlation"] != nil {
		r.Fatalf("route %s: changes what every answer carries", route.GetName())
	}
	for name, config := range route.GetTypedPerFilterConfig() {
		var off routev3.FilterConfig
		if strings.HasPrefix(name, "envoy.filters.http.") && (config.UnmarshalTo(&off) == nil || strings.HasSuffix(config.GetTypeUrl(),
			"FilterConfig")) {
			r.Fatalf("route %s: filter %s is wrapped or off", route.GetName(), name)
		}
	}
	scope := authz.GetCheckSettings().GetContextExtensions()[attributes.ContextScope]
	if m.LLM != nil && scope != attributes.ScopeModelsCall+"|"+attributes.ScopeTokensWrite || rule == "role:ADMIN" && scope != attributes.ScopeAdmin {
		r.Fatalf("route %s: scope %q", route.GetName(), scope)
	}
	if rule == attributes.RulePublic && m.LLM != nil {
		r.Fatalf("route %s: an LLM route is public", route.GetName())
	}
	if c := route.GetRoute().GetCluster(); c != "" && s.Resources[resourcev3.ClusterType][c] == nil {
		r.Fatalf("route %s: no cluster %s", route.GetName(), c)
	}
	provider := strings.HasPrefix(route.GetRoute().GetCluster(), "provider-")
	held := false
	for _, d := range rateLimits(r, route) {
		if d.GetActions()[0].GetRequestHeaders().GetDescriptorKey() == attributes.Hold {
			held = true
		}
	}
	if provider && (held == m.LLM.Free || len(route.GetMatch().GetDynamicMetadata()) == 0) {
		r.Fatalf("route %s: a provider without a hold or a guarded body", route.GetName())
	}
}

func rateLimits(r *rapid.T, route *routev3.Route) []*routev3.RateLimit {
	var per ratelimitv3.RateLimitPerRoute
	packed := route.GetTypedPerFilterConfig()[attributes.NamespaceLimit]
	if packed == nil {
		packed = route.GetTypedPerFilterConfig()["ratelimit-open"]
	}
	if packed == nil {
		return nil
	}
	if err := packed.UnmarshalTo(&per); err != nil {
		r.Fatal(err)
	}
	return per.GetRateLimits()
}

func drawConfig(r *rapid.T) string {
	name := rapid.StringMatching(`[a-z][a-z0-9]{0,8}`)
	var b strings.Builder
	providers := rapid.SliceOfNDistinct(name, 1, 4, rapid.ID).Draw(r, "providers")
	b.WriteString("providers:\n")
	for _, p := range providers {
		protocol := rapid.SampledFrom([]string{"openai", "gemini"}).Draw(r, "protocol")
		url := rapid.SampledFrom([]string{"http://127.0.0.1:9", "https://api.example.com/v1", "https://[::1]:8443",
			"http://host.example:80/a/b"}).Draw(r, "url")
		key := rapid.SampledFrom([]string{"", ", api_key_env: KEY"}).Draw(r, "key")
		fmt.Fprintf(&b, "  %s: {protocol: %s, url: %q%s}\n", p, protocol, url, key)
	}
	b.WriteString("models:\n")
	for _, m := range rapid.SliceOfNDistinct(rapid.StringMatching(`[a-z][a-z0-9.-]{0,12}`), 1, 6, rapid.ID).Draw(r, "models") {
		fmt.Fprintf(&b, "  - {name: %q, provider: %s, kind: %s}\n", m, rapid.SampledFrom(providers).Draw(r, "of"),
			rapid.SampledFrom([]string{"chat", "embedding"}).Draw(r, "kind"))
	}
	fmt.Fprintf(&b, "flags: {gateway: {rate_limiting: %v}}\n", rapid.Bool().Draw(r, "counting"))
	fmt.Fprintf(&b, "gateway: {rate_limit: {key_strategy: %s, whitelist: %s}}\n", rapid.SampledFrom([]string{"AUTO", "USER_HEADER",
		"API_KEY_HEADER", "IP"}).Draw(r, "strategy"),
		rapid.SampledFrom([]string{"[]", "[/**]", "[/api/v1/me]", "[/actuator/**, /v1/models]"}).Draw(r, "whitelist"))
	fmt.Fprintf(&b, "limits: {outage: {default: %s}}\n", rapid.SampledFrom([]string{"open", "closed", "lease"}).Draw(r, "outage"))
	fmt.Fprintf(&b, "tls: {mode: %s}\n", rapid.SampledFrom([]string{"'off'", "mutual"}).Draw(r, "tls"))
	return b.String()
}

// TestMutualGuardsEveryServiceOnTCP and leaves sockets and stubs as they are.
func TestMutualGuardsEveryServiceOnTCP(t *testing.T) {
	t.Parallel()
	for mode, guarded := range map[string]map[string]bool{
		"{tls: {mode: 'off'}}":  {},
		"{tls: {mode: mutual}}": {"identity": true, "tokensvc": true, "analytics": true, "console": true},
		"{tls: {mode: mutual}, services: {extauthz: {http: '127.0.0.1:1', grpc: '127.0.0.1:2'}}}": {"identity": true, "tokensvc": true,
			"analytics": true, "console": true, "extauthz": true},
	} {
		_, s, err := build(t, mode, "", nil)
		if err != nil {
			t.Fatal(err)
		}
		for name, r := range s.Resources[resourcev3.ClusterType] {
			socket := r.(*clusterv3.Cluster).GetTransportSocket()
			if (socket != nil) != guarded[name] {
				t.Errorf("%s: cluster %s: guarded: want %v, got %v", mode, name, guarded[name], socket)
			}
			if socket == nil {
				continue
			}
			var tls tlsv3.UpstreamTlsContext
			if err := socket.GetTypedConfig().UnmarshalTo(&tls); err != nil {
				t.Fatal(err)
			}
			names := tls.GetCommonTlsContext().GetCombinedValidationContext().GetDefaultValidationContext().GetMatchTypedSubjectAltNames()
			if len(names) != 1 || names[0].GetMatcher().GetExact() != mtls.ID(name) {
				t.Errorf("%s: want one exact name, got %v", name, names)
			}
		}
	}
}

func TestVersionIsTheContent(t *testing.T) {
	t.Parallel()
	_, first, err := build(t, "", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	_, again, err := build(t, "", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	if first.Version != again.Version {
		t.Errorf("want the same version for the same configuration, got %s and %s", first.Version, again.Version)
	}
	_, other, err := build(t, "gateway: {trusted_hops: 1}", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	if first.Version == other.Version || first.TypeVersion(resourcev3.ListenerType) == other.TypeVersion(resourcev3.ListenerType) {
		t.Error("want another version for another listener")
	}
	if first.TypeVersion(resourcev3.ClusterType) != other.TypeVersion(resourcev3.ClusterType) {
		t.Error("want the version of unchanged clusters to stay")
	}
}

func without(clusters []model.Cluster, name string) []model.Cluster {
	return slices.DeleteFunc(clusters, func(c model.Cluster) bool { return c.Name == name })
}

// forwarding is the first route that goes on to somebody.
func forwarding(g *model.Gateway) *model.Route {
	return &g.Routes[slices.IndexFunc(g.Routes, func(r model.Route) bool { return r.Forward != nil })]
}

func TestWhatDoesNotHangTogetherIsRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		spoil func(*model.Gateway)
		want  string
	}{
		"no cluster": {func(g *model.Gateway) { g.Clusters = g.Clusters[:8] }, "no cluster provider-"},
		"no authz":   {func(g *model.Gateway) { g.Clusters = without(g.Clusters, topology.ExtAuthz) }, "no cluster extauthz"},
		"no rule":    {func(g *model.Gateway) { g.Routes[3].Rule = "" }, "no authorisation rule"},
		"no action":  {func(g *model.Gateway) { forwarding(g).Forward = nil }, "must either forward or reply"},
		"no secret":  {func(g *model.Gateway) { g.Clusters[9].Credential = "lost" }, "no secret lost"},
		"bad route":  {func(g *model.Gateway) { forwarding(g).Forward.Path = "a\nb" }, "Rewrite"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g, _, err := build(t, "", "", nil)
			if err != nil {
				t.Fatal(err)
			}
			c.spoil(g)
			if _, err := snapshot.Build(g, nil, trust); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("want an error with %q, got %v", c.want, err)
			}
		})
	}
}

// TestMistakesAreToldInOneOrder: who tries again tells by the text whether anything is new.
func TestMistakesAreToldInOneOrder(t *testing.T) {
	t.Parallel()
	g, _, err := build(t, "", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range g.Clusters {
		g.Clusters[i].Addr.Network, g.Clusters[i].Addr.Port = "tcp", 70000
	}
	_, first := snapshot.Build(g, nil, trust)
	if first == nil {
		t.Fatal("accepted")
	}
	for range 5 {
		if _, again := snapshot.Build(g, nil, trust); again == nil || again.Error() != first.Error() {
			t.Fatalf("want\n%v\ngot\n%v", first, again)
		}
	}
}
