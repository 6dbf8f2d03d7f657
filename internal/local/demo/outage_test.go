package demo

import (
	"context"
	"errors"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/local/supervisor"
)

// away is the honest demo with Redis away from 0.5 s to 1.5 s: its second call, of 100
// tokens, was admitted meanwhile.
func away(mode config.OutageMode) Evidence {
	e := honest()
	e.Targets[0].Outage, e.Targets[0].StreamOutage = mode, mode
	e.Outages = []Outage{{Part: PartRedis, Begun: 400 * time.Millisecond, Dead: 500 * time.Millisecond, Counted: 600 * time.Millisecond,
		Started: 1400 * time.Millisecond, Back: 2500 * time.Millisecond, Leased: 100}}
	e.Calls[1].Blind, e.Calls[1].Held = string(mode), 100
	return e
}

func TestJudgeOutages(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		mode   config.OutageMode
		spoil  func(*Evidence)
		reason string // empty: OK
		bound  int64  // -1: none
	}{
		"closed holds": {config.OutageClosed, func(e *Evidence) { e.Calls[1].Blind = "" }, "", 0},
		"closed lets one through that says so": {config.OutageClosed, func(*Evidence) {},
			"1 call of 100 tokens admitted in mode closed, and 0 is the bound", 0},
		"closed lets one through that says nothing": {config.OutageClosed, func(e *Evidence) {
			e.Calls[1].Blind, e.Calls[1].Answered = "", e.Outages[0].Started
		}, "admitted in mode closed", 0},
		"no mode is closed":   {"", func(e *Evidence) { e.Calls[1].Blind = "closed" }, "admitted in mode closed", 0},
		"lease within bounds": {config.OutageLease, func(*Evidence) {}, "", 100},
		"lease overspent": {config.OutageLease, func(e *Evidence) { e.Outages[0].Leased = 99 },
			"of 100 tokens admitted in mode lease, and 99 is the bound", 99},
		"lease spent before the limiters were asked": {config.OutageLease, func(e *Evidence) {
			e.Outages[0].Leased, e.Outages[0].Counted = 0, 1200*time.Millisecond
		}, "", 100},
		"lease overspent after Redis is back": {config.OutageLease, func(e *Evidence) {
			e.Outages[0].Leased = 99
			e.Calls[1].Sent, e.Calls[1].Answered = 2600*time.Millisecond, 2700*time.Millisecond
		}, "and 99 is the bound", 99},
		"lease with a limiter that did not answer": {config.OutageLease, func(e *Evidence) { e.Outages[0].Counted = 0 }, "", -1},
		"open admits": {config.OutageOpen, func(*Evidence) {}, "", -1},
		"open may go over the limit": {config.OutageOpen, func(e *Evidence) {
			e.Limits[Pair{0, "openai"}] = Limit{Capacity: 40,
				Leak: 1}
		}, "", -1},
		"lease may not": {config.OutageLease, func(e *Evidence) {
			e.Limits[Pair{0, "openai"}] = Limit{Capacity: 40,
				Leak: 1}
		}, "over the limit", 100},
		"a call that was not written down": {config.OutageOpen, func(e *Evidence) { e.Adopted = map[string]int{"failed": 1} },
			"1 call of an outage", -1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := away(test.mode)
			test.spoil(&e)
			v := Judge(e)
			if got := strings.Join(v.Reasons, "\n"); v.OK != (test.reason == "") || !strings.Contains(got, test.reason) {
				t.Errorf("want reason %q, got OK %v %q", test.reason, v.OK, got)
			}
			if len(v.Outages) != 1 || len(v.Outages[0].Modes) != 1 {
				t.Fatalf("want one mode of one outage, got %+v", v.Outages)
			}
			bound := v.Outages[0].Modes[0].Bound
			if (test.bound < 0) != (bound == nil) || bound != nil && *bound != test.bound {
				t.Errorf("want bound %d, got %v", test.bound, bound)
			}
			var text strings.Builder
			if err := v.Print(&text); err != nil || !strings.Contains(text.String(), "redis was killed after 0.4 s") {
				t.Errorf("printing: %v\n%s", err, text.String())
			}
		})
	}
}

// A hold that Redis took in its last moment is no fault; one at any other time is.
func TestJudgeHoldsOfADyingRedis(t *testing.T) {
	t.Parallel()
	for name, sent := range map[string]time.Duration{"open": 3 * time.Second, "": 0} {
		e := away(config.OutageOpen)
		e.Calls[0] = Call{Provider: "openai", ID: id1, Outcome: Failed, Status: 503, Sent: sent, Answered: sent + time.Second}
		delete(e.Served, id1)
		delete(e.Events, id1)
		e.Totals = nil
		e.Charges[id1] = Charge{State: Held, Held: 30}
		if v := Judge(e); v.OK != (name == "") || !strings.Contains(strings.Join(v.Reasons, " "), name) {
			t.Errorf("call sent at %v: got OK %v %v", sent, v.OK, v.Reasons)
		}
	}
}

// What passed while every limiter was away is in all books but the buckets.
func TestJudgeCallsThatNoLimiterSaw(t *testing.T) {
	t.Parallel()
	for _, mode := range []config.OutageMode{config.OutageOpen, config.OutageClosed} {
		e := away(mode)
		e.Outages[0].Part = "ratelimit-2"
		e.Calls[1].Blind, e.Calls[1].Held = "", 0
		e.Charges[id2] = Charge{State: Unknown}
		if v := Judge(e); v.OK != (mode == config.OutageOpen) {
			t.Errorf("%s: got OK %v %v", mode, v.OK, v.Reasons)
		}
	}
}

func TestJudgeLeasesAreNoStrangers(t *testing.T) {
	t.Parallel()
	e := honest()
	e.Limits[Pair{0, "openai"}] = Limit{Capacity: 1000, Leak: 10, Held: 400}
	if v := Judge(e); v.OK {
		t.Error("400 tokens are held for nobody, and the demo is content")
	}
	e.Leases = map[int]float64{0: 400}
	if v := Judge(e); !v.OK {
		t.Errorf("leased tokens are no fault: %v", v.Reasons)
	}
}

func TestBreakText(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Break{
		"redis@10s":            {"redis", 10 * time.Second, 0},
		"ratelimit-2@1m+500ms": {"ratelimit-2", time.Minute, 500 * time.Millisecond},
		"redis":                {}, "redis@": {}, "@3s": {}, "redis@3": {}, "redis@3s+": {}, "redis@-3s": {}, "redis@3s+-1s": {}, "": {},
	} {
		var got Break
		err := got.UnmarshalText([]byte(text))
		if (err != nil) != (want == Break{}) || err == nil && got != want {
			t.Errorf("%q: want %+v, got %+v, %v", text, want, got, err)
		}
	}
}

func TestSamples(t *testing.T) {
	t.Parallel()
	got := map[string]float64{}
	err := samples(strings.NewReader("# HELP a b\n# TYPE a gauge\na 3\nb{x=\"1 2\",y=\"z\"} 4.5e+01\n\nnonsense\nc NaNs\n"),
		func(name, labels string, value float64) {
			got[name+"|"+labels] = value
		})
	if want := map[string]float64{"a|": 3, `b|x="1 2",y="z"`: 45}; err != nil || !maps.Equal(got, want) {
		t.Errorf("want %v, got %v, %v", want, got, err)
	}
}

// control is a supervisor that remembers what it was told.
type control struct {
	mu   sync.Mutex
	told []string
	fail string
}

func (c *control) tell(what string) (supervisor.Status, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.told = append(c.told, what)
	if what == c.fail {
		return supervisor.Status{}, errors.New("no such part")
	}
	return supervisor.Status{}, nil
}

func (c *control) Kill(_ context.Context, p string) (supervisor.Status, error) {
	return c.tell("kill " + p)
}
func (c *control) Stop(_ context.Context, p string) (supervisor.Status, error) {
	return c.tell("stop " + p)
}
func (c *control) Start(_ context.Context, p string) (supervisor.Status, error) {
	return c.tell("start " + p)
}
func (c *control) WaitReady(_ context.Context, p string) (supervisor.Status, error) {
	return c.tell("wait " + p)
}

func TestBreaker(t *testing.T) {
	t.Parallel()
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for name, test := range map[string]struct {
		ctx   context.Context //nolint:containedctx // a row of a table
		one   Break
		fail  string
		told  string
		count int
	}{
		"down for a while":   {t.Context(), Break{"redis", 0, time.Millisecond}, "", "kill redis, stop redis, start redis, wait redis", 1},
		"back at once":       {t.Context(), Break{"redis", 0, 0}, "", "kill redis, wait redis", 1},
		"no such part":       {t.Context(), Break{"reddis", 0, 0}, "kill reddis", "kill reddis", 0},
		"interrupted before": {gone, Break{"redis", time.Hour, 0}, "", "", 0},
		"interrupted":        {gone, Break{"redis", 0, time.Hour}, "", "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := &control{fail: test.fail}
			b := &breaker{control: c, breaks: []Break{test.one}, start: time.Now(), leased: func(context.Context) (float64, error) { return 7, nil }}
			err := b.run(test.ctx)
			if got := strings.Join(c.told, ", "); got != test.told || (err != nil) != (test.fail != "") || len(b.outages) != test.count {
				t.Errorf("want %q and %d outages, got %q, %v and %d", test.told, test.count, got, err, len(b.outages))
			}
			if len(b.missing()) > 0 {
				t.Errorf("still marked as down: %v", b.missing())
			}
			for _, o := range b.outages {
				if o.Dead < o.Begun || o.Started < o.Dead || o.Back < o.Started || test.one.Down > 0 && (o.Leased != 7 || o.Counted == 0) {
					t.Errorf("got %+v", o)
				}
			}
		})
	}
}

// A part that was stopped is started again, also when the demo is interrupted meanwhile.
func TestBreakerStartsAgain(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	c := &control{}
	b := &breaker{control: c, start: time.Now(), leased: func(context.Context) (float64, error) { cancel(); return 0, nil }}
	b.breaks = []Break{{PartRedis, 0, time.Hour}}
	if err := b.run(ctx); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(c.told, ", "); got != "kill redis, stop redis, start redis, wait redis" {
		t.Errorf("got %q", got)
	}
}
