package server_test

import (
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"

	"github.com/leaky-tokens/leaky-tokens/xds/server"
	"github.com/leaky-tokens/leaky-tokens/xds/snapshot"
)

// refusing is an Envoy's opinion on resources of a type: it refuses those named.
func refusing(typeURL string, names ...string) func(*discoveryv3.DeltaDiscoveryResponse) string {
	return func(r *discoveryv3.DeltaDiscoveryResponse) string {
		for _, resource := range r.GetResources() {
			if r.GetTypeUrl() == typeURL && slices.Contains(names, resource.GetName()) {
				return "no such thing as " + resource.GetName()
			}
		}
		return ""
	}
}

// drain collects what an Envoy is told until it is told last. What one answer tells at once (a
// cluster added with one removed) is told word by word.
func drain(t *testing.T, e *fakeEnvoy, last string) (told []string) {
	t.Helper()
	for !slices.Contains(told, last) {
		kind, words, _ := strings.Cut(e.next(t), " ")
		for word := range strings.FieldsSeq(words) {
			told = append(told, kind+" "+word)
		}
	}
	return told
}

func TestARefusedClusterEndsTheChange(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	good := snap(t, "one", "a")
	publish(t, s, good)
	at := serve(t, s)
	picky, other := connect(t, at, "picky"), connect(t, at, "other")
	picky.refuse = refusing(resourcev3.ClusterType, "bad")
	for _, e := range []*fakeEnvoy{picky, other} {
		go e.run()
		e.next(t)
		e.next(t)
	}
	err := s.Publish(t.Context(), snap(t, "two", "bad"), nil)
	refused, ok := errors.AsType[*server.Refused](err)
	if !ok || refused.Node != "picky" || refused.Type != "Cluster" || refused.Reason != "no such thing as bad" {
		t.Fatalf("want the refusal of picky, got %v", err)
	}
	if got := drain(t, picky, "Cluster -bad"); !slices.Equal(got, []string{"Cluster +bad", "Cluster -bad"}) {
		t.Errorf("want no route moved and no cluster taken from who refuses, got %q", got)
	}
	late := connect(t, at, "late")
	go late.run()
	got := []string{late.next(t), late.next(t)}
	slices.Sort(got)
	if want := []string{"Cluster +a", "RouteConfiguration +gateway"}; !slices.Equal(got, want) {
		t.Errorf("want the last good configuration for who comes now, got %q", got)
	}
	// A good change after it goes through.
	publish(t, s, snap(t, "three", "a", "b"))
	if got := []string{picky.next(t), picky.next(t)}; !slices.Equal(got, []string{"Cluster +b", "RouteConfiguration +gateway"}) {
		t.Errorf("want the next change taken, got %q", got)
	}
	// The other one may have heard of the bad cluster before, or not.
	told := drain(t, other, "Cluster +b")
	if slices.Contains(told, "Cluster +bad") && !slices.Contains(told, "Cluster -bad") {
		told = append(told, drain(t, other, "Cluster -bad")...)
	}
	if slices.Contains(told, "Cluster -a") {
		t.Errorf("want no good cluster lost, got %q", told)
	}
}

func TestARefusedRouteTableGoesBackForEverybody(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	publish(t, s, snap(t, "one", "a"))
	at := serve(t, s)
	picky, other := connect(t, at, "picky"), connect(t, at, "other")
	moved := 0
	picky.refuse = func(r *discoveryv3.DeltaDiscoveryResponse) string {
		if r.GetTypeUrl() == resourcev3.RouteType {
			if moved++; moved == 2 {
				return "a route to nowhere"
			}
		}
		return ""
	}
	for _, e := range []*fakeEnvoy{picky, other} {
		go e.run()
		e.next(t)
		e.next(t)
	}
	err := s.Publish(t.Context(), snap(t, "two", "b"), nil)
	if refused, ok := errors.AsType[*server.Refused](err); !ok || refused.Type != "RouteConfiguration" {
		t.Fatalf("want the routes refused, got %v", err)
	}
	told := []string{picky.next(t), picky.next(t), picky.next(t), picky.next(t)}
	if want := []string{"Cluster +b", "RouteConfiguration +gateway", "RouteConfiguration +gateway", "Cluster -b"}; !sameSet(told, want) {
		t.Errorf("want the old routes told again, got %q", told)
	}
	for _, told := range drain(t, other, "Cluster -b") {
		if told == "Cluster -a" {
			t.Errorf("the other Envoy lost a good cluster")
		}
	}
	for _, c := range s.Clients() {
		if c.Refused["RouteConfiguration"].Message != "" && c.Node != "picky" {
			t.Errorf("%s refused nothing", c.Node)
		}
	}
}

func sameSet(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

// TestALateRefusalUndoesTheChange: Envoy asks for a new cluster's secret only after it took
// the cluster, when the change may be over.
func TestALateRefusalUndoesTheChange(t *testing.T) {
	t.Parallel()
	undone := make(chan *server.Refused, 1)
	s, err := server.New(server.Config{Log: slog.New(slog.DiscardHandler), Linger: 50 * time.Millisecond, Probation: time.Hour,
		Undone: func(r *server.Refused) { undone <- r }})
	if err != nil {
		t.Fatal(err)
	}
	publish(t, s, snap(t, "one", "a"))
	e := connect(t, serve(t, s), "picky")
	e.refuse = refusing(resourcev3.SecretType, "bad-key")
	go e.run()
	e.next(t)
	e.next(t)
	publish(t, s, withSecret(t, snap(t, "two", "b"), "bad-key"))
	drain(t, e, "RouteConfiguration +gateway")
	if err := e.subscribe(resourcev3.SecretType, "bad-key"); err != nil {
		t.Fatal(err)
	}
	select {
	case r := <-undone:
		if r.Type != "Secret" || !strings.Contains(r.Reason, "bad-key") {
			t.Errorf("want the secret's refusal, got %v", r)
		}
	case <-time.After(time.Minute):
		t.Fatal("nobody was told")
	}
	drain(t, e, "RouteConfiguration +gateway")
}

func TestASilentEnvoyDelaysNoOther(t *testing.T) {
	t.Parallel()
	s, err := server.New(server.Config{Log: slog.New(slog.DiscardHandler), Patience: time.Hour, Linger: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	publish(t, s, snap(t, "one", "a"))
	at := serve(t, s)
	silent, quick := connect(t, at, "silent"), connect(t, at, "quick")
	go quick.run()
	quick.next(t)
	quick.next(t)
	if _, err := silent.stream.Recv(); err != nil { // takes its configuration and never answers
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Publish(t.Context(), snap(t, "two", "b"), nil) }()
	// The quick one goes all the way although the silent one has an hour to answer.
	drain(t, quick, "RouteConfiguration +gateway")
	select {
	case err := <-done:
		t.Errorf("the change is over without the silent Envoy: %v", err)
	default:
	}
}

func TestWhoIsSilentForLongIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	s, err := server.New(server.Config{Log: slog.New(slog.DiscardHandler), Patience: 10 * time.Millisecond, Linger: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	publish(t, s, snap(t, "one", "a"))
	at := serve(t, s)
	silent := connect(t, at, "silent")
	if _, err := silent.stream.Recv(); err != nil {
		t.Fatal(err)
	}
	for _, table := range []string{"two", "three", "four"} { // the first waits its 10 ms, none for ever
		publish(t, s, snap(t, table, "a"))
	}
	if c := s.Clients(); len(c) != 1 || c[0].Unanswered == 0 {
		t.Errorf("want the unanswered push shown, got %+v", c)
	}
}

func withSecret(t *testing.T, of *snapshot.Snapshot, name string) *snapshot.Snapshot {
	t.Helper()
	r := map[string]snapshot.Resources{}
	for kind, resources := range of.Resources {
		r[kind] = resources
	}
	r[resourcev3.SecretType] = snapshot.Resources{name: secret(name)}
	s, err := snapshot.New(r)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestASilentEnvoyDelaysNoLaterChange: the first change still waits for the silent Envoy when
// the second comes, which goes to the others at once.
func TestASilentEnvoyDelaysNoLaterChange(t *testing.T) {
	t.Parallel()
	s, err := server.New(server.Config{Log: slog.New(slog.DiscardHandler), Patience: time.Hour, Linger: time.Millisecond, Grace: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	publish(t, s, snap(t, "one", "a"))
	at := serve(t, s)
	silent, quick := connect(t, at, "silent"), connect(t, at, "quick")
	go quick.run()
	quick.next(t)
	quick.next(t)
	if _, err := silent.stream.Recv(); err != nil {
		t.Fatal(err)
	}
	newer, first := make(chan struct{}), make(chan error, 1)
	go func() { first <- s.Publish(t.Context(), snap(t, "two", "b"), newer) }()
	drain(t, quick, "RouteConfiguration +gateway")
	close(newer)
	go func() { _ = s.Publish(t.Context(), snap(t, "three", "c"), nil) }() // has an hour for the silent one
	if err := <-first; err != nil {
		t.Errorf("want the first change over and not refused, got %v", err)
	}
	for _, told := range drain(t, quick, "RouteConfiguration +gateway") {
		if strings.Contains(told, "Cluster") && strings.Contains(told, "-b") {
			t.Errorf("want the clusters of the change before kept until the routes moved, got %q", told)
		}
	}
}

// TestTheFirstEnvoyDecides: a change that nobody was there to take is undone when the first
// Envoy that comes refuses it, however late that is; once one has taken it, it stays.
func TestTheFirstEnvoyDecides(t *testing.T) {
	t.Parallel()
	undone, proven := make(chan *server.Refused, 1), make(chan string, 10)
	s, err := server.New(server.Config{Log: slog.New(slog.DiscardHandler), Linger: time.Millisecond, Probation: time.Nanosecond,
		Undone: func(r *server.Refused) { undone <- r }, Proven: func(version string) { proven <- version }})
	if err != nil {
		t.Fatal(err)
	}
	good := snap(t, "one", "a")
	publish(t, s, good)
	publish(t, s, snap(t, "two", "bad"))
	at := serve(t, s)
	first := connect(t, at, "first")
	first.refuse = refusing(resourcev3.ClusterType, "bad")
	go first.run()
	if r := <-undone; r.Node != "first" || r.Type != "Cluster" {
		t.Errorf("want the refusal of the first Envoy, got %v", r)
	}
	if got := <-proven; got != good.Version {
		t.Errorf("want the configuration before proven by the first Envoy, got %s", got)
	}
	other := connect(t, at, "other")
	other.refuse = refusing(resourcev3.ClusterType, "a")
	go other.run()
	for other.next(t) != "Cluster +a" {
	}
	publish(t, s, snap(t, "three", "a", "b"))
	got := drain(t, first, "Cluster +b")
	// Before its refusal was undone, the first may have been told to drop the cluster: that counts not.
	undoing := slices.IndexFunc(got, func(told string) bool { return strings.Contains(told, "-bad") })
	if slices.Contains(got[undoing+1:], "Cluster -a") {
		t.Errorf("want what a newcomer refuses kept for the others, got %q", got)
	}
}

// TestAnOldRefusalEndsNoNewerChange: who was left behind refuses a version of the change before.
func TestAnOldRefusalEndsNoNewerChange(t *testing.T) {
	t.Parallel()
	s, err := server.New(server.Config{Log: slog.New(slog.DiscardHandler), Patience: time.Minute, Linger: time.Millisecond, Grace: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	publish(t, s, snap(t, "one", "a"))
	slow := connect(t, serve(t, s), "slow")
	hold, held := make(chan struct{}), make(chan struct{})
	slow.refuse = func(r *discoveryv3.DeltaDiscoveryResponse) string {
		reason := refusing(resourcev3.ClusterType, "bad")(r)
		if reason != "" {
			close(held)
			<-hold
		}
		return reason
	}
	go slow.run()
	slow.next(t)
	slow.next(t)
	newer, first := make(chan struct{}), make(chan error, 1)
	go func() { first <- s.Publish(t.Context(), snap(t, "two", "bad"), newer) }()
	<-held
	close(newer)
	if err := <-first; err != nil {
		t.Fatalf("want the first change left behind, got %v", err)
	}
	second := make(chan error, 1)
	go func() { second <- s.Publish(t.Context(), snap(t, "three", "mended"), nil) }()
	close(hold)
	if err := <-second; err != nil {
		t.Errorf("want the mended configuration taken, got %v", err)
	}
}
