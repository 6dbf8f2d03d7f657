// Package ratelimit decides, between Envoy and the provider, whether a request may
// pass: it answers Envoy's rate-limit calls by holding the most a request can use in
// every limit it falls under, all or none, in one round trip to Redis. The meter tells
// it afterwards what was really used (settle), through an API of its own; a sweeper
// settles what nobody settled.
package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/facts"
	limitpb "github.com/leaky-tokens/leaky-tokens/internal/limitapi/gen"
	"github.com/leaky-tokens/leaky-tokens/internal/limits"
	"github.com/leaky-tokens/leaky-tokens/internal/usage"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/store"
)

// Publisher publishes the event of an expired hold. It returns nil only when the event
// is stored; the same event may be published twice.
type Publisher interface {
	Publish(ctx context.Context, e usage.Event) error
}

// Policy is what decisions follow. It can be replaced while requests come in.
type Policy struct {
	Limits    *limits.Set
	Tiers     config.Tiers
	Providers map[string]config.Provider
	Models    []config.Model
}

// Config of the service.
type Config struct {
	Policy
	// Reload reads the policy anew when one of Files changed; nil: never.
	Reload func() (Policy, error)
	Files  []string
	Holds  config.Holds
	// Timeout is how long Envoy waits for a decision; a call that takes longer is given up.
	Timeout time.Duration
	// Longest is gateway.max_stream_duration; holds outlive it by Holds.Margin.
	Longest   time.Duration
	RedisURL  string
	Prefix    string // before every Redis key; for tests that share a server
	Publisher Publisher
	Log       *slog.Logger
	Metrics   prometheus.Registerer
}

// Service is Envoy's rate-limit service and our own Limiter in one.
type Service struct {
	limitpb.UnimplementedLimiterServer

	policy    atomic.Pointer[policy]
	reload    func() (Policy, error)
	files     []string
	seen      map[string]stamp // of the files, as the service was made
	holds     config.Holds
	timeout   time.Duration
	store     *store.Store
	publisher Publisher
	log       *slog.Logger
	metrics   *metrics
}

// New makes the service; it connects to nothing yet.
func New(c Config) (*Service, error) {
	if c.Limits == nil || c.Publisher == nil || c.Log == nil || c.Metrics == nil {
		return nil, errors.New("make ratelimit: limits, publisher, log and metrics are needed")
	}
	s := &Service{reload: c.Reload, files: c.Files, seen: stamps(c.Files), holds: c.Holds, timeout: c.Timeout, publisher: c.Publisher, log: c.Log}
	if s.timeout <= 0 {
		s.timeout = 500 * time.Millisecond
	}
	s.policy.Store(newPolicy(c.Policy))
	var err error
	if s.store, err = store.New(store.Config{URL: c.RedisURL, Prefix: c.Prefix, Lifetime: c.Longest + c.Holds.Margin, SettledKept: c.Holds.SettledKept}); err != nil {
		return nil, fmt.Errorf("make ratelimit: %w", err)
	}
	s.metrics = newMetrics(c.Metrics, s.store)
	return s, nil
}

// Close gives back the connections.
func (s *Service) Close() error { return s.store.Close() }

// Ready is nil when Redis answers.
func (s *Service) Ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	return s.store.Ping(ctx)
}

// streamWorkers are goroutines kept for calls: starting one for each call costs a stack
// that grows anew every time.
const streamWorkers = 8

// Server is a gRPC server with both APIs on it.
func (s *Service) Server() *grpc.Server {
	server := grpc.NewServer(grpc.ForceServerCodecV2(newCodec()), grpc.NumStreamWorkers(streamWorkers), grpc.MaxConcurrentStreams(4096),
		grpc.WriteBufferSize(32<<10), grpc.ReadBufferSize(32<<10), grpc.SharedWriteBuffer(true))
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: "envoy.service.ratelimit.v3.RateLimitService",
		HandlerType: (*decider)(nil),
		Methods:     []grpc.MethodDesc{{MethodName: "ShouldRateLimit", Handler: shouldRateLimit}},
		Metadata:    "envoy/service/ratelimit/v3/rls.proto",
	}, s)
	limitpb.RegisterLimiterServer(server, s)
	return server
}

// grace is how long running decisions may take to end when the service stops. Envoy's
// connections stay open for good, so they are cut after it.
const grace = 3 * time.Second

// Serve answers on the listener until ctx ends.
func (s *Service) Serve(ctx context.Context, ln net.Listener) error {
	server := s.Server()
	done := make(chan struct{})
	go func() {
		defer close(done)
		<-ctx.Done()
		timer := time.AfterFunc(grace, server.Stop)
		defer timer.Stop()
		server.GracefulStop()
	}()
	if err := server.Serve(ln); err != nil && ctx.Err() == nil {
		return fmt.Errorf("serve grpc on %s: %w", ln.Addr(), err)
	}
	<-done
	return nil
}

// decider is what Envoy calls.
type decider interface {
	decideRequest(ctx context.Context, r *request) (*response, error)
}

func shouldRateLimit(srv any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
	var r request
	if err := decode(&r); err != nil {
		return nil, err
	}
	return srv.(decider).decideRequest(ctx, &r)
}

// decideRequest is ShouldRateLimit. An error makes Envoy answer as the route's failure mode says.
func (s *Service) decideRequest(ctx context.Context, r *request) (*response, error) {
	p := s.policy.Load()
	if r.domain != p.set.Domain() {
		return nil, status.Errorf(codes.InvalidArgument, "domain %q is not served here", r.domain)
	}
	if _, bounded := ctx.Deadline(); !bounded { // Envoy says how long it waits
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.timeout)
		defer cancel()
	}
	if len(r.descriptors) > 0 && len(r.descriptors[0]) > 0 && r.descriptors[0][0].Key == facts.Hold {
		return s.decideCall(ctx, p, r)
	}
	return s.decidePlain(ctx, p, r)
}

// decideCall holds for an LLM call.
func (s *Service) decideCall(ctx context.Context, p *policy, r *request) (*response, error) {
	c, err := p.readCall(r.descriptors[0])
	if errors.Is(err, errNoID) {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if err != nil {
		s.metrics.holds.malformed.Inc()
		return c.malformed(err), nil
	}
	c.account = accountOf(c.org, c.user, r.descriptors)
	m := p.match(r.descriptors[1:], c.account, c.tier, true)
	take := store.Take{Account: c.account, ID: c.id, Buckets: m.buckets, Requests: 1, Input: c.input, Output: c.output, Fill: c.fill, Facts: c.facts()}
	t, err := s.hold(ctx, take)
	if err != nil {
		return nil, err
	}
	if t.Outcome == store.Refused {
		no := s.decide(m, t, take)
		s.metrics.refused(no.limit.rule.Name)
		return c.refuse(m, t, no), nil
	}
	if ctx.Err() != nil {
		s.giveBack(ctx, c)
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	return c.admit(m, t), nil
}

// giveBack releases a hold that came to stand when Envoy had given up waiting: it
// answered 503 and nothing will be served.
func (s *Service) giveBack(ctx context.Context, c *call) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.timeout)
	defer cancel()
	if _, err := s.store.Settle(ctx, []store.Settlement{{Account: c.account, ID: c.id}}); err != nil {
		s.log.LogAttrs(ctx, slog.LevelWarn, "hold of an abandoned call stands until it expires", slog.String("request_id", c.id), slog.Any("error", err))
	}
	s.metrics.holds.abandoned.Inc()
}

// decidePlain counts a request of a route without tokens.
func (s *Service) decidePlain(ctx context.Context, p *policy, r *request) (*response, error) {
	org, user, tier := callers(r.descriptors)
	account := accountOf(org, user, r.descriptors)
	m := p.match(r.descriptors, account, tier, false)
	take := store.Take{Account: account, Buckets: m.buckets, Requests: int64(max(1, r.hits))}
	t, err := s.hold(ctx, take)
	if err != nil {
		return nil, err
	}
	if t.Outcome == store.Refused {
		no := s.decide(m, t, take)
		s.metrics.refused(no.limit.rule.Name)
		return plainRefuse(m, t, no), nil
	}
	return plainAdmit(m, t), nil
}

// hold asks the store and counts what came of it.
func (s *Service) hold(ctx context.Context, take store.Take) (store.Taken, error) {
	t, err := s.store.Hold(ctx, take)
	if err != nil {
		s.metrics.holds.failed.Inc()
		return t, status.Error(codes.Unavailable, err.Error())
	}
	switch t.Outcome {
	case store.Refused:
		s.metrics.holds.refused.Inc()
	case store.Repeated:
		s.metrics.holds.repeated.Inc()
	default:
		s.metrics.holds.admitted.Inc()
	}
	return t, nil
}

// soon is how long to wait when only the holds of running calls are in the way: they
// may give back room any moment. It is random, so that the refused do not return at once.
func (s *Service) soon() int64 { return 100*milli + rand.Int64N(150*milli) }
