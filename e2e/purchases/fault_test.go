package purchases

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	stub "github.com/leaky-tokens/leaky-tokens/stubs/payment"
)

// TestFaults runs random schedules of crashes and losses against purchases and holds the
// books together afterwards. 50 schedules; 500 with LEAKY_LONG=1. The seed is printed:
// LEAKY_SEED=n LEAKY_SCHEDULES=1 repeats one.
func TestFaults(t *testing.T) {
	t.Parallel()
	schedules, seed := number("LEAKY_SCHEDULES", 50), number("LEAKY_SEED", rand.Uint64N(1_000_000_000))
	if os.Getenv("LEAKY_LONG") != "" {
		schedules = number("LEAKY_SCHEDULES", 500)
	}
	t.Logf("LEAKY_SEED=%d LEAKY_SCHEDULES=%d", seed, schedules)
	// A schedule mostly waits for leases to run out, so more worlds run at once than there are cores.
	worlds := make([]*world, min(5, schedules))
	for i := range worlds {
		worlds[i] = newWorld(t)
	}
	var wg sync.WaitGroup
	totals := make([]tally, len(worlds))
	for n, w := range worlds {
		wg.Go(func() {
			for i := uint64(n); i < schedules && !t.Failed(); i += uint64(len(worlds)) {
				s := newSchedule(seed + i)
				if !s.run(t, w, &totals[n]) {
					t.Errorf("repeat it with LEAKY_SEED=%d LEAKY_SCHEDULES=1: %+v", s.seed, s)
				}
			}
		})
	}
	wg.Wait()
	var total tally
	for i, w := range worlds {
		w.checkEvents(t)
		total.completed, total.failed, total.starts, total.schedules = total.completed+totals[i].completed, total.failed+totals[i].failed,
			total.starts+totals[i].starts, total.schedules+totals[i].schedules
	}
	t.Logf("%d schedules: %d purchases completed, %d failed, %d worker processes", total.schedules, total.completed, total.failed,
		total.starts)
}

// schedule is everything that chance decides, drawn from one seed.
type schedule struct {
	seed     uint64
	stripe   bool
	orders   []order
	faults   stub.Faults
	kills    [2][]workerConfig // of each replica, one for each start
	random   []time.Duration   // when replica n%2 is killed, wherever it is
	postgres time.Duration     // when it restarts; 0: not
	nats     time.Duration     // the same
	again    int               // how often workers have been started at the end at least
}

// order is one purchase, posted so many times at once.
type order struct {
	user, key, provider string
	tokens              int64
	times               int
}

func newSchedule(seed uint64) schedule {
	luck := rand.New(rand.NewPCG(seed, 42))
	s := schedule{seed: seed, stripe: luck.IntN(2) == 0}
	name := func() string { return uuid.Must(uuid.NewRandomFromReader(reader{luck})).String() }
	users := []string{name(), name()}
	for range 3 + luck.IntN(4) {
		s.orders = append(s.orders, order{user: users[luck.IntN(2)], key: name(), provider: providers()[luck.IntN(3)], tokens: 1 +
			luck.Int64N(1_000_000), times: 1 + luck.IntN(3)})
	}
	share := func(most float64) float64 { return most * luck.Float64() * float64(luck.IntN(2)) }
	s.faults = stub.Faults{Seed: seed, Decline: share(.3), DeclineCapture: share(.5), OtherAmount: share(.4), Refuse: share(.3),
		Lose: share(.3), Late: share(.3), LateMS: 400}
	all := boundaries()
	s.kills[0] = append(s.kills[0], workerConfig{Kill: all[seed%uint64(len(all))], Times: luck.IntN(2)})
	for replica := range s.kills {
		for range luck.IntN(3) {
			s.kills[replica] = append(s.kills[replica], workerConfig{Kill: all[luck.IntN(len(all))], Times: luck.IntN(4)})
		}
	}
	for range luck.IntN(3) {
		s.random = append(s.random, time.Duration(luck.IntN(600))*time.Millisecond)
	}
	if luck.IntN(6) == 0 {
		s.postgres = time.Duration(50+luck.IntN(400)) * time.Millisecond
	}
	if luck.IntN(4) == 0 {
		s.nats = time.Duration(50+luck.IntN(400)) * time.Millisecond
	}
	return s
}

// reader draws bytes from a seed.
type reader struct{ luck *rand.Rand }

func (r reader) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(r.luck.Uint32())
	}
	return len(p), nil
}

// tally says what a world has seen, so that a test which tests nothing is seen.
type tally struct{ completed, failed, starts, schedules int }

// run carries a schedule out and checks the books of its purchases.
func (s schedule) run(t *testing.T, w *world, total *tally) (good bool) {
	t.Helper()
	w.stripe = s.stripe
	if err := w.payment.SetFaults(s.faults); err != nil {
		t.Error(err)
		return false
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	slots := []*slot{{w: w, socket: w.socket(0), wanted: s.kills[0]}, {w: w, socket: w.socket(1), wanted: s.kills[1]}}
	running, stop := context.WithCancel(ctx)
	var workers, trouble sync.WaitGroup
	for _, replica := range slots {
		workers.Go(func() { replica.keep(running, t) })
	}
	s.disturb(ctx, w, slots, &trouble)
	ids := s.post(ctx, t, w)
	trouble.Wait()
	good = w.settled(ctx, t, ids)
	for slots[0].started()+slots[1].started() < s.again && ctx.Err() == nil { // who was killed by the last step of all is not back yet
		pause(ctx, 5*time.Millisecond)
	}
	stop()
	workers.Wait()
	if !good {
		return false
	}
	for i, id := range ids {
		completed, ok := w.check(t, id, s.orders[i])
		if good = good && ok; completed {
			total.completed++
		} else {
			total.failed++
		}
	}
	total.schedules++
	total.starts += slots[0].starts + slots[1].starts
	return w.checkAccounts(t, s) && good
}

// disturb kills and restarts at the schedule's times.
func (s schedule) disturb(ctx context.Context, w *world, slots []*slot, trouble *sync.WaitGroup) {
	for i, after := range s.random {
		trouble.Go(func() { pause(ctx, after); slots[i%2].kill() })
	}
	trouble.Go(func() {
		if s.postgres > 0 {
			pause(ctx, s.postgres)
			w.postgres.Restart()
		}
	})
	trouble.Go(func() {
		if s.nats > 0 {
			pause(ctx, s.nats)
			w.nats.Stop()
			pause(ctx, 100*time.Millisecond)
			w.nats.Start()
		}
	})
}

// post sends every order as often as it says, at once, and gives the purchases' ids; all
// answers to one key are the same.
func (s schedule) post(ctx context.Context, t *testing.T, w *world) []string {
	t.Helper()
	answers := make([][]string, len(s.orders))
	var wg sync.WaitGroup
	for i, o := range s.orders {
		answers[i] = make([]string, o.times)
		for n := range o.times {
			wg.Go(func() {
				sockets := []string{w.socket((i + n) % 2), w.socket((i + n + 1) % 2)}
				answer, err := w.post(ctx, sockets, o.user, o.key, fmt.Sprintf(`{"provider":%q,"tokens":%d}`, o.provider, o.tokens))
				if err != nil {
					t.Errorf("order %d was never taken: %v", i, err)
				}
				answers[i][n] = answer
			})
		}
	}
	wg.Wait()
	ids := make([]string, len(s.orders))
	for i := range answers {
		for _, answer := range answers[i] {
			if answer != answers[i][0] {
				t.Errorf("one key, two answers: %s and %s", answers[i][0], answer)
			}
		}
		ids[i] = sagaID(answers[i][0])
	}
	return ids
}

// TestEveryBoundary kills a worker at each place where a crash parts what was done from what is
// known; another one brings the purchases to their end.
func TestEveryBoundary(t *testing.T) {
	t.Parallel()
	all := boundaries()
	worlds := []*world{newWorld(t), newWorld(t), newWorld(t)}
	var wg sync.WaitGroup
	for n, w := range worlds {
		wg.Go(func() {
			for i := n; i < len(all); i += len(worlds) {
				user, kill := uuid.NewString(), []workerConfig{{Kill: all[i]}}
				s := schedule{stripe: i%2 == 0, kills: [2][]workerConfig{kill, kill}, again: 3}
				for range 2 {
					s.orders = append(s.orders, order{user: user, key: uuid.NewString(), provider: "openai", tokens: 1000, times: 2})
				}
				if strings.HasPrefix(all[i], "void") {
					s.faults.DeclineCapture = 1
				}
				var total tally
				if !s.run(t, w, &total) {
					t.Errorf("killed at %q", all[i])
				}
				if total.starts < s.again {
					t.Errorf("%q was never passed", all[i])
				}
			}
		})
	}
	wg.Wait()
}
