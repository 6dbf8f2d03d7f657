package demo

import (
	"context"
	"errors"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/local/demo/judge"
	"github.com/leaky-tokens/leaky-tokens/internal/local/supervisor"
)

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
	b.breaks = []Break{{judge.PartRedis, 0, time.Hour}}
	if err := b.run(ctx); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(c.told, ", "); got != "kill redis, stop redis, start redis, wait redis" {
		t.Errorf("got %q", got)
	}
}
