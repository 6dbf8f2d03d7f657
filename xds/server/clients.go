package server

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	serverv3 "github.com/envoyproxy/go-control-plane/pkg/server/v3"

	"github.com/leaky-tokens/leaky-tokens/xds/snapshot"
)

// Client is one connected Envoy.
type Client struct {
	Node         string            `json:"node"`
	Build        string            `json:"build"` // Envoy's version
	Since        time.Time         `json:"since"`
	Acknowledged map[string]string `json:"acknowledged"` // version by type
	Refused      map[string]Nack   `json:"refused,omitempty"`
	Unanswered   int               `json:"unanswered"` // pushes that it has not answered
}

// Nack is a version that an Envoy refused; it runs the one before.
type Nack struct {
	Version string    `json:"version"`
	Message string    `json:"message"`
	At      time.Time `json:"at"`

	serial int64 // grows with every refusal of any Envoy
}

// clients keeps what each stream was sent and has answered.
type clients struct {
	log     *slog.Logger
	metrics *metrics
	join    func(node string) // a node asks, after here knows it
	// leave hears that a stream of a node has ended, and asks at the moment in which it forgets the node
	// whether another one is here: an Envoy may come back while its old stream ends.
	leave func(node string, here func(node string) bool)

	mu       sync.Mutex
	streams  map[int64]*stream
	refusals int64 // serial of the last one
	// events are closed at the next event of a node, or of any node, which is "". Each of many Envoys is
	// waited for alone: looking at all resources for one at every event of the others would be most of
	// the work of a change.
	events map[string]chan struct{}
}

type stream struct {
	Client
	sent map[string]sent          // by nonce
	subs map[string]*subscription // by type URL
}

type sent struct {
	typeURL, version string
	at               time.Time
}

// subscription is what a stream takes of one type, and what it was sent of it.
type subscription struct {
	wildcard bool
	names    map[string]bool
	has      map[string]string // version by name
}

func newClients(log *slog.Logger, m *metrics) *clients {
	return &clients{log: log, metrics: m, streams: map[int64]*stream{}, events: map[string]chan struct{}{}}
}

func (c *clients) callbacks() serverv3.Callbacks {
	return serverv3.CallbackFuncs{
		DeltaStreamOpenFunc: func(_ context.Context, id int64, _ string) error {
			c.with(id, func() {
				c.streams[id] = &stream{Client: Client{Since: time.Now().UTC(), Acknowledged: map[string]string{}, Refused: map[string]Nack{}},
					sent: map[string]sent{}, subs: map[string]*subscription{}}
			})
			return nil
		},
		DeltaStreamClosedFunc: func(id int64, _ *corev3.Node) { c.closed(id) },
		StreamDeltaRequestFunc: func(id int64, r *discoveryv3.DeltaDiscoveryRequest) error {
			c.with(id, func() { c.asked(c.streams[id], r) })
			if r.GetNode() != nil {
				c.join(nodeKey(r.GetNode()))
			}
			return nil
		},
		StreamRequestFunc: func(_ int64, r *discoveryv3.DiscoveryRequest) error { return c.askedWhole(r) },
		StreamDeltaResponseFunc: func(id int64, _ *discoveryv3.DeltaDiscoveryRequest, r *discoveryv3.DeltaDiscoveryResponse) {
			c.with(id, func() { c.sending(c.streams[id], r) })
		},
	}
}

// with runs f, which is about a stream, under the lock and wakes who waits for its node or for any.
func (c *clients) with(id int64, f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.streams[id]
	f()
	c.metrics.clients.Set(float64(len(c.streams)))
	if s == nil {
		s = c.streams[id]
	}
	c.wake("")
	if s != nil && s.Node != "" {
		c.wake(s.Node)
	}
}

func (c *clients) wake(node string) {
	if waiting := c.events[node]; waiting != nil {
		close(waiting)
		delete(c.events, node)
	}
}

func (c *clients) closed(id int64) {
	var gone string
	c.with(id, func() {
		if s := c.streams[id]; s != nil {
			gone = s.Node
			delete(c.streams, id)
		}
	})
	if gone != "" {
		c.leave(gone, c.here)
	}
}

// here reports whether a stream of the node has asked for something.
func (c *clients) here(node string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.streams {
		if s.Node == node {
			return true
		}
	}
	return false
}

// sending notes what a response holds before it goes out.
func (c *clients) sending(s *stream, r *discoveryv3.DeltaDiscoveryResponse) {
	if s == nil {
		return
	}
	s.sent[r.GetNonce()] = sent{r.GetTypeUrl(), r.GetSystemVersionInfo(), time.Now()}
	sub := s.subs[r.GetTypeUrl()]
	if sub == nil {
		return
	}
	for _, added := range r.GetResources() {
		sub.has[added.GetName()] = added.GetVersion()
	}
	for _, name := range r.GetRemovedResources() {
		delete(sub.has, name)
	}
}

// asked reads a request: a subscription, an answer to a response, or both.
func (c *clients) asked(s *stream, r *discoveryv3.DeltaDiscoveryRequest) {
	if s == nil {
		return
	}
	if node := r.GetNode(); node != nil {
		s.Node = nodeKey(node)
		if v := node.GetUserAgentBuildVersion().GetVersion(); v != nil {
			s.Build = fmt.Sprintf("%d.%d.%d", v.GetMajorNumber(), v.GetMinorNumber(), v.GetPatch())
		}
	}
	s.subscribe(r)
	answer, ok := s.sent[r.GetResponseNonce()]
	if !ok {
		return
	}
	delete(s.sent, r.GetResponseNonce())
	kind := snapshot.ShortType(answer.typeURL)
	if e := r.GetErrorDetail(); e != nil {
		c.metrics.answers.WithLabelValues(kind, "nack").Inc()
		c.refusals++
		s.Refused[kind] = Nack{Version: answer.version, Message: e.GetMessage(), At: time.Now().UTC(), serial: c.refusals}
		c.log.LogAttrs(context.Background(), slog.LevelError, "envoy refused a configuration and keeps the last good one",
			slog.String("node", s.Node),
			slog.String("type", kind), slog.String("version", answer.version), slog.String("reason", e.GetMessage()))
		return
	}
	c.metrics.answers.WithLabelValues(kind, "ack").Inc()
	s.Acknowledged[kind] = answer.version
	delete(s.Refused, kind)
}

// subscribe follows the subscription part of a request. The first of a type without names
// takes everything (xDS protocol, "wildcard subscriptions").
func (s *stream) subscribe(r *discoveryv3.DeltaDiscoveryRequest) {
	sub := s.subs[r.GetTypeUrl()]
	if sub == nil {
		sub = &subscription{names: map[string]bool{}, has: maps.Clone(r.GetInitialResourceVersions()),
			wildcard: len(r.GetResourceNamesSubscribe()) == 0}
		if sub.has == nil {
			sub.has = map[string]string{}
		}
		s.subs[r.GetTypeUrl()] = sub
	}
	for _, name := range r.GetResourceNamesSubscribe() {
		sub.names[name] = true
		sub.wildcard = sub.wildcard || name == "*"
	}
	for _, name := range r.GetResourceNamesUnsubscribe() {
		delete(sub.names, name)
		if name == "*" {
			sub.wildcard = false
		}
		if !sub.wildcard {
			delete(sub.has, name)
		}
	}
}

// settled reports whether the stream was sent all that it takes of a type's resources,
// given as version by name.
func (s *subscription) settled(want map[string]string) bool {
	for name, version := range want {
		if (s.wildcard || s.names[name]) && s.has[name] != version {
			return false
		}
	}
	for name := range s.has {
		if _, ok := want[name]; !ok {
			return false
		}
	}
	return true
}

// serial is that of the last refusal so far.
func (c *clients) serial() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.refusals
}

// wait returns once every stream of a node was sent what it takes of the snapshot and has
// answered: nil, or the refusal of a piece of it that came after since. A node that is gone
// needs nothing.
func (c *clients) wait(ctx context.Context, node string, want *snapshot.Snapshot, since int64) (*Refused, error) {
	for {
		changed := c.event(node)
		refused, done := c.standing(node, want, since)
		if refused != nil || done {
			return refused, nil
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-changed:
		}
	}
}

// event is closed at the next one of a node, or of any, which is "".
func (c *clients) event(node string) <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.events[node] == nil {
		c.events[node] = make(chan struct{})
	}
	return c.events[node]
}

func (c *clients) standing(node string, want *snapshot.Snapshot, since int64) (refused *Refused, done bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	done = true
	for _, s := range c.streams {
		if s.Node != node {
			continue
		}
		for _, t := range snapshot.Types() {
			// A version of an earlier change may be refused only now.
			if n, ok := s.Refused[snapshot.ShortType(t)]; ok && n.serial > since && n.Version == want.TypeVersion(t) {
				return &Refused{Node: node, Type: snapshot.ShortType(t), Version: n.Version, Reason: n.Message}, false
			}
		}
		done = done && s.settled(want)
	}
	return nil, done
}

// settled reports whether the stream was sent all that it takes and owes no answer.
func (s *stream) settled(want *snapshot.Snapshot) bool {
	if len(s.sent) > 0 {
		return false
	}
	for typeURL, sub := range s.subs {
		if !sub.settled(want.ResourceVersions(typeURL)) {
			return false
		}
	}
	return true
}

// runs reports whether a stream of the node has taken the whole snapshot, the routes with it,
// which an Envoy asks for last.
func (c *clients) runs(node string, want *snapshot.Snapshot) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.streams {
		routes := s.subs[resourcev3.RouteType]
		if s.Node == node && want != nil && len(s.Refused) == 0 && routes != nil && len(routes.has) > 0 && s.settled(want) {
			return true
		}
	}
	return false
}

// refusalAfter is the first refusal after the serial seen, with its own; nil: there is none.
func (c *clients) refusalAfter(seen int64) (found *Refused, serial int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	serial = math.MaxInt64
	for _, s := range c.streams {
		for kind, n := range s.Refused {
			if n.serial > seen && n.serial < serial {
				found, serial = &Refused{Node: s.Node, Type: kind, Version: n.Version, Reason: n.Message}, n.serial
			}
		}
	}
	return found, serial
}

// silent are the nodes that have owed an answer for longer than patience.
func (c *clients) silent(patience time.Duration) map[string]bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	found := map[string]bool{}
	for _, s := range c.streams {
		for _, owed := range s.sent {
			if time.Since(owed.at) > patience {
				found[s.Node] = true
			}
		}
	}
	return found
}

// list is who is connected, given what each node is served. An Envoy that connects anew says what it
// has: what it is served of that is not sent again, and is acknowledged all the same.
func (c *clients) list(served map[string]*snapshot.Snapshot) []Client {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := []Client{}
	for _, s := range c.streams {
		one := s.Client
		one.Acknowledged, one.Refused, one.Unanswered = maps.Clone(s.Acknowledged), maps.Clone(s.Refused), len(s.sent)
		if snap := served[s.Node]; snap != nil && len(s.sent) == 0 {
			for typeURL, sub := range s.subs {
				kind := snapshot.ShortType(typeURL)
				if _, refused := s.Refused[kind]; !refused && len(sub.has) > 0 && sub.settled(snap.ResourceVersions(typeURL)) {
					one.Acknowledged[kind] = snap.TypeVersion(typeURL)
				}
			}
		}
		out = append(out, one)
	}
	slices.SortFunc(out, func(a, b Client) int { return cmp.Or(cmp.Compare(a.Node, b.Node), a.Since.Compare(b.Since)) })
	return out
}
