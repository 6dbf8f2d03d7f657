// Package ratelimit decides, between Envoy and the provider, whether a request may
// pass: it answers Envoy's rate-limit calls by holding the most a request can use in
// every limit it falls under, all or none, in one round trip to Redis. The meter tells
// it afterwards what was really used (settle), through an API of its own; a sweeper
// settles what nobody settled.
//
// A request goes through the rooms below once and comes back with its answer:
//
//	grpcbatch   calls that arrived together         serve.go
//	wire        Envoy's message -> match.Request    envoy.go, or hold.go for tokensvc
//	match       what it may use, whose limits
//	(here)      the one path to a decision          admit.go
//	store       all buckets or none, in hold.lua
//	lease       instead of store while Redis is away
//	wire        the decision -> Envoy's answer      envoy.go
//
// bucket has the arithmetic that Go and Lua share. Beside this path the service settles
// (settle.go), tells what is held and why (account_state.go, list_holds.go, explain.go),
// and runs loops of its own (sweeper.go, policy.go, rule_usage.go, ratios.go).
package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/health"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/balance"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/redisconn"
	"github.com/leaky-tokens/leaky-tokens/internal/retry"
	"github.com/leaky-tokens/leaky-tokens/internal/tracing"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/lease"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/match"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/store"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/wire"
)

// Publisher publishes the event of an expired hold. It returns nil only when the event
// is stored; the same event may be published twice.
type Publisher interface {
	Publish(ctx context.Context, e usage.Event) error
}

// Policy is what decisions follow. It can be replaced while requests come in.
type Policy struct {
	Limits    *limits.Set
	Domains   []*limits.Set // of other Envoys than ours
	Tiers     config.Tiers
	Providers map[string]config.Provider
	Models    []config.Model
	MaxTokens config.MaxTokens
	Others    Others        // how requests in Domains are answered
	NoPools   bool          // quota enforcement is off: no pool is asked, whatever a call requires
	Outage    config.Outage // modes can change; the sizes of leases and timeouts are those at the start
}

// Headers are the names of headers.
type Headers = wire.Headers

// Others is how requests of other Envoys are answered. The zero value is our own way: clients
// are told by x-ratelimit-* headers, retry-after and a body, and a domain that no file has is
// an error.
type Others struct {
	Silent       bool     // clients are told nothing: no headers, no body
	Headers      *Headers // the only headers that clients get, and no body; nil: as above
	Metadata     bool     // dynamic metadata comes also where no rule has some
	AdmitUnknown bool     // a domain that no file has has no limits
	Local        bool     // windows known to be above their limit are refused without Redis (see full)
	Shadow       bool     // nothing is refused
	Quota        bool     // every rule is in quota mode
	NearLimit    float64  // share of a limit above which hits count as near it; 0: 0.8
}

// Config of the service.
type Config struct {
	Policy
	// Reload reads the policy anew when one of Files changed; nil: never. The same Limits say that
	// nothing did.
	Reload func() (Policy, error)
	Files  func() []string
	Holds  config.Holds
	// Timeout is how long Envoy waits for a decision; a call that takes longer is given up.
	Timeout time.Duration
	// Longest is how long a call lasts, or the pause between its signs of life; holds outlive
	// it by Holds.Margin.
	Longest time.Duration
	// Explain is how many decisions are kept for people to look at; 0: none.
	Explain int
	// IdleAfter is how long a rule may match nothing before it is reported; default 1 h.
	IdleAfter time.Duration
	// Now gives the time in microseconds; nil: Redis' clock. For tests.
	Now       func() int64
	RedisURL  string
	Redis     redisconn.Extra // what the URL does not say
	Prefix    string          // before every Redis key
	Publisher Publisher       // nil: nobody holds, so that no hold expires and nothing is swept
	Balances  Balances        // nil: no account has a pool
	Booked    Booked          // nil: what Redis loses of long limits is lost
	// Follow gives every change of a pool to apply until ctx ends; nil: there are none.
	Follow  func(ctx context.Context, apply func(context.Context, balance.State) error)
	Log     *slog.Logger
	Metrics prometheus.Registerer
	Traces  trace.TracerProvider // nil: no spans
}

// Service is Envoy's rate-limit service and our own Limiter in one.
type Service struct {
	policy    atomic.Pointer[policy]
	reload    func() (Policy, error)
	files     func() []string
	holds     config.Holds
	timeout   time.Duration
	store     *store.Store
	matching  match.State
	memory    memory
	idleAfter time.Duration
	publisher Publisher
	asker     asker
	trust     *trust
	windows   *windows
	redis     redisState
	evictions evictions
	meters    meters
	stuck     stuck
	unwritten atomic.Pointer[error] // why calls cannot be written down
	leases    *lease.Keeper
	follow    func(context.Context, func(context.Context, balance.State) error)
	log       *slog.Logger
	said      *retry.Troubles
	metrics   *metrics
	health    *health.Server
	tracer    trace.Tracer
	now       func() int64 // Config.Now
}

// New makes the service; it connects to nothing yet.
func New(c Config) (*Service, error) {
	if c.Limits == nil || c.Log == nil || c.Metrics == nil {
		return nil, errors.New("make ratelimit: limits, log and metrics are needed")
	}
	s := &Service{reload: c.Reload, files: c.Files, holds: c.Holds, timeout: c.Timeout, publisher: c.Publisher,
		asker: asker{balances: c.Balances}, trust: newTrust(), windows: newWindows(c.Booked), follow: c.Follow, log: c.Log,
		said: retry.NewTroubles(c.Log)}
	if s.timeout <= 0 {
		s.timeout = 500 * time.Millisecond
	}
	s.matching.Now = c.Now
	s.health, s.now, s.tracer = newHealth(), c.Now, tracing.Tracer(c.Traces)
	s.memory.ring = make([]recalled, max(0, c.Explain))
	if s.idleAfter = c.IdleAfter; s.idleAfter <= 0 {
		s.idleAfter = defaultIdle
	}
	s.policy.Store(s.newPolicy(c.Policy))
	var err error
	if s.store, err = store.New(store.Config{URL: c.RedisURL, Extra: c.Redis, Prefix: c.Prefix, Now: c.Now,
		Lifetime:    c.Longest + c.Holds.Margin,
		SettledKept: c.Holds.SettledKept, Changed: func(older bool) {
			s.trust.changed(older)
			s.evictions.want()
			if older {
				s.meters.lose()
				s.windows.changed()
			}
		},
		DialTimeout: c.Outage.DialTimeout, Timeout: c.Outage.Timeout}); err != nil {
		return nil, fmt.Errorf("make ratelimit: %w", err)
	}
	s.leases = lease.New(lease.Config{Store: s.store, Tokens: c.Outage.LeaseTokens, Requests: c.Outage.LeaseRequests,
		Idle: c.Outage.LeaseFor, Timeout: s.timeout, Log: c.Log, Metrics: c.Metrics})
	s.metrics = newMetrics(c.Metrics, s)
	return s, nil
}

// Close gives back the connections.
func (s *Service) Close() error { return s.store.Close() }

// Ready is nil when Redis answers and takes what is written.
func (s *Service) Ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	if err := s.store.Ping(ctx); err != nil {
		return err
	}
	if why := s.unwritten.Load(); why != nil {
		return *why
	}
	return s.redis.problem()
}
