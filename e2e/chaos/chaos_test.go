package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/leaky-tokens/leaky-tokens/internal/reconcile"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/stacktest"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// mends is how long the stack may take to be ready again; a busy machine is slow, and the test
// expects no time.
const mends = 3 * time.Minute

// TestItHealsByItself runs schedules of faults under calls, purchases and edits. When all faults are
// lifted the stack must become ready without a hand, with nobody refused who has paid, no token above
// a pool or a limit, and all books agreeing with each other and with what the provider's stub served.
//
// Three schedules run, those of the seeds 0 to 2, and 20 with LEAKY_LONG=1, from a seed that chance
// gives; LEAKY_SEED=n LEAKY_SCHEDULES=1 repeats one.
func TestItHealsByItself(t *testing.T) {
	seed, schedules := uint64(0), uint64(together)
	if os.Getenv("LEAKY_LONG") != "" {
		seed, schedules = rand.Uint64N(1_000_000), 20
	}
	seed, schedules = number(t, "LEAKY_SEED", seed), number(t, "LEAKY_SCHEDULES", schedules)
	w := start(t)
	for n := seed; n < seed+schedules && !t.Failed(); n++ {
		t.Run(fmt.Sprintf("LEAKY_SEED=%d", n), func(t *testing.T) { w.run(t, newSchedule(n)) })
	}
}

func number(t *testing.T, variable string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		t.Fatalf("%s: %v", variable, err)
	}
	return n
}

// start brings the stack up, on small disks where that can be.
func start(t *testing.T) *world {
	t.Helper()
	dir := testenv.Folder(t)
	s, err := stacktest.New(t.Context(), dir, 1,
		stacktest.Edit("    VAST:", "    NARROW: {priority: 45, bucket_capacity_multiplier: 0.001, bucket_leak_rate_multiplier: 0.001}\n    VAST:"),
		stacktest.Edit("\npurchases:", "\nholds: {life: 10s, margin: 5s, sweep_every: 1s}\npurchases:"),
		stacktest.Edit("first_byte_timeout: 8s}", "first_byte_timeout: 8s, max_stream_duration: 10s}"))
	if err != nil {
		t.Fatal(err)
	}
	w := &world{Stack: s, disks: disks(t, s.Dir), clock: testenv.RedisClock(t, dir), since: time.Now().Add(-time.Hour), whole: map[string]string{}, evicted: map[string]int64{}, unknown: map[string]bool{}}
	s.Env = append(s.Env, w.clock.Env()...)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("logs: %s", tails(s.Dir))
		}
		if out, err := s.Leaky(context.WithoutCancel(t.Context()), "down"); err != nil {
			t.Error(out)
		}
	})
	if out, err := s.Up(t.Context()); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, name := range []string{leaky, limits} {
		text, err := os.ReadFile(w.path(name))
		if err != nil {
			t.Fatal(err)
		}
		w.whole[name] = string(text)
	}
	out, err := s.Leaky(t.Context(), "env", "-o", "json")
	var addresses map[string]string
	if err != nil || json.Unmarshal([]byte(out), &addresses) != nil {
		t.Fatalf("%v: %s", err, out)
	}
	options, err := redis.ParseURL(addresses["LEAKY_REDIS_URL"])
	if err != nil {
		t.Fatal(err)
	}
	w.redis = redis.NewClient(options)
	t.Cleanup(func() { w.redis.Close() })
	if err := w.watchEvictions(t.Context()); err != nil {
		t.Fatal(err)
	}
	return w
}

// run has one schedule happen.
func (w *world) run(t *testing.T, s schedule) {
	begun := time.Now()
	t.Logf("the schedule:\n%s", s)
	c := newTraffic(t, w)
	if err := w.remember(); err != nil {
		t.Fatal(err)
	}
	stop := c.flow(t.Context())
	defer stop()
	w.happens(t, s)
	lifted := time.Now()
	testenv.Within(t, mends, "every part is ready without a hand", func() bool { return w.well(t.Context()) == "" })
	t.Logf("ready %v after the last fault was lifted", time.Since(lifted).Round(time.Millisecond))
	c.admitted(t)
	stop()
	c.books(t, s, begun)
	saw, wrong := c.told()
	t.Log(saw)
	for _, what := range wrong {
		t.Error(what)
	}
}

// happens goes through the steps.
func (w *world) happens(t *testing.T, s schedule) {
	t.Helper()
	var met func(context.Context) error // lifts the one before
	for i, one := range s {
		lift, err := w.inflict(t.Context(), one.fault)
		if err != nil {
			t.Fatalf("%s %s: %v", one.on, one.kind, err)
		}
		t.Logf("%s: %s", time.Now().Format(time.StampMilli), one)
		if one.push {
			w.edit(t, i)
		}
		<-time.After(one.stands)
		if met != nil {
			w.lifted(t, met)
		}
		if met = nil; one.meets {
			met = lift
			continue
		}
		w.lifted(t, lift)
	}
}

// lifted asks until it is done: what is to be lifted may be just being started.
func (w *world) lifted(t *testing.T, lift func(context.Context) error) {
	t.Helper()
	var err error
	testenv.Eventually(t, fmt.Sprintf("the fault is lifted: %v", err), func() bool { err = lift(t.Context()); return err == nil })
}

// edit changes a limit that nobody meets and pushes it. With a store away a push may fail and says so; the
// limits stand in their file then, or are as before.
func (w *world) edit(t *testing.T, n int) {
	t.Helper()
	before, after, found := strings.Cut(w.whole[limits], "name: stub-qwen-requests, unit: day, requests_per_unit: ")
	if !found {
		t.Fatal("the limit that is edited is not there")
	}
	_, rest, _ := strings.Cut(after, "}")
	next := filepath.Join(filepath.Dir(w.Config), "next")
	text := fmt.Sprintf("%sname: stub-qwen-requests, unit: day, requests_per_unit: %d}%s", before, 100+n, rest)
	if err := os.MkdirAll(next, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{leaky: w.whole[leaky], limits: text} {
		if err := os.WriteFile(filepath.Join(next, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	out, err := w.Leaky(t.Context(), "push", "--timeout", "5s", "-m", "a limit", filepath.Join(next, leaky))
	if err != nil {
		t.Logf("pushed: %v %s", err, out)
	}
}

// well is empty when every part is ready, else why not.
func (w *world) well(ctx context.Context) string {
	out, err := w.Leaky(ctx, "status")
	if err == nil {
		return ""
	}
	return out
}

// admitted waits until everybody who may call is answered: the first has paid, the second pays again, and
// the limit of the third leaks. They are the calls that flow: another caller of the same account would
// share with them what leaks, and might never be the one who finds room.
func (c *traffic) admitted(t *testing.T) {
	t.Helper()
	begun := time.Now()
	c.buy(t.Context(), c.poor, more)
	for name, who := range map[string]stacktest.Account{"who paid": c.rich.Account, "who paid again": c.poor.Account, "who waited": c.narrow} {
		c.waits(t, name, who, begun)
	}
}

// waits until a call is admitted that began after a time, and tells how the account stands where none is.
func (c *traffic) waits(t *testing.T, name string, who stacktest.Account, since time.Time) {
	t.Helper()
	is := func() bool { return c.latest(who).admitted.After(since) }
	defer func() {
		if is() {
			return
		}
		ctx, last := context.WithoutCancel(t.Context()), c.latest(who).answer
		why, err := c.Leaky(ctx, "explain", last.id)
		t.Logf("%s last got: %s\n%s %v\nredis has:\n%s", name, last, why, err, c.keysOf(ctx, who.ID))
		held, err := c.Leaky(ctx, "holds")
		t.Logf("held: %s %v", held, err)
	}()
	testenv.Eventually(t, name+" is admitted", is)
}

// books compares all of them, also those of schedules before, and holds the sums against what was bought
// and what limits give. An event that the sweeper told has Redis' time, and that may be behind.
func (c *traffic) books(t *testing.T, s schedule, begun time.Time) {
	t.Helper()
	ended := time.Now()
	buyers := map[string]*buyer{"rich": c.rich, "poor": c.poor}
	for name, who := range buyers { // a hold whose line was lost is charged when it has run out
		c.settles(t, name, who, func(q quota) bool { return q.RemainingTokens == q.BookedTokens })
	}
	r := c.agree(t, s)
	charged := func(id string) (tokens int64) {
		for _, a := range r.Accounts {
			if strings.Contains(a.Account, id) {
				tokens += a.EventTokens
			}
		}
		return tokens
	}
	for name, who := range buyers {
		had := charged(who.ID)
		if t.Logf("%s bought %d and had %d", name, who.bought, had); had > who.bought {
			t.Errorf("%s bought %d tokens and was charged %d", name, who.bought, had)
		}
		// A call whose hold was lost shows in the pool when its event is booked, and in nothing before.
		c.settles(t, name, who, func(q quota) bool { return q.RemainingTokens == who.bought-had && q.BookedTokens == who.bought-had })
	}
	most := narrowBurst*(1+s.forgets()) + c.lost(c.narrow.ID, narrowBurst, callHolds) + narrowLeak*s.leaksAgain() + int64(narrowLeak*ended.Sub(begun).Seconds())
	if had := charged(c.narrow.ID); had == 0 || had > most {
		t.Errorf("want some and at most %d tokens of a limit, got %d", most, had)
	} else {
		t.Logf("a limit with room for %d had %d; %d calls compared", most, had, r.Calls)
	}
}

// agree waits until all books agree but for calls that nobody can know of.
func (c *traffic) agree(t *testing.T, s schedule) (r reconcile.Report) {
	t.Helper()
	wait := "5s"
	if s.losesTwice() { // what is only late is not taken for lost
		wait = "30s"
	}
	var out bytes.Buffer
	agreed := false
	defer func() {
		if !agreed {
			t.Logf("the books: %s", out.String())
		}
	}()
	testenv.Within(t, mends, "the books agree", func() bool {
		out.Reset()
		cmd := exec.CommandContext(t.Context(), c.Bin, "reconcile", "--since", c.since.UTC().Format(time.RFC3339Nano), "--wait", wait, "-o", "json")
		cmd.Env, cmd.Stdout = c.Env, &out
		_ = cmd.Run() // it fails where anything differs
		r = reconcile.Report{}
		agreed = json.Unmarshal(out.Bytes(), &r) == nil && r.Calls > 0 && len(r.Unread) == 0 &&
			!slices.ContainsFunc(r.Findings, func(f reconcile.Finding) bool { return !c.forgotten(s, f) })
		return agreed
	})
	return r
}

// forgotten reports whether a finding is of a call whose line found no room in the spool and whose hold
// Redis lost, too, before it could run out: only the provider has heard of such a call. It is found again
// after the schedules that follow.
func (w *world) forgotten(s schedule, f reconcile.Finding) bool {
	if f.Fault == reconcile.Lost && f.Account == "" && s.losesTwice() {
		w.unknown[f.RequestID] = true
	}
	return w.unknown[f.RequestID]
}

// settles waits until a pool has all that was bought, holds nothing and is as it should be, and tells how
// it stood where it is not.
func (c *traffic) settles(t *testing.T, name string, who *buyer, is func(quota) bool) {
	t.Helper()
	var last answer
	defer func() {
		if t.Failed() {
			holds, err := c.Leaky(context.WithoutCancel(t.Context()), "holds")
			t.Logf("%s bought %d, and last: %s\nheld: %s %v", name, who.bought, last, holds, err)
		}
	}()
	testenv.Within(t, mends, "all that was bought is there, nothing is held, and everything is charged and booked", func() bool {
		var q quota
		last = c.ask(t.Context(), http.MethodGet, pathQuota, who.Account, nil, "")
		return last.status == http.StatusOK && json.Unmarshal([]byte(last.text), &q) == nil &&
			q.TotalTokens == who.bought && q.HeldTokens == 0 && is(q)
	})
}

// tails are the ends of the logs of a stack.
func tails(dir string) string {
	const most = 3000
	var all strings.Builder
	paths, _ := filepath.Glob(filepath.Join(dir, "logs", "*.log")) // the pattern is well formed
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		fmt.Fprintf(&all, "\n== %s\n%s", filepath.Base(path), text[max(0, len(text)-most):])
	}
	return all.String()
}
