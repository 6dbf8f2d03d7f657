package meter

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus/testutil"

	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// limit changes the stream as its operator, or its disk, would.
func (r *rig) limit(change func(*jetstream.StreamConfig)) {
	r.t.Helper()
	testenv.Eventually(r.t, "the stream is changed", func() bool { // its server may just have started
		stream, err := usage.EnsureStream(r.t.Context(), r.js)
		if err != nil {
			return false
		}
		cfg := stream.CachedInfo().Config
		change(&cfg)
		_, err = r.js.UpdateStream(r.t.Context(), cfg)
		return err == nil
	})
}

func small(c *jetstream.StreamConfig) { c.MaxMsgSize = 1500 }
func anySize(c *jetstream.StreamConfig) {
	c.MaxMsgSize = -1
}

// tagged writes the line of a call with as many and as long tags as there may be: its event has 2 KB.
func (r *rig) tagged() (id string) {
	r.t.Helper()
	id = uuid.NewString()
	tags := make([]string, usage.MostTags)
	for i := range tags {
		tags[i] = string(rune('a'+i)) + "=" + strings.Repeat("x", usage.LongestLabel)
	}
	long := strings.Repeat("s", usage.LongestLabel)
	write(r.t, r.spool, strings.Replace(spoolLine(id, 10), `"user":"u1"`,
		`"user":"u1","end_user":"`+long+`","session":"`+long+`","tags":"`+strings.Join(tags, "&")+`"`, 1))
	return id
}

// unbookable writes the line of a call whose event is too large in any form.
func (r *rig) unbookable() (id string) {
	r.t.Helper()
	id = uuid.NewString()
	write(r.t, r.spool, strings.Replace(spoolLine(id, 10), `"account":"user:u1"`, `"account":"user:`+strings.Repeat("u", 3000)+`"`, 1))
	return id
}

// kept are the lines beside the spool.
func (r *rig) kept() []string {
	r.t.Helper()
	text, err := os.ReadFile(filepath.Join(filepath.Dir(r.spool), "damaged.jsonl"))
	if err != nil && !os.IsNotExist(err) {
		r.t.Fatal(err)
	}
	return strings.FieldsFunc(string(text), func(c rune) bool { return c == '\n' })
}

// logged is a log that is read while it is written.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) count(what string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), what)
}

// TestAnEventThatNATSNeverTakesHoldsUpNoOther: one call with long tags, and one whose event is too
// large in any form, under a stream of small messages. The first is booked without its tags; the
// second stands beside the spool, is counted and said; all others are stored, and the spool is done.
func TestAnEventThatNATSNeverTakesHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.limit(small)
	said := &logged{}
	r.add(20)
	tagged, refused := r.tagged(), r.unbookable()
	r.add(20)
	m, _ := r.start(func(c *Config) { c.Log = slog.New(slog.NewTextHandler(said, nil)) })
	got := r.events(41)
	if e := got[tagged]; e.Charged != 22 || e.Source != usage.FromProvider || e.Account != "user:u1" || e.Held != 300 || e.ModelAsked != "gpt-4o" ||
		len(e.Tags) != 0 || e.Session != "" || e.EndUser != "" {
		t.Errorf("want the call with all that is booked and without its tags, got %+v", e)
	}
	testenv.Eventually(t, "the checkpoint", r.caughtUp)
	if err := m.Ready(t.Context()); err != nil {
		t.Errorf("want ready, got %v", err)
	}
	lines := r.kept()
	if len(lines) != 1 {
		t.Fatalf("want one event kept, got %q", lines)
	}
	if e, err := usage.Decode([]byte(lines[0])); e.RequestID != refused || e.Charged != 22 {
		t.Errorf("want the whole event kept, got %s, %v", lines[0], err)
	}
	if n := testutil.ToFloat64(m.metrics.kept); n != 1 {
		t.Errorf("want it counted, got %g", n)
	}
	if n := said.count("nats refuses usage events in any form"); n != 1 {
		t.Errorf("want it said once, got %d times", n)
	}
	r.add(5)
	r.events(46)
}

// TestWhatCannotBeKeptWaits: nothing is passed that stands nowhere, and it goes on when the file that is
// full was moved away.
func TestWhatCannotBeKeptWaits(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.limit(small)
	file := filepath.Join(filepath.Dir(r.spool), "damaged.jsonl")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, maxDamage+1); err != nil {
		t.Fatal(err)
	}
	id := r.unbookable()
	m, _ := r.start(nil)
	testenv.Eventually(t, "it is said why nothing goes on", func() bool {
		err := m.Ready(t.Context())
		return err != nil && strings.Contains(err.Error(), errDamageFull.Error())
	})
	if r.caughtUp() {
		t.Error("the checkpoint is behind an event that stands nowhere")
	}
	if err := os.Rename(file, file+".full"); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, "the checkpoint", r.caughtUp)
	if lines := r.kept(); len(lines) != 1 || !strings.Contains(lines[0], id) {
		t.Errorf("want the event kept, got %q", lines)
	}
}

// TestAnOutageKeepsNoEventBeside: a stream that is full or says nothing is waited for, however long,
// and no event is taken for one that NATS never takes.
func TestAnOutageKeepsNoEventBeside(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ begin, end func(*jetstream.StreamConfig) }{
		"stream holds no more messages": {
			func(c *jetstream.StreamConfig) { c.Discard, c.MaxMsgs = jetstream.DiscardNew, 1 },
			func(c *jetstream.StreamConfig) { c.MaxMsgs = -1 }},
		"no message is acknowledged": {
			func(c *jetstream.StreamConfig) { c.NoAck = true }, func(c *jetstream.StreamConfig) { c.NoAck = false }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.limit(tc.begin)
			tagged := r.tagged()
			r.add(10)
			m, _ := r.start(nil)
			testenv.Eventually(t, "two tries", func() bool { return testutil.ToFloat64(m.metrics.retries.WithLabelValues("publish")) >= 2 })
			if err := m.Ready(t.Context()); err == nil {
				t.Error("want not ready")
			}
			if r.caughtUp() || testutil.ToFloat64(m.metrics.kept) != 0 || len(r.kept()) != 0 {
				t.Errorf("want all of it waiting, got %q kept", r.kept())
			}
			r.limit(tc.end)
			if e := r.events(11)[tagged]; len(e.Tags) != usage.MostTags {
				t.Errorf("want the event whole, got %+v", e)
			}
			testenv.Eventually(t, "the checkpoint", r.caughtUp)
		})
	}
}

// TestWhatIsLostMayBeRefusedAgain: NATS loses what it had acknowledged, and comes back with a stream
// that takes no such events: those hold up no other either, and each is kept once.
func TestWhatIsLostMayBeRefusedAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.limit(small)
	restore := r.nats.Snapshot()
	r.limit(anySize)
	m, _ := r.start(func(c *Config) { c.Trail = time.Hour })
	tagged, refused := r.tagged(), r.unbookable()
	r.add(10)
	testenv.Eventually(t, "all settled and stored", func() bool {
		return r.limiter.count(limitpb.Settled_SETTLED) == 12 && m.waiting.Load() == 0 && testutil.ToFloat64(m.metrics.published) >= 12
	})
	if n := len(r.kept()); n != 0 {
		t.Fatalf("want nothing kept, got %d", n)
	}
	for range 2 {
		restore()
		r.add(1)
		testenv.Eventually(t, "what follows is stored", func() bool { return m.waiting.Load() == 0 && testutil.ToFloat64(m.metrics.kept) == 1 })
	}
	got := r.events(13)
	if e, there := got[tagged]; !there || len(e.Tags) != 0 {
		t.Errorf("want the tagged call without tags, got %+v", e)
	}
	if _, there := got[refused]; there {
		t.Error("want what is too large not stored")
	}
	if lines := r.kept(); len(lines) != 1 || !strings.Contains(lines[0], refused) {
		t.Errorf("want it kept once, got %q", lines)
	}
}
