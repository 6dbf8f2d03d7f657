package usage_test

import (
	"bytes"
	"log/slog"
	"maps"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// limited gives a publisher to a stream that was changed as by its operator, and how to change it.
func limited(t *testing.T) (publisher *usage.Publisher, said *bytes.Buffer, js jetstream.JetStream, limit func(func(*jetstream.StreamConfig))) {
	t.Helper()
	nc, err := nats.Connect(testenv.NATS(t), nats.ReconnectBufSize(-1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	if js, err = jetstream.New(nc); err != nil {
		t.Fatal(err)
	}
	stream, err := usage.EnsureStream(t.Context(), js)
	if err != nil {
		t.Fatal(err)
	}
	said = &bytes.Buffer{} // Publish writes it, on the test's goroutine
	if publisher, err = usage.NewPublisher(nc, slog.New(slog.NewTextHandler(said, nil))); err != nil {
		t.Fatal(err)
	}
	cfg := stream.CachedInfo().Config
	return publisher, said, js, func(change func(*jetstream.StreamConfig)) {
		t.Helper()
		change(&cfg)
		if _, err := js.UpdateStream(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
	}
}

// storedEvents are the usage events of the stream by their ids.
func storedEvents(t *testing.T, js jetstream.JetStream) map[string]usage.Event {
	t.Helper()
	stream, err := js.Stream(t.Context(), usage.Stream)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]usage.Event{}
	for seq := uint64(1); seq <= stream.CachedInfo().State.LastSeq; seq++ {
		m, err := stream.GetMsg(t.Context(), seq)
		if err != nil || m.Subject == usage.SubjectProbe {
			continue // a probe's, taken out again
		}
		e, err := usage.Decode(m.Data)
		if err != nil {
			t.Fatal(err)
		}
		got[e.RequestID] = e
	}
	return got
}

// messageOf is event() of another id, changed.
func messageOf(t *testing.T, id string, change func(*usage.Event)) (usage.Event, usage.Message) {
	t.Helper()
	e := event()
	e.RequestID = id
	if change != nil {
		change(&e)
	}
	m, err := usage.MessageOf(e, "/meter", "c-1", "")
	if err != nil {
		t.Fatal(err)
	}
	return e, m
}

func longTags(e *usage.Event) {
	e.Tags = map[string]string{}
	for i := range usage.MostTags {
		e.Tags["t"+strconv.Itoa(i)] = strings.Repeat("x", usage.LongestLabel)
	}
	e.Session, e.EndUser = strings.Repeat("s", usage.LongestLabel), strings.Repeat("e", usage.LongestLabel)
	e.ModelServed = strings.Repeat("m", 500)
}

// TestPoisonHoldsUpNoOther: events that JetStream refuses for their size, or the client, or that no
// stream would take, stand before the others. Those that are too large are stored without what made
// them so and with all that is booked; the rest is told by message.
func TestPoisonHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	publisher, said, js, limit := limited(t)
	limit(func(c *jetstream.StreamConfig) { c.MaxMsgSize = 2048 })
	want := map[string]usage.Event{}
	var messages []usage.Message
	add := func(id string, change func(*usage.Event), stands func(*usage.Event)) {
		t.Helper()
		e, m := messageOf(t, id, change)
		messages = append(messages, m)
		if stands != nil {
			stands(&e)
			want[id] = e
		}
	}
	leaner := func(e *usage.Event) { e.Tags, e.Session, e.EndUser, e.ModelServed = nil, "", "", "" }
	add("tags", longTags, leaner)
	add("larger than the server takes", func(e *usage.Event) { longTags(e); e.Session = strings.Repeat("s", 2<<20) }, leaner)
	add("an account of 3 KB", func(e *usage.Event) { e.Account = strings.Repeat("a", 3000) }, nil)
	add("no subject's", nil, nil)
	messages[len(messages)-1].Subject = "leaky.usage.v2.a b"
	for i := range 50 {
		add(strconv.Itoa(i), nil, func(*usage.Event) {})
	}
	rest, err := publisher.Publish(t.Context(), messages)
	if err == nil || len(rest) != 2 {
		t.Fatalf("want two that are not stored, got %+v, %v", rest, err)
	}
	for _, u := range rest {
		if !u.Poison || u.Err == nil || u.Message.ID != "an account of 3 KB" && u.Message.ID != "no subject's" {
			t.Errorf("want it told as poison, got %s: %t, %v", u.Message.ID, u.Poison, u.Err)
		}
		if i := map[string]int{"an account of 3 KB": 2, "no subject's": 3}[u.Message.ID]; !bytes.Equal(u.Message.Data, messages[i].Data) {
			t.Errorf("%s: want the whole of it back, got %s", u.Message.ID, u.Message.Data)
		}
	}
	if diff := cmp.Diff(want, storedEvents(t, js)); diff != "" {
		t.Errorf("stored (-want +got):\n%s", diff)
	}
	if n := strings.Count(said.String(), "is stored without tags"); n != 1 {
		t.Errorf("want it said once, got %d times:\n%s", n, said)
	}
}

// TestASubjectOfNoStream is poison only once the stream was looked at.
func TestASubjectOfNoStream(t *testing.T) {
	t.Parallel()
	publisher, _, _, _ := limited(t)
	_, lost := messageOf(t, "lost", nil)
	lost.Subject = usage.Subject("a.b")
	if _, err := publisher.Publish(t.Context(), nil); err != nil { // finds the stream
		t.Fatal(err)
	}
	for i, want := range []bool{false, true} {
		rest, err := publisher.Publish(t.Context(), []usage.Message{lost})
		if err == nil || len(rest) != 1 || rest[0].Poison != want {
			t.Fatalf("try %d: want poison %t, got %+v, %v", i, want, rest, err)
		}
	}
}

// TestAnOutageIsNoPoison: the stream is there and says no, or nothing, for reasons of its own. What it
// has not stored is given back whole, and is stored when that is over.
func TestAnOutageIsNoPoison(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ begin, end func(*jetstream.StreamConfig) }{
		"stream holds no more messages": {
			func(c *jetstream.StreamConfig) { c.Discard, c.MaxMsgs = jetstream.DiscardNew, 1 },
			func(c *jetstream.StreamConfig) { c.MaxMsgs = -1 }},
		"stream holds no more bytes": {
			func(c *jetstream.StreamConfig) { c.Discard, c.MaxBytes = jetstream.DiscardNew, 2000 },
			func(c *jetstream.StreamConfig) { c.MaxBytes = -1 }},
		"no message is acknowledged": {
			func(c *jetstream.StreamConfig) { c.NoAck = true }, func(c *jetstream.StreamConfig) { c.NoAck = false }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			publisher, _, js, limit := limited(t)
			limit(tc.begin)
			want := map[string]usage.Event{}
			var messages []usage.Message
			for i := range 4 {
				e, m := messageOf(t, strconv.Itoa(i), longTags)
				messages, want[e.RequestID] = append(messages, m), e
			}
			for range 2 {
				rest, err := publisher.Publish(t.Context(), messages)
				if err == nil || len(rest) == 0 {
					t.Fatalf("want an outage, got %d, %v", len(rest), err)
				}
				messages = nil
				for _, u := range rest {
					if u.Poison {
						t.Errorf("want it held against no event, got %v", u.Err)
					}
					messages = append(messages, u.Message)
				}
			}
			limit(tc.end)
			if rest, err := publisher.Publish(t.Context(), messages); err != nil {
				t.Fatalf("want all stored once it is over, got %d left, %v", len(rest), err)
			}
			got := storedEvents(t, js)
			if !maps.EqualFunc(want, got, func(a, b usage.Event) bool { return cmp.Equal(a, b) }) {
				t.Errorf("stored (-want +got):\n%s", cmp.Diff(want, got))
			}
		})
	}
}
