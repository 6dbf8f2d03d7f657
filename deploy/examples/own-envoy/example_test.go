package ownenvoy

import (
	"os"
	"slices"
	"strings"
	"testing"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	filev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	authzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	luav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/lua/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ratelimit/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/leaky-tokens/leaky-tokens/internal/settings"
	"github.com/leaky-tokens/leaky-tokens/xds"
)

// TestTheExampleAsksAsOurOwnEnvoyDoes: what extauthz, ratelimit and the meter are told is the same.
func TestTheExampleAsksAsOurOwnEnvoyDoes(t *testing.T) {
	t.Parallel()
	theirs, theirRoute := example(t)
	ours, ourRoute := made(t)
	same := func(what string, got, want proto.Message) {
		t.Helper()
		if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
			t.Errorf("%s is another (- ours, + the example's):\n%s", what, diff)
		}
	}
	same("what callers must not say", theirs.GetEarlyHeaderMutationExtensions()[0].GetTypedConfig(),
		ours.GetEarlyHeaderMutationExtensions()[0].GetTypedConfig())

	theirAuthz, ourAuthz := filter(t, theirs, "envoy.filters.http.ext_authz", &authzv3.ExtAuthz{}), filter(t, ours,
		"envoy.filters.http.ext_authz", &authzv3.ExtAuthz{})
	ourAuthz.GetGrpcService().RetryPolicy = nil // which one process of each needs not
	same("the question to extauthz", theirAuthz, ourAuthz)
	theirLimit, ourLimit := filter(t, theirs, "envoy.filters.http.ratelimit", &ratelimitv3.RateLimit{}), filter(t, ours,
		"envoy.filters.http.ratelimit", &ratelimitv3.RateLimit{})
	ourLimit.GetRateLimitService().GetGrpcService().RetryPolicy = nil
	same("the question to ratelimit", theirLimit, ourLimit)
	for _, name := range []string{"guard", "splice", "usage"} {
		theirLua, ourLua := filter(t, theirs, name, &luav3.Lua{}), filter(t, ours, name, &luav3.Lua{})
		if want := "/etc/leaky/lua/" + name + ".lua"; theirLua.GetDefaultSourceCode().GetFilename() != want {
			t.Errorf("%s: want the script %s", name, want)
		}
		theirLua.DefaultSourceCode, ourLua.DefaultSourceCode = nil, nil
		same(name, theirLua, ourLua)
	}
	for name, m := range map[string]proto.Message{"envoy.filters.http.ext_authz": &authzv3.ExtAuthzPerRoute{},
		"envoy.filters.http.ratelimit": &ratelimitv3.RateLimitPerRoute{}} {
		got, want := proto.Clone(m), proto.Clone(m)
		into(t, theirRoute.GetTypedPerFilterConfig()[name], got)
		into(t, ourRoute.GetTypedPerFilterConfig()[name], want)
		same("the route's "+name, got, want)
	}
	got, want := spooled(t, theirs), spooled(t, ours)
	want["model"] = "%DYNAMIC_METADATA(llm.request:model)%" // one route for all models
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the meter reads another line (- ours, + the example's):\n%s", diff)
	}
}

// TestTheExampleKeepsTheOrder of the filters: who calls is known before the body is read, and what it asks for before
// ratelimit is asked.
func TestTheExampleKeepsTheOrder(t *testing.T) {
	t.Parallel()
	theirs, _ := example(t)
	ours, _ := made(t)
	names := func(m *hcmv3.HttpConnectionManager) (all []string) {
		for _, f := range m.GetHttpFilters() {
			all = append(all, f.GetName())
		}
		return all
	}
	their, our := names(theirs), names(ours)
	our = slices.DeleteFunc(our, func(name string) bool { return !slices.Contains(their, name) })
	if !slices.Equal(their, our) {
		t.Errorf("want %q, got %q", our, their)
	}
}

func example(t *testing.T) (*hcmv3.HttpConnectionManager, *routev3.Route) {
	t.Helper()
	text, err := os.ReadFile("envoy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	text, err = yaml.YAMLToJSON(text)
	if err != nil {
		t.Fatal(err)
	}
	b := &bootstrapv3.Bootstrap{}
	if err := protojson.Unmarshal(text, b); err != nil {
		t.Fatal(err)
	}
	m := manager(t, b.GetStaticResources().GetListeners()[0])
	return m, m.GetRouteConfig().GetVirtualHosts()[0].GetRoutes()[0]
}

// made is what xds makes of the built-in configuration.
func made(t *testing.T) (*hcmv3.HttpConnectionManager, *routev3.Route) {
	t.Helper()
	set, err := settings.Load("", func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	_, snapshot, err := xds.Preview(set, "/var/lib/leaky-tokens")
	if err != nil {
		t.Fatal(err)
	}
	l, _ := snapshot.Resources[resourcev3.ListenerType]["gateway"].(*listenerv3.Listener)
	routes, _ := snapshot.Resources[resourcev3.RouteType]["gateway"].(*routev3.RouteConfiguration)
	all := routes.GetVirtualHosts()[0].GetRoutes()
	at := slices.IndexFunc(all, func(r *routev3.Route) bool { return strings.HasPrefix(r.GetName(), "openai-chat:openai/") })
	if l == nil || at < 0 {
		t.Fatal("the built-in configuration has no listener, or no route to OpenAI's chat")
	}
	return manager(t, l), all[at]
}

func manager(t *testing.T, l *listenerv3.Listener) *hcmv3.HttpConnectionManager {
	t.Helper()
	m := &hcmv3.HttpConnectionManager{}
	into(t, l.GetFilterChains()[0].GetFilters()[0].GetTypedConfig(), m)
	return m
}

func filter[M proto.Message](t *testing.T, m *hcmv3.HttpConnectionManager, name string, of M) M {
	t.Helper()
	at := slices.IndexFunc(m.GetHttpFilters(), func(f *hcmv3.HttpFilter) bool { return f.GetName() == name })
	if at < 0 {
		t.Fatalf("no filter %s", name)
	}
	into(t, m.GetHttpFilters()[at].GetTypedConfig(), of)
	return of
}

func into(t *testing.T, from *anypb.Any, to proto.Message) {
	t.Helper()
	if err := from.UnmarshalTo(to); err != nil {
		t.Fatal(err)
	}
}

// spooled is the line that is written for a call.
func spooled(t *testing.T, m *hcmv3.HttpConnectionManager) map[string]any {
	t.Helper()
	file := &filev3.FileAccessLog{}
	into(t, m.GetAccessLog()[0].GetTypedConfig(), file)
	return file.GetLogFormat().GetJsonFormat().AsMap()
}
