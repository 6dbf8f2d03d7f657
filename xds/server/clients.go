package server

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
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
}

// Nack is a version that an Envoy refused; it runs the one before.
type Nack struct {
	Version string    `json:"version"`
	Message string    `json:"message"`
	At      time.Time `json:"at"`
}

// clients keeps what each stream was sent and has answered.
type clients struct {
	log     *slog.Logger
	metrics *metrics
	mu      sync.Mutex
	streams map[int64]*stream
	changed chan struct{} // closed and replaced on every acknowledgement
}

type stream struct {
	Client
	sent map[string]sent // by nonce
	last map[string]string
}

type sent struct{ typeURL, version string }

func newClients(log *slog.Logger, m *metrics) *clients {
	return &clients{log: log, metrics: m, streams: map[int64]*stream{}, changed: make(chan struct{})}
}

func (c *clients) callbacks() serverv3.Callbacks {
	return serverv3.CallbackFuncs{
		DeltaStreamOpenFunc: func(_ context.Context, id int64, _ string) error {
			c.with(func() {
				c.streams[id] = &stream{Client: Client{Since: time.Now().UTC(), Acknowledged: map[string]string{}, Refused: map[string]Nack{}},
					sent: map[string]sent{}, last: map[string]string{}}
			})
			return nil
		},
		DeltaStreamClosedFunc: func(id int64, _ *corev3.Node) { c.with(func() { delete(c.streams, id) }) },
		StreamDeltaRequestFunc: func(id int64, r *discoveryv3.DeltaDiscoveryRequest) error {
			c.with(func() { c.answered(c.streams[id], r) })
			return nil
		},
		StreamDeltaResponseFunc: func(id int64, _ *discoveryv3.DeltaDiscoveryRequest, r *discoveryv3.DeltaDiscoveryResponse) {
			c.with(func() {
				if s := c.streams[id]; s != nil {
					s.sent[r.GetNonce()] = sent{r.GetTypeUrl(), r.GetSystemVersionInfo()}
					s.last[r.GetTypeUrl()] = r.GetSystemVersionInfo()
				}
			})
		},
	}
}

// with runs f under the lock and wakes who waits.
func (c *clients) with(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
	c.metrics.clients.Set(float64(len(c.streams)))
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *clients) answered(s *stream, r *discoveryv3.DeltaDiscoveryRequest) {
	if s == nil {
		return
	}
	if node := r.GetNode(); node.GetId() != "" {
		s.Node = node.GetId()
		if v := node.GetUserAgentBuildVersion().GetVersion(); v != nil {
			s.Build = fmt.Sprintf("%d.%d.%d", v.GetMajorNumber(), v.GetMinorNumber(), v.GetPatch())
		}
	}
	answer, ok := s.sent[r.GetResponseNonce()]
	if !ok {
		return
	}
	delete(s.sent, r.GetResponseNonce())
	kind := snapshot.ShortType(answer.typeURL)
	if e := r.GetErrorDetail(); e != nil {
		c.metrics.answers.WithLabelValues(kind, "nack").Inc()
		s.Refused[kind] = Nack{Version: answer.version, Message: e.GetMessage(), At: time.Now().UTC()}
		c.log.LogAttrs(context.Background(), slog.LevelError, "envoy refused a configuration and keeps the last good one",
			slog.String("node", s.Node),
			slog.String("type", kind), slog.String("version", answer.version), slog.String("reason", e.GetMessage()))
		return
	}
	c.metrics.answers.WithLabelValues(kind, "ack").Inc()
	s.Acknowledged[kind] = answer.version
	delete(s.Refused, kind)
}

// wait returns true once no stream that was sent the version has still to answer, and
// every stream that takes the type was sent it. A refusal counts as an answer.
func (c *clients) wait(ctx context.Context, typeURL, version string) bool {
	for {
		c.mu.Lock()
		done, changed := true, c.changed
		for _, s := range c.streams {
			last, takes := s.last[typeURL]
			kind := snapshot.ShortType(typeURL)
			if takes && (last != version || s.Acknowledged[kind] != version && s.Refused[kind].Version != version) {
				done = false
			}
		}
		c.mu.Unlock()
		if done {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-changed:
		}
	}
}

func (c *clients) list() []Client {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := []Client{}
	for _, s := range c.streams {
		one := s.Client
		one.Acknowledged, one.Refused = maps.Clone(s.Acknowledged), maps.Clone(s.Refused)
		out = append(out, one)
	}
	slices.SortFunc(out, func(a, b Client) int { return cmp.Or(cmp.Compare(a.Node, b.Node), a.Since.Compare(b.Since)) })
	return out
}
