// Package topology is beside the request path: it is the one list of what runs, with what
// each part needs and who may call it. Addresses, certificates, Envoy's clusters, the
// supervisor's order, the environment of a process and the commands' texts derive from it.
//
// It stands beside internal/local and not in it, since what runs without the supervisor
// reads it too: config (which keys services have), mtls (who gets a certificate) and xds
// (which clusters there are).
package topology

import (
	"slices"
	"strings"
)

// Names of the parts: what `leaky ps` lists, `leaky serve` starts, a certificate names and
// Envoy's cluster is called.
const (
	Postgres   = "postgres"
	Redis      = "redis"
	NATS       = "nats"
	ClickHouse = "clickhouse"

	XDS       = "xds"
	Identity  = "identity"
	ExtAuthz  = "extauthz"
	RateLimit = "ratelimit"
	TokenSvc  = "tokensvc"
	Analytics = "analytics"
	Meter     = "meter"
	Console   = "console"

	StubOpenAI  = "stub-openai"
	StubGemini  = "stub-gemini"
	StubQwen    = "stub-qwen"
	StubPayment = "stub-payment"

	Envoy = "envoy"

	Prometheus   = "prometheus"
	Alertmanager = "alertmanager"
)

// Parts that call services and are none themselves, as their certificates name them.
const (
	Gateway    = "gateway"    // Envoy
	Supervisor = "supervisor" // leaky up, and whoever scrapes metrics
)

// Kind says how a part is run.
type Kind int

// Kinds of parts.
const (
	Store   Kind = iota + 1 // Postgres, Redis, NATS, ClickHouse; may run elsewhere
	Service                 // ours, `leaky serve NAME`
	Stub                    // stands in for what others run, `leaky serve NAME`; there only if somebody is told to call it
	Proxy                   // Envoy
	Monitor                 // watches the others: Prometheus, Alertmanager; the stack runs without them
)

// MemoryLimit is GOMEMLIMIT of every service and stub, in bytes: together they stay under 250 MB
// resident. What a service is configured to remember comes on top: a heap that cannot get below the
// limit is collected all the time.
const MemoryLimit = 64 << 20

// GOGC of services. They allocate little, so collecting early costs less than the memory,
// but for those that every request passes.
const (
	gogcSmall = 50
	gogcFast  = 400
)

// Part is one thing that runs.
type Part struct {
	Name string
	Kind Kind

	// Of a store.
	Listen   string // address that leaky up gives it, unless LEAKY_<NAME>_LISTEN does
	URL      string // of one that we run, without host and password
	Binary   bool   // a program or library that is not ours and must be fetched
	Embedded bool   // runs in our own program, as `leaky serve NAME`
	Users    bool   // each part is a user of its own there, with rights of its own (package storeuser)

	// Of a service or a stub.
	GRPC     bool     // listens for gRPC beside HTTP
	Replicas bool     // may run in several processes, which share its work
	Stores   []string // whose URLs it gets, and which must be ready before it; of an embedded store: itself
	Inner    bool     // other parts call its HTTP side: by a Unix socket of its own, where no certificates are
	Callers  []string // whose certificates it takes; nil: it speaks plainly to everybody on this machine
	Cluster  bool     // Envoy has a cluster of its name
	API      bool     // people call it: `leaky env` prints its URL
	GOGC     int      // percent, see runtime/debug.SetGCPercent
	Provider string   // protocol of the provider that a stub stands in for; empty: none

	After []string // parts beside the stores that must have been ready before it starts, and end after it
	Data  bool     // keeps a folder of its name in the state folder
}

// Parts are all that can run, without replicas, in start order. The meter comes before
// Envoy so that it ends after it and settles what Envoy wrote last. Others that Envoy
// routes to (identity, tokensvc, analytics) are not before it: one of them failing must
// not keep the gateway down.
func Parts() []Part {
	return []Part{
		{Name: Postgres, Kind: Store, Listen: "127.0.0.1:5432", URL: "postgres://leaky@/leaky?sslmode=disable", Binary: true, Data: true,
			Users: true},
		{Name: Redis, Kind: Store, Listen: "127.0.0.1:6379", URL: "redis:///0", Binary: true, Data: true},
		{Name: NATS, Kind: Store, Listen: "127.0.0.1:4222", URL: "nats://leaky@", Embedded: true, Stores: []string{NATS}, Data: true,
			Users: true},
		// "default" is the only database that the engine has from the start.
		{Name: ClickHouse, Kind: Store, Listen: "127.0.0.1:8123", URL: "http://leaky@/default", Binary: true, Embedded: true,
			Stores: []string{ClickHouse}, Data: true},

		// They end last, and so see the others end.
		{Name: Alertmanager, Kind: Monitor, Binary: true, API: true, Data: true},
		{Name: Prometheus, Kind: Monitor, Binary: true, API: true, Data: true},

		{Name: XDS, Kind: Service, GRPC: true, Stores: []string{NATS}, Callers: []string{Gateway, Supervisor, Console}, API: true,
			GOGC: gogcSmall, Data: true},
		{Name: Identity, Kind: Service, Replicas: true, Stores: []string{Postgres, Redis, NATS},
			Callers: []string{Gateway, Supervisor, ExtAuthz}, Inner: true, Cluster: true, API: true, GOGC: gogcSmall},
		{Name: ExtAuthz, Kind: Service, GRPC: true, Replicas: true, Stores: []string{NATS},
			Callers: []string{Gateway, Supervisor}, Cluster: true, GOGC: gogcFast},
		{Name: RateLimit, Kind: Service, GRPC: true, Replicas: true, Stores: []string{Redis, NATS},
			Callers: []string{Gateway, Supervisor, Identity, ExtAuthz, Meter, TokenSvc, Analytics}, Cluster: true, GOGC: gogcFast, Data: true},
		{Name: TokenSvc, Kind: Service, Replicas: true, Stores: []string{Postgres, NATS}, Callers: []string{Gateway, Supervisor},
			Inner: true, Cluster: true, API: true, GOGC: gogcFast},
		{Name: Analytics, Kind: Service, Replicas: true, Stores: []string{NATS, ClickHouse}, Callers: []string{Gateway, Supervisor},
			Inner: true, Cluster: true, API: true, GOGC: gogcFast},
		{Name: Console, Kind: Service, Replicas: true, Stores: []string{NATS}, Callers: []string{Gateway, Supervisor}, Inner: true,
			Cluster: true, API: true, GOGC: gogcSmall},

		{Name: StubOpenAI, Kind: Stub, Stores: []string{NATS}, Provider: "openai", Cluster: true, API: true, GOGC: gogcSmall},
		{Name: StubGemini, Kind: Stub, Stores: []string{NATS}, Provider: "gemini", Cluster: true, API: true, GOGC: gogcSmall},
		{Name: StubQwen, Kind: Stub, Stores: []string{NATS}, Provider: "openai", Cluster: true, API: true, GOGC: gogcSmall},
		{Name: StubPayment, Kind: Stub, Stores: []string{NATS}, API: true, GOGC: gogcSmall},

		{Name: Meter, Kind: Service, Stores: []string{NATS}, Callers: []string{Supervisor}, After: []string{RateLimit}, GOGC: gogcFast,
			Data: true},
		{Name: Envoy, Kind: Proxy, Binary: true, After: []string{XDS, ExtAuthz, RateLimit, Meter, StubOpenAI, StubGemini, StubQwen}},
	}
}

// Find is the part of a name.
func Find(name string) (Part, bool) {
	all := Parts()
	i := slices.IndexFunc(all, func(p Part) bool { return p.Name == name })
	if i < 0 {
		return Part{}, false
	}
	return all[i], true
}

// Having are the parts that ask is true of, in start order.
func Having(ask func(Part) bool) []Part {
	return slices.DeleteFunc(Parts(), func(p Part) bool { return !ask(p) })
}

// Of are the parts of a kind, in start order.
func Of(kind Kind) []Part {
	return Having(func(p Part) bool { return p.Kind == kind })
}

// Names are the names of parts.
func Names(parts []Part) []string {
	names := make([]string, 0, len(parts))
	for _, p := range parts {
		names = append(names, p.Name)
	}
	return names
}

// Listens reports whether leaky.yaml says, below services, where the part listens.
func (p Part) Listens() bool { return p.Kind == Service || p.Kind == Stub }

// Served reports whether the part runs as `leaky serve NAME`.
func (p Part) Served() bool { return p.Listens() || p.Embedded }

// Key is the part's name as a key of leaky.yaml.
func (p Part) Key() string { return strings.ReplaceAll(p.Name, "-", "_") }

// Variable is an environment variable about the part: Variable("URL") of stub-openai is
// LEAKY_STUB_OPENAI_URL.
func (p Part) Variable(what string) string { return "LEAKY_" + strings.ToUpper(p.Key()) + "_" + what }
