package analytics

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/retry"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// book is what is known of one account's calls.
type book struct{ Events, Tokens, Micros, Unpriced int64 }

// survive publishes n events while consumer, engine and NATS are killed at random, and compares
// count, tokens and cost of each account with what was sent. A tenth is published again with
// another message id, as after the duplicate window; one in fifty is corrected.
func survive(t *testing.T, n, accounts, kills int) {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	engine, server := testenv.ClickHouseServer(t), testenv.NATSServer(t)
	store, js := openStore(t, engine.URL()), jetStream(t, server.URL())
	sent := map[string]book{}
	batches := planned(rand.New(rand.NewPCG(seed, 1)), n, accounts, sent)

	var published atomic.Int64
	done := make(chan error, 1)
	go func() { done <- publishAll(t.Context(), server.URL(), batches, &published) }()

	summing := keepSums(t, store)
	rng := rand.New(rand.NewPCG(seed, 2))
	c, stop := running(t, js, store)
	for kill := range kills {
		next := int64(len(batches) * (kill + 1) / (kills + 1))
		testenv.Within(t, 10*time.Minute, fmt.Sprintf("batch %d", next), func() bool { return published.Load() >= next })
		switch rng.IntN(3) {
		case 0:
			engine.Restart()
		case 1:
			server.Stop()
			server.Start()
		default:
			stop() // with what it has in hand; the next one remembers nothing
			c, stop = running(t, js, store)
		}
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	testenv.Within(t, 10*time.Minute, "the stream worked off", func() bool {
		pending, err := c.Pending(t.Context())
		return err == nil && pending == 0
	})
	found, err := store.Group(t.Context(), everything(time.Now()), []string{"account"}, accounts+1, false)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]book{}
	for _, g := range found.Groups {
		got[g.Key[0]] = book{g.Sums.Events, g.Sums.Tokens, g.Sums.Costs["USD"], g.Sums.Unpriced}
	}
	if diff := cmp.Diff(sent, got); diff != "" {
		t.Errorf("the books differ from what was sent (-want +got):\n%s", diff)
	}
	summing()
	rolled(t, store)
	sameAnswers(t, "after all", store, rawStore(t, engine.URL()), rng, time.Now().UTC())
}

// keepSums makes the sums again and again, as they are in the way of inserts and of kills; end stops it.
func keepSums(t *testing.T, store *Store) (end func()) {
	t.Helper()
	store.settleFor, store.markedFor = time.Second, 100*time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			_, _ = store.RollUp(ctx) // fails while the engine is away
			select {
			case <-ctx.Done():
			case <-time.After(200 * time.Millisecond):
			}
		}
	}()
	end = sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(end)
	return end
}

// planned makes the events, in batches of 200, and what their accounts should come to.
func planned(rng *rand.Rand, n, accounts int, sums map[string]book) (batches [][]usage.Message) {
	now := time.Now()
	var all []usage.Message
	add := func(e usage.Event, id string) {
		m, err := usage.MessageOf(e, "/meter", "", "")
		if err != nil {
			panic(err) // our own events
		}
		if id != "" {
			m.ID = id
		}
		all = append(all, m)
	}
	for i := range n {
		e := event(fmt.Sprintf("%08x-%07d", rng.Uint32(), i), fmt.Sprintf("%08d-0000-4000-8000-000000000000", rng.IntN(accounts)),
			[]string{"openai", "qwen"}[rng.IntN(2)], now.Add(-time.Duration(rng.Int64N(int64(48*time.Hour)))), rng.Int64N(5000))
		if rng.IntN(5) > 0 {
			e.PriceVersion, e.CostMicros, e.Currency = "7.0", rng.Int64N(1_000_000), "USD"
		}
		stands := e
		add(e, "")
		if rng.IntN(10) == 0 {
			add(e, e.RequestID+"#again")
		}
		if rng.IntN(50) == 0 {
			stands.Version, stands.Charged = 1, rng.Int64N(5000)
			stands.Input, stands.Output = 0, stands.Charged
			stands.Timestamp = e.Timestamp.Add(time.Duration(rng.IntN(2000)) * time.Millisecond) // another clock
			add(stands, "")
		}
		b := sums[e.Account]
		b.Events++
		b.Tokens += stands.Charged
		b.Micros += stands.CostMicros
		if stands.PriceVersion == "" {
			b.Unpriced += stands.Charged
		}
		sums[e.Account] = b
	}
	return slices.Collect(slices.Chunk(all, 200))
}

// publishAll publishes batch by batch, each until all of it is stored.
func publishAll(ctx context.Context, url string, batches [][]usage.Message, published *atomic.Int64) error {
	nc, err := nats.Connect(url, nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond), nats.ReconnectBufSize(-1))
	if err != nil {
		return err
	}
	defer nc.Close()
	publisher, err := usage.NewPublisher(nc, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	for _, rest := range batches {
		err := retry.Policy{First: 10 * time.Millisecond, Most: time.Second}.Do(ctx, func(ctx context.Context) error {
			unstored, err := publisher.Publish(ctx, rest)
			rest = nil
			for _, u := range unstored { // again
				rest = append(rest, u.Message)
			}
			return err
		}, func(int, error) {})
		if err != nil {
			return err
		}
		published.Add(1)
	}
	return nil
}

func TestNothingIsLostOrDoubledWhateverDies(t *testing.T) {
	t.Parallel()
	survive(t, 6000, 20, 8)
}
