package serve_test

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/leaky-tokens/leaky-tokens/analytics"
	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/booked"
	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/ratelimit"
)

const longLimits = `
domain: leaky
descriptors:
  - key: count
    value: tokens
    descriptors:
      - key: user
        descriptors:
          - key: model
            value: by-month
            rate_limit: {name: by-month, unit: year, requests_per_unit: 1000}
            metadata: {rate_limit_policy: {window: calendar}}
          - key: model
            value: drains
            rate_limit: {name: drains, unit: day, requests_per_unit: 10}
            metadata: {rate_limit_policy: {algorithm: leaky_bucket, burst: 1000}}
          - key: model
            value: an-hour
            rate_limit: {name: an-hour, unit: hour, requests_per_unit: 1000000}
  - key: count
    value: requests
    descriptors:
      - key: key
        rate_limit: {name: calls-of-a-key, unit: year, requests_per_unit: 3}
`

// longWorld is a limiter, its Redis and the books.
type longWorld struct {
	t       *testing.T
	limiter *ratelimit.Service
	redis   *testenv.RedisProcess
	stream  *usage.Publisher
	books   func() (stop func())
}

func newLongWorld(t *testing.T) *longWorld {
	t.Helper()
	w := &longWorld{t: t, redis: testenv.RedisServer(t)}
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	quiet, registry := slog.New(slog.DiscardHandler), prometheus.NewRegistry()
	store, err := analytics.NewStore(analytics.StoreConfig{URL: testenv.ClickHouse(t), Timeout: 30 * time.Second, Log: quiet})
	check(err)
	t.Cleanup(func() { store.Close() })
	check(store.Migrate(t.Context()))
	nc, err := nats.Connect(testenv.NATS(t))
	check(err)
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	check(err)
	_, err = usage.EnsureStream(t.Context(), js)
	check(err)
	w.stream, err = usage.NewPublisher(nc, slog.New(slog.DiscardHandler))
	check(err)
	consumer, err := analytics.NewConsumer(analytics.ConsumerConfig{JetStream: js, Store: store, Metrics: analytics.NewMetrics(registry), Log: quiet})
	check(err)
	w.background(consumer.Run)
	w.books = func() func() {
		return w.background(func(ctx context.Context) error {
			return booked.Serve(ctx, nc, analytics.NewBooks(store, consumer), 20*time.Second, func(err error) { t.Log(err) })
		})
	}
	set, err := limits.Parse([]byte(longLimits))
	check(err)
	w.limiter, err = ratelimit.New(ratelimit.Config{RedisURL: w.redis.URL(), Booked: booked.NewClient(nc, 20*time.Second), Log: quiet,
		Metrics: registry, Timeout: 20 * time.Second, Longest: time.Minute, Holds: config.Holds{Margin: time.Minute, SettledKept: time.Minute},
		Policy: ratelimit.Policy{Limits: set, NoPools: true, Outage: config.Outage{DialTimeout: 10 * time.Second, Timeout: 10 * time.Second},
			Tiers: config.Tiers{Default: "USER", Levels: map[string]config.Tier{"USER": {Capacity: 1, LeakRate: 1}}}}})
	check(err)
	t.Cleanup(func() { w.limiter.Close() })
	w.background(w.limiter.Run)
	return w
}

func (w *longWorld) background(run func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(w.t.Context()))
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	})
	w.t.Cleanup(stop)
	return stop
}

// hold asks for tokens of a model.
func (w *longWorld) hold(user, key, model string, tokens int64) (*limitpb.HoldResponse, *limitpb.Facts, error) {
	f := &limitpb.Facts{RequestId: uuid.NewString(), User: user, Key: key, Tier: "USER", Route: "openai-chat", Provider: "openai", Model: model}
	r, err := w.limiter.Hold(w.t.Context(), &limitpb.HoldRequest{Facts: f, OutputTokens: tokens, Descriptors: []*limitpb.Descriptor{
		{Entries: []*limitpb.Entry{{Key: "count", Value: "tokens"}, {Key: "user", Value: user}, {Key: "model", Value: model}}},
		{Entries: []*limitpb.Entry{{Key: "count", Value: "requests"}, {Key: "key", Value: key}}}}})
	return r, f, err
}

func (w *longWorld) admits(user, key, model string, tokens int64) bool {
	w.t.Helper()
	r, _, err := w.hold(user, key, model, tokens)
	if err != nil {
		w.t.Fatalf("%s with %s: %v", user, model, err)
	}
	return r.GetAdmitted()
}

// settle ends a call, and then tells of it as the meter does.
func (w *longWorld) settle(f *limitpb.Facts, tokens int64) {
	w.t.Helper()
	if _, err := w.limiter.Settle(w.t.Context(), &limitpb.SettleRequest{Settlements: []*limitpb.Settlement{{Account: "user:" + f.GetUser(),
		RequestId: f.GetRequestId(), Charged: tokens}}}); err != nil {
		w.t.Fatal(err)
	}
	m, err := usage.MessageOf(usage.Event{RequestID: f.GetRequestId(), UserID: f.GetUser(), KeyID: f.GetKey(), Account: "user:" + f.GetUser(),
		Route: f.GetRoute(), Tier: "USER", Provider: "openai", ModelAsked: f.GetModel(), ModelServed: f.GetModel(), Output: tokens, Charged: tokens,
		Held: tokens, Source: usage.FromProvider, Pool: usage.PoolNone, Allowed: true, Status: 200, Timestamp: time.Now().UTC()}, "/meter", "", "")
	if err == nil {
		_, err = w.stream.Publish(w.t.Context(), []usage.Message{m})
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *longWorld) call(user, key, model string, tokens int64) {
	w.t.Helper()
	r, f, err := w.hold(user, key, model, tokens)
	if err != nil || !r.GetAdmitted() {
		w.t.Fatalf("want %d tokens of %s for %s: %v, %v", tokens, model, user, r, err)
	}
	w.settle(f, tokens)
}

func (w *longWorld) flush() {
	w.t.Helper()
	if err := w.redis.Client().FlushAll(w.t.Context()).Err(); err != nil {
		w.t.Fatal(err)
	}
}

// TestALongLimitOutlivesRedis uses limits up and empties Redis: from the next call on what was used counts, in
// a window, in a bucket that drains and of calls, and nobody else pays for it.
func TestALongLimitOutlivesRedis(t *testing.T) {
	t.Parallel()
	w := newLongWorld(t)
	stop := w.books()
	testenv.Eventually(t, "the books are asked", func() bool {
		r, _, err := w.hold("nobody", "k0", "an-hour", 1)
		return err == nil && r.GetAdmitted()
	})
	w.call("ann", "k1", "by-month", 600)
	w.call("ann", "k1", "by-month", 300)
	w.call("bob", "k2", "drains", 900)
	_, running, err := w.hold("ann", "k3", "by-month", 100)
	if err != nil || w.admits("ann", "k3", "by-month", 1) {
		t.Fatalf("want the limit used up: %v", err)
	}
	w.flush()
	for range 3 {
		if w.admits("bob", "k2", "drains", 150) || w.admits("ann", "k1", "by-month", 101) {
			t.Error("what was used can be used again")
		}
	}
	w.call("ann", "k1", "an-hour", 1)
	if w.admits("ann", "k1", "an-hour", 1) {
		t.Error("a key is at its fourth call")
	}
	w.call("bob", "k2", "drains", 50)
	w.call("cyd", "k4", "by-month", 1000)
	w.settle(running, 100) // Redis has lost its hold
	testenv.Eventually(t, "a call that ran meanwhile counts", func() bool {
		r, f, err := w.hold("ann", "k5", "by-month", 1)
		if err == nil && r.GetAdmitted() {
			w.settle(f, 0)
		}
		return err == nil && !r.GetAdmitted()
	})

	stop() // the books are away
	w.flush()
	for _, user := range []string{"ann", "bob", "dan"} {
		if _, _, err := w.hold(user, "k6", "by-month", 1); status.Code(err) != codes.Unavailable {
			t.Errorf("%s: want what is not known refused for now, got %v", user, err)
		}
	}
	w.books()
	testenv.Eventually(t, "the books tell again", func() bool {
		r, _, err := w.hold("dan", "k6", "by-month", 1)
		return err == nil && r.GetAdmitted()
	})
	if w.admits("cyd", "k4", "by-month", 1) {
		t.Error("what was used can be used again")
	}
}

// TestALongLimitOutlivesAnOlderRedis restores Redis from a copy of before the limit was used up.
func TestALongLimitOutlivesAnOlderRedis(t *testing.T) {
	t.Parallel()
	w := newLongWorld(t)
	w.books()
	beats := func(more int) {
		client := w.redis.Client()
		first, _ := client.Get(t.Context(), "{*}:beat").Int()
		testenv.Eventually(t, "seconds pass", func() bool {
			n, err := client.Get(t.Context(), "{*}:beat").Int()
			return err == nil && n > first+more
		})
	}
	testenv.Eventually(t, "the books are asked", func() bool {
		r, f, err := w.hold("ann", "k1", "by-month", 100)
		if err == nil {
			w.settle(f, 100)
		}
		return err == nil && r.GetAdmitted()
	})
	beats(0)
	restore := w.redis.Snapshot()
	w.call("ann", "k2", "by-month", 900)
	beats(2)
	restore()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if r, _, err := w.hold("ann", "k3", "by-month", 10); err == nil && r.GetAdmitted() {
				t.Error("what was used is used again")
			}
		})
	}
	wg.Wait()
	testenv.Eventually(t, "others are served", func() bool {
		r, _, err := w.hold("bob", "k4", "by-month", 1000)
		return err == nil && r.GetAdmitted()
	})
}
