package analytics

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

const (
	alice = "11111111-1111-4111-8111-111111111111"
	bob   = "22222222-2222-4222-8222-222222222222"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// openStore is a migrated store on a database of its own.
func openStore(t *testing.T, url string) *Store {
	t.Helper()
	store, err := NewStore(StoreConfig{URL: url, Timeout: 2 * time.Minute, Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	if err := store.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return store
}

func jetStream(t *testing.T, url string) jetstream.JetStream {
	t.Helper()
	nc, err := nats.Connect(url, nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond), nats.RetryOnFailedConnect(true))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// publish sends an event; the message id is new each time, as if the duplicate window
// of the stream had passed.
func publish(t *testing.T, js jetstream.JetStream, events ...usage.Event) {
	t.Helper()
	if _, err := usage.EnsureStream(t.Context(), js); err != nil {
		t.Fatal(err)
	}
	for _, e := range events {
		data, err := usage.Encode(e, "/meter", "", "")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := js.Publish(t.Context(), usage.Subject(e.Provider), data); err != nil {
			t.Fatal(err)
		}
	}
}

// running starts a consumer; stop waits until it has ended.
func running(t *testing.T, js jetstream.JetStream, store Inserter) (c *Consumer, stop func()) {
	t.Helper()
	c, err := NewConsumer(ConsumerConfig{JetStream: js, Store: store, Metrics: NewMetrics(prometheus.NewRegistry()), Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	return c, run(t, c.Run)
}

// run runs a consumer; stop waits until it has ended.
func run(t *testing.T, f func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("want a clean stop, got %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// drained waits until nothing is pending.
func drained(t *testing.T, c *Consumer) {
	t.Helper()
	testenv.Eventually(t, "stream worked off", func() bool {
		n, err := c.Pending(t.Context())
		return err == nil && n == 0
	})
}

// event is an event like the meter's.
func event(id string, user string, provider string, at time.Time, tokens int64) usage.Event {
	return usage.Event{RequestID: id, UserID: user, Account: "user:" + user, Route: "openai-chat", Provider: provider, ModelAsked: "gpt-4o",
		ModelServed: "gpt-4o",
		Input:       tokens / 2, Output: tokens - tokens/2, Charged: tokens, Held: 2 * tokens, Source: usage.FromProvider, Allowed: true, Status: 200,
		Timestamp: at}
}

// randomEvents are n events over two days, of five users and three providers.
func randomEvents(rng *rand.Rand, n int, now time.Time) []usage.Event {
	events := make([]usage.Event, n)
	for i := range events {
		user := fmt.Sprintf("%08d-0000-4000-8000-000000000000", rng.IntN(5))
		e := event(fmt.Sprintf("%08x-%04x", rng.Uint32(), i), user, []string{"openai", "gemini", "qwen"}[rng.IntN(3)],
			now.Add(-time.Duration(rng.Int64N(int64(48*time.Hour)))), rng.Int64N(5000))
		e.Cached, e.Reasoning, e.CacheWrite1h = rng.Int64N(100), rng.Int64N(100), rng.Int64N(100)
		e.EndUser, e.Session, e.Tags = fmt.Sprint("c", rng.IntN(3)), fmt.Sprint("s", rng.IntN(3)), map[string]string{"project": "a,b;'\"", "n": fmt.Sprint(rng.IntN(2))}
		if rng.IntN(4) > 0 {
			e.PriceVersion, e.CostMicros, e.Currency = "7.0", rng.Int64N(1_000_000), "USD"
		}
		switch rng.IntN(10) {
		case 0:
			e.Allowed, e.Source, e.Charged, e.Input, e.Output, e.Status, e.CostMicros = false, usage.FromRefusal, 0, 0, 0, 429, 0
		case 1:
			e.Source, e.Stream, e.Reason = usage.FromEstimate, true, "client closed: \"\\' \n?"
		case 2:
			e.Allowed = false // a later refund with tokens
		}
		events[i] = e
	}
	return events
}

// expected is what the store should say of events, from memory.
func expected(events []usage.Event, f Filter, top int) Totals {
	sum := Totals{Sums: Sums{Costs: map[string]int64{}}}
	users := map[string]*UserTotal{}
	for _, e := range events {
		at := e.Timestamp.Truncate(time.Millisecond)
		if f.Provider != "" && e.Provider != f.Provider || f.UserID != "" && e.UserID != f.UserID || at.Before(f.From) || !at.Before(f.To) {
			continue
		}
		if users[e.UserID] == nil {
			users[e.UserID] = &UserTotal{UserID: e.UserID}
		}
		users[e.UserID].Events++
		users[e.UserID].TotalTokens += e.Charged
		sum.Events++
		sum.Tokens += e.Charged
		sum.Input += e.Input
		sum.Output += e.Output
		sum.Cached += e.Cached
		sum.Reasoning += e.Reasoning
		sum.CacheWrite1h += e.CacheWrite1h
		if e.PriceVersion != "" {
			sum.Costs[e.Currency] += e.CostMicros
		} else if e.Allowed {
			sum.Unpriced += e.Charged
		}
		if e.Allowed {
			sum.Allowed++
			sum.Consumed += e.Charged
		}
		if e.Source == usage.FromEstimate || e.Source == usage.FromExpiry {
			sum.Estimated += e.Charged
		}
	}
	sum.Users = int64(len(users))
	for _, u := range slices.SortedFunc(maps.Values(users), func(a, b *UserTotal) int {
		if a.TotalTokens != b.TotalTokens {
			return int(b.TotalTokens - a.TotalTokens)
		}
		return slices.Compare([]byte(a.UserID), []byte(b.UserID))
	}) {
		if len(sum.Top) < top {
			sum.Top = append(sum.Top, *u)
		}
	}
	return sum
}

// flaky is an Inserter in front of a store that fails on demand.
type flaky struct {
	store  *Store
	mu     sync.Mutex
	before int // so many inserts fail and write nothing
	after  int // so many inserts write and then fail, as when the answer is lost
	calls  int
}

func (f *flaky) Insert(ctx context.Context, token string, rows []Row) error {
	f.mu.Lock()
	f.calls++
	before, after := f.before > 0, f.before <= 0 && f.after > 0
	if before {
		f.before--
	} else if after {
		f.after--
	}
	f.mu.Unlock()
	if before {
		return errors.New("store is away")
	}
	err := f.store.Insert(ctx, token, rows)
	if err == nil && after {
		return errors.New("answer was lost")
	}
	return err
}

func (f *flaky) called() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls
}

func counted(c prometheus.Counter) int {
	var m dto.Metric
	if err := c.Write(&m); err != nil {
		return -1
	}
	return int(m.GetCounter().GetValue())
}
