package ratelimit_test

import (
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/ratelimit"
)

// overdue makes holds that are overdue as soon as they are taken.
func overdue(c *ratelimit.Config) { c.Longest, c.Holds.Margin = time.Microsecond, 0 }

func release(c *ratelimit.Config) { c.Holds.Expiry = "release" }

func TestSweepCharges(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		options []option
		charged int64
	}{
		"charge":  {[]option{overdue}, 130},
		"release": {[]option{overdue, release}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := start(t, thousand, tc.options...)
			id := uuid.NewString()
			e.ask(t, ask{id: id, user: "u", org: "o", maxTokens: "100", prompt: 120, stream: "true", model: "openai/gpt-4o"})
			for range 2 { // the second finds nothing to do
				if err := e.service.Sweep(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			events := e.events.all()
			if len(events) != 1 {
				t.Fatalf("want one event, got %v", events)
			}
			got := events[0]
			if got.RequestID != id || got.UserID != "u" || got.OrgID != "o" || got.Account != "org:o" || got.Provider != "openai" ||
				got.ModelAsked != "gpt-4o" ||
				got.Held != 130 || got.Charged != tc.charged || got.Input+got.Output != tc.charged || got.Source != usage.FromExpiry ||
				!got.Allowed || !got.Stream ||
				time.Since(got.Timestamp).Abs() > time.Minute {
				t.Errorf("event %+v", got)
			}
			for _, charged := range []int64{5, 7} { // the first one counts
				if s := e.settle(t, "org:o", id, charged); s.GetStatus().String() != "LATE" || s.GetCharged() != 5 ||
					s.GetTakenUs() != got.Timestamp.UnixMicro() {
					t.Errorf("want the settlement late and charged, with the event's time, got %v", s)
				}
			}
		})
	}
}

// TestWhoTookAHoldThatIsGivenBackTellsOfIt, and not the sweeper, whose event would take the place of the one
// that a token service books which stood still after its provider answered. Its charge comes late.
func TestWhoTookAHoldThatIsGivenBackTellsOfIt(t *testing.T) {
	t.Parallel()
	var clock atomic.Int64
	clock.Store(1_790_000_000_000_000)
	e := start(t, thousand, func(c *ratelimit.Config) { c.Now = clock.Load })
	r, err := e.limiter.Hold(t.Context(), &limitpb.HoldRequest{Facts: &limitpb.Facts{RequestId: "a", User: "u", Provider: "openai"},
		InputTokens: 100, LifetimeUs: time.Second.Microseconds(), ReleaseExpired: true})
	if err != nil || !r.GetAdmitted() {
		t.Fatalf("want it held, got %v, %v", r, err)
	}
	clock.Add((2 * time.Second).Microseconds())
	for range 2 { // the second finds nothing to do
		if err := e.service.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if b := e.level(t, "u"); b.GetHeld() != 0 || b.GetLevel() != 0 {
		t.Errorf("want it given back, got %v", b)
	}
	if events := e.events.all(); len(events) != 0 {
		t.Errorf("want no event, got %v", events)
	}
	if s := e.settle(t, "user:u", "a", 100); s.GetStatus() != limitpb.Settled_LATE || s.GetCharged() != 100 {
		t.Errorf("want it charged late, got %v", s)
	}
	if b := e.level(t, "u"); b.GetLevel() != 100 {
		t.Errorf("want the charge in the bucket, got %v", b)
	}
}

func TestSweepPublishesWhatFailedBefore(t *testing.T) {
	t.Parallel()
	e := start(t, thousand, overdue)
	e.ask(t, ask{id: "a", user: "u", maxTokens: "100"})
	e.events.fail(errors.New("no stream"))
	for range 3 {
		if err := e.service.Sweep(t.Context()); err == nil {
			t.Fatal("want the failure told, got none")
		}
	}
	if b := e.level(t, "u"); b.GetHeld() != 0 || b.GetLevel() < 99 || b.GetLevel() > 100 {
		t.Errorf("want the charge in the bucket once, got %v", b)
	}
	e.events.fail(nil)
	if err := e.service.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if events := e.events.all(); len(events) != 1 || events[0].Charged != 100 {
		t.Errorf("want the event once it can be published, got %v", events)
	}
}

// TestDueHoldsWaitForTheirLines: while a meter is behind, or has not been heard of since a hold was
// due, what the call used may still come. It does not wait for ever.
func TestDueHoldsWaitForTheirLines(t *testing.T) {
	t.Parallel()
	var clock atomic.Int64
	clock.Store(1_790_000_000_000_000)
	const life = 11 * time.Minute // Longest and Margin
	e := start(t, thousand, func(c *ratelimit.Config) { c.Now = clock.Load })
	settled := func(meter string, behind time.Duration) {
		t.Helper()
		if _, err := e.limiter.Settle(t.Context(), &limitpb.SettleRequest{Meter: meter, BehindUs: behind.Microseconds()}); err != nil {
			t.Fatal(err)
		}
	}
	sweep := func(want int, when string) {
		t.Helper()
		if err := e.service.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := len(e.events.all()); got != want {
			t.Errorf("%s: want %d holds expired, got %d", when, want, got)
		}
	}
	settled("edge-1", -time.Second)
	settled("edge-2", 0)
	e.ask(t, ask{id: uuid.NewString(), user: "u", maxTokens: "100"})
	clock.Add((life + time.Minute).Microseconds())
	settled("edge-2", 0)
	sweep(0, "one meter is behind")
	settled("edge-1", 2*time.Minute)
	sweep(0, "it has not read what the call may have written")
	settled("edge-1", time.Second)
	sweep(1, "all meters are past it")

	e.ask(t, ask{id: uuid.NewString(), user: "u", maxTokens: "100"})
	clock.Add((life + time.Minute).Microseconds())
	sweep(1, "no meter was heard of since")
	clock.Add(life.Microseconds())
	sweep(2, "it has waited for long enough")
}

// TestSweepSettlesWhileNothingIsPublished: what is held is given back at once, however long
// each event would wait for a stream that is away; the events come later, once each.
func TestSweepSettlesWhileNothingIsPublished(t *testing.T) {
	t.Parallel()
	const holds = 10
	e := start(t, thousand, overdue, release)
	for range holds {
		e.ask(t, ask{id: uuid.NewString(), user: "u", maxTokens: "50"})
	}
	e.events.fail(errors.New("no stream"))
	if err := e.service.Sweep(t.Context()); err == nil {
		t.Error("want the failure told, got none")
	}
	if b := e.level(t, "u"); b.GetHeld() != 0 {
		t.Errorf("want all holds given back, got %v", b)
	}
	if e.events.mu.Lock(); e.events.tried != 3 {
		t.Errorf("want three attempts to publish, got %d", e.events.tried)
	}
	e.events.mu.Unlock()
	e.events.fail(nil)
	for range 2 {
		if err := e.service.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(e.events.all()); n != holds {
		t.Errorf("want an event of each hold, got %d", n)
	}
}

// TestHoldsThatCannotBeFinishedStandInNobodysWay: the events of four are never taken; those of all others
// are, though the four are due first.
func TestHoldsThatCannotBeFinishedStandInNobodysWay(t *testing.T) {
	t.Parallel()
	e := start(t, thousand, overdue, release)
	if err := e.service.Sweep(t.Context()); err != nil { // the next go by when holds are due
		t.Fatal(err)
	}
	e.events.never = map[string]bool{}
	const never, others = 4, 10
	for i := range never + others {
		id := uuid.NewString()
		if i < never {
			e.events.never[id] = true
		}
		e.ask(t, ask{id: id, user: "u", maxTokens: "50"})
	}
	for range 4 {
		if err := e.service.Sweep(t.Context()); err == nil {
			t.Error("want the failures told, got none")
		}
	}
	if n := len(e.events.all()); n != others {
		t.Errorf("want the events of %d others, got %d", others, n)
	}
}

func TestSweepLeavesRunningAndSettledCalls(t *testing.T) {
	t.Parallel()
	e := start(t, thousand)
	e.ask(t, ask{id: "running", user: "u", maxTokens: "100"})
	e.ask(t, ask{id: "settled", user: "u", maxTokens: "100"})
	e.settle(t, "user:u", "settled", 1)
	if err := e.service.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if events := e.events.all(); len(events) != 0 {
		t.Errorf("want no event, got %v", events)
	}
	if s := e.settle(t, "user:u", "running", 1); s.GetStatus().String() != "SETTLED" {
		t.Errorf("want the running call's hold left alone, got %v", s)
	}
}

func TestStreamStoresAnEventOnce(t *testing.T) {
	t.Parallel()
	conn, err := nats.Connect(testenv.NATS(t))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	publisher, err := usage.NewPublisher(conn, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	s, event := ratelimit.NewStream(publisher), usage.Event{RequestID: "id-1", Provider: "openai", Source: usage.FromExpiry, Timestamp: time.Now()}
	for range 2 {
		if err := s.Publish(t.Context(), event); err != nil {
			t.Fatal(err)
		}
	}
	stream, err := js.Stream(t.Context(), usage.Stream)
	if err != nil {
		t.Fatal(err)
	}
	message, err := stream.GetLastMsgForSubject(t.Context(), usage.Subject("openai"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := usage.Decode(message.Data); err != nil || got.RequestID != "id-1" {
		t.Errorf("want the event stored, got %+v, %v", got, err)
	}
	if n := testenv.Messages(t, stream, usage.Subject("openai")); n != 1 {
		t.Errorf("want it stored once, got %d", n)
	}
}
