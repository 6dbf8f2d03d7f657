package history_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/xds/history"
)

func connect(t *testing.T, url string) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

func open(t *testing.T) *history.History {
	t.Helper()
	h, err := history.Open(t.Context(), connect(t, testenv.NATS(t)))
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func files(text string) history.Files {
	return history.Files{Main: "leaky.yaml", Texts: map[string]string{"leaky.yaml": text, "limits.yaml": "domain: leaky\n"}}
}

func record(t *testing.T, h *history.History, hash string, state history.State) (history.Version, bool) {
	t.Helper()
	v, news, err := h.Record(t.Context(), history.Version{Hash: hash, State: state, Reason: "because"}, files("text of "+hash))
	if err != nil {
		t.Fatal(err)
	}
	return v, news
}

func TestVersionsAreNumberedAndKept(t *testing.T) {
	t.Parallel()
	h := open(t)
	if err := h.Say(t.Context(), "b", "ada\n", strings.Repeat("x", 1000)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		about, hash string
		state       history.State
		number      int
		news        bool
	}{
		{"the first", "a", history.Taken, 1, true},
		{"the same after a restart", "a", history.Taken, 1, false},
		{"pushed", "b", history.Taken, 2, true},
		{"refused at once", "c", history.Refused, 3, true},
		{"refused again after a restart", "c", history.Refused, 3, false},
		{"what is live, after a restart", "b", history.Taken, 2, false},
		{"back", "a", history.Taken, 4, true},
		{"refused late", "a", history.Refused, 4, true},
	} {
		v, news := record(t, h, c.hash, c.state)
		if v.Number != c.number || news != c.news {
			t.Errorf("%s: want number %d, news %v, got %d, %v", c.about, c.number, c.news, v.Number, news)
		}
	}
	all, err := h.List(t.Context())
	if err != nil || len(all) != 4 {
		t.Fatalf("want four versions, got %v %v", all, err)
	}
	if live, ok := history.Live(all); !ok || live.Number != 2 || live.Who != "ada" || len(live.Why) != 200 {
		t.Errorf("want the pushed one live, with who and a bounded why, got %+v", live)
	}
	got, err := h.Files(t.Context(), all[2])
	if err != nil || got.Texts["leaky.yaml"] != "text of c" || got.Main != "leaky.yaml" {
		t.Errorf("want the files of a version, got %+v %v", got, err)
	}
	if _, err := h.Get(t.Context(), 9); !errors.Is(err, history.ErrUnknown) {
		t.Errorf("want an unknown version told, got %v", err)
	}
}

// TestReplicasGiveEachNumberOnce: several xds record at once.
func TestReplicasGiveEachNumberOnce(t *testing.T) {
	t.Parallel()
	h := open(t)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() { record(t, h, fmt.Sprint("hash-", i), history.Taken) })
	}
	all.Wait()
	versions, err := h.List(t.Context())
	if err != nil || len(versions) != 8 || versions[7].Number != 8 {
		t.Errorf("want the numbers 1 to 8, got %+v %v", versions, err)
	}
}

func TestOldVersionsAreForgotten(t *testing.T) {
	t.Parallel()
	h := open(t)
	for i := range 203 {
		record(t, h, fmt.Sprint("hash-", i), history.Taken)
	}
	all, err := h.List(t.Context())
	if err != nil || len(all) != 200 || all[0].Number != 4 {
		t.Fatalf("want the newest 200, got %d %v", len(all), err)
	}
	if _, err := h.Files(t.Context(), history.Version{Hash: "hash-0"}); !errors.Is(err, history.ErrNoContent) {
		t.Errorf("want old files gone, got %v", err)
	}
}

func TestFilesTooLargeAreLeftOut(t *testing.T) {
	t.Parallel()
	h := open(t)
	noise := make([]byte, 2<<20)
	for i := range noise {
		noise[i] = byte('!' + rand.IntN(90)) // does not compress
	}
	v, _, err := h.Record(t.Context(), history.Version{Hash: "big", State: history.Taken}, files(string(noise)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.Files(t.Context(), v); !errors.Is(err, history.ErrNoContent) {
		t.Errorf("want it told that the files are not kept, got %v", err)
	}
}

// TestRecorderWaitsForNATS: what was published meanwhile is in the history once NATS is back,
// and told as an event.
func TestRecorderWaitsForNATS(t *testing.T) {
	t.Parallel()
	server := testenv.NATSServer(t)
	nc, err := nats.Connect(server.URL(), nats.MaxReconnects(-1), nats.ReconnectWait(10e6))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	server.Stop()
	r, err := history.NewRecorder(history.RecorderConfig{Conn: nc, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); r.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	r.Note(history.Version{Hash: "a", State: history.Taken}, files("x"))
	server.Start()
	other := connect(t, server.URL())
	events, err := other.SubscribeSync(history.Subject)
	if err == nil {
		err = other.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	r.Note(history.Version{State: history.Refused, Reason: "not YAML"}, history.Files{})
	r.Note(history.Version{Hash: "b", State: history.Refused, Reason: "no", Node: "gateway", Type: "Cluster"}, files("y"))
	var event struct {
		Type, Source, Subject string
		Data                  history.Version
	}
	for event.Data.Hash != "b" { // that of the first may have come before there was a subscription
		m, err := events.NextMsgWithContext(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(m.Data, &event); err != nil {
			t.Fatal(err)
		}
	}
	if event.Type != history.EventType || event.Source != "/xds" || event.Subject != "refused" ||
		event.Data.Number != 2 || event.Data.Reason != "no" || event.Data.Node != "gateway" || event.Data.At.IsZero() {
		t.Errorf("want the refusal as an event, got %+v", event)
	}
}
