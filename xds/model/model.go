// Package model is the gateway in our own terms: what leaky.yaml and the limits mean
// before any Envoy message is written. xds builds it from the configuration, and
// package protos turns it into Envoy's messages.
package model

import (
	"time"

	"github.com/leaky-tokens/leaky-tokens/envoy"
	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
	"github.com/leaky-tokens/leaky-tokens/internal/netaddr"
)

// Gateway is everything one Envoy needs to know.
type Gateway struct {
	Listener Listener
	Egress   Egress
	Fallback Fallback
	Routes   []Route // first match wins
	Clusters []Cluster
	Limits   []limits.Path // one descriptor is sent for each
	Requests Requests      // how requests are counted
	Problems []string      // what does not work of the configuration, while the rest does
	CORS     config.CORS   // pages of other origins that may call
}

// Requests is whom the gateway's request limiter tells apart, and what it leaves alone.
type Requests struct {
	Off       bool // nothing is counted
	Key       config.KeyStrategy
	Whitelist []string // exact paths, or prefixes that end in /**
}

// Listener is the public side.
type Listener struct {
	Addr          netaddr.Addr
	TrustedHops   uint32
	MaxBodyBytes  uint32
	Connections   uint32
	CallerBytes   int64 // of request bodies that one caller may have under way in one worker
	AllBytes      int64 // that all callers may, beside small ones
	MaxHeaders    uint32
	IdleTimeout   time.Duration // of a request on which nothing moves
	Spool         string        // absolute path of the usage log
	RenewEvery    time.Duration // how often a running call is written to it, 0: never
	ChecksTimeout time.Duration // how long extauthz may take
	LimitsTimeout time.Duration // how long a rate-limit decision may take
	Dimensions    string        // what calls say of themselves: NAME|HEADER|MEMBER of each, with semicolons
	Pages         []string      // origins whose pages may read answers; * alone: every one
	TLS           bool          // with SecretServer
	Clients       string        // certificates that they show: as config.GatewayTLS has it
	Open          bool          // some route stays open without decisions
	Tracing       *Tracing      // nil: nothing is traced
}

// ReadsOrigin says that who answers decides itself which pages of other origins may read the answer.
func (r Route) ReadsOrigin() bool {
	return r.Family == attributes.FamilyOAuth || r.Family == attributes.FamilyPage
}

// Route is one match and what happens to it.
type Route struct {
	Name    string
	Match   Match
	Forward *Forward // exactly one of Forward and Reply
	Reply   *Reply

	Rule     string // facts.RulePublic, facts.RuleAuthenticated or "role:NAME"; never empty
	Scope    string // what an OAuth2 token must be granted, as facts.ContextScope says
	NeedsOrg bool   // only for callers who act for an organisation
	Keys     string // what an API key may do, as attributes.ContextKeys says
	Audience string // service the signed identity is minted for; empty: none
	Family   string // shape of errors
	LLM      *LLM   // nil for everything that is not an LLM call
	Open     bool   // requests pass while the rate limit service is away
}

// LimitName is the route's name in the limits.
func (r Route) LimitName() string {
	if r.LLM != nil {
		return r.LLM.Route
	}
	return r.Name
}

// Match is when a route applies. Exactly one of Path, Prefix, Regex and Connect is set.
type Match struct {
	Path, Prefix, Regex string
	Connect             bool              // the method CONNECT, which has no path
	Method              string            // empty: any
	Preflight           bool              // only what a browser asks before a page's request (Fetch standard, 4.8)
	Expects             bool              // only with an expectation that Envoy has not met itself (RFC 9110, 10.1.1)
	NotHost             string            // only an authority that this expression does not match; empty: any
	Query               map[string]string // exact values of query parameters
	Header, Parameter   string            // only with the header or the query parameter; empty: any
	Like                string            // only a path with its query that this expression matches as well; empty: any
	Models              []string          // spellings of the model in the body; empty, with Prefixes: any
	Prefixes            []string          // beginnings of the model in the body
	Fallback            string            // the call goes on at this fallback
	Guarded             bool              // only once the guard has passed the body
}

// Forward sends the request to a cluster.
type Forward struct {
	Cluster string
	Tries   [][]Share     // clusters of the first attempt, the second and so on; empty: Cluster each time
	Retry   Retry         // beside what never reached anybody
	Path    string        // replaces the matched path, with \1 for what a Regex found; empty: as it came
	Host    string        // replaces the authority; empty: as it came
	Timeout time.Duration // until the whole answer is there; 0: none
	// FirstByte bounds the wait for the answer to begin, and Silence the time in which nothing
	// moves; 0: the listener's bound.
	FirstByte, Silence time.Duration
	Longest            time.Duration // longest life of a stream; 0: no bound of its own
}

// Reply answers at once.
type Reply struct {
	Status  uint32
	Message string
	Code    string // error code in OpenAI's shape, may be empty
	Allow   string // Allow header of a 405
}

// LLM marks a route on which tokens are held, metered and settled.
type LLM struct {
	Route    string // name of the operation, as package operation has it
	Dialect  string // how the guard reads the body
	Family   string // shape of errors
	Provider string
	Model    string // as configured; empty on the route taken before the model is known
	SetModel string // what the body must call the model, where ratelimit does not say it; empty: as it stands
	Usual    string // the model of a body that names none; empty: it must
	Gemini   bool   // the model is in the path, and so is whether it streams
	Stream   bool   // the path asks for a stream (Gemini)
	Maximum  string // member that states the most output tokens; empty: as the model takes it
	States   bool   // the API itself wants a maximum
	StateMax bool   // a call that states none is refused
	NoOutput bool   // no token is generated
	Free     bool   // nothing is held, and nothing is written into the spool
	// What of a request passes beside what every provider gets.
	Headers []string // names, lower-case
	Query   []string // names of parameters, or whole ones: alt=sse
}

// Cluster is one upstream.
type Cluster struct {
	Name     string
	Stat     string // name in metrics, stable when Name carries a hash; empty: Name
	Addr     netaddr.Addr
	More     []netaddr.Addr         // further processes of a service of ours
	Places   map[netaddr.Addr]Place // what those who registered say of themselves
	Shared   bool                   // it may have several processes, by now or later
	GRPC     bool
	TLS      bool
	Host     string // SNI and name the certificate must have
	Part     string // one of ours: both sides show the certificate that xds issued; empty: plain, or TLS as said
	Discover bool   // endpoints come by EDS

	ConnectTimeout time.Duration
	MaxRequests    uint32 // circuit breaker; 0: Envoy's default
	MaxPending     uint32
	Provider       bool // outlier detection; its answers are not ours
	Outlier        Outlier
	RetryBudget    float64  // percent of the calls under way that may be repeated ones; 0: Envoy's default
	Moves          string   // it is a fallback's: Envoy calls itself, and says which and for whom
	Of             []string // the clusters that stand behind this one: the first that has a host is asked
	Bulkhead       bool     // MaxRequests at once, more are refused without waiting; a breaker
	Credential     string   // secret injected into each call; empty: none
	Header         string   // header that carries it
	HeaderPrefix   string   // before the secret, e.g. "Bearer "
}

// Place is how an endpoint stands beside the others.
type Place struct {
	Weight uint32 // its share of the calls; 0: 1
	Zone   string
}

// Addrs are where the cluster's endpoints are.
func (c Cluster) Addrs() []netaddr.Addr { return append([]netaddr.Addr{c.Addr}, c.More...) }

// Secret is delivered by SDS. It is never logged. It is a value, or a certificate with its
// key, or roots.
type Secret struct {
	Name        string
	Value       string
	Certificate string // PEM
	Key         string // PEM
	Roots       string // PEM
}

// ServerTLS is what the public listener shows and asks of clients; all PEM.
type ServerTLS struct {
	Certificate, Key string
	Clients          string // as config.GatewayTLS has it
	Roots            string // of clients
}

// Names of the secrets of the public listener.
const (
	SecretServer  = "gateway-certificate"
	SecretClients = "gateway-clients"
)

// Names of the secrets by which Envoy and the services know each other.
const (
	SecretIdentity = envoy.SecretIdentity
	SecretRoots    = envoy.SecretRoots
)
