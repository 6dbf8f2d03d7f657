package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/leaky-tokens/leaky-tokens/internal/retry"
)

// askEvery is how often a store is asked, askTimeout how long it may take: an answer that comes
// later is none.
const askEvery, askTimeout = 5 * time.Second, 3 * time.Second

// Refusal is what a store answers that lives and does not do what it is there for: full, read-only, out
// of connections. An error that has a Reason is one.
type Refusal interface {
	error
	// Reason is a word for it, a label of leaky_store_refuses.
	Reason() string
}

// Stores shows how the stores of a service answer it.
type Stores struct {
	up, seconds, refuses *prometheus.GaugeVec

	mu      sync.Mutex
	said    *retry.Troubles
	refused map[string]Refusal // by store
}

// NewStores registers the series.
func NewStores(r prometheus.Registerer) *Stores {
	s := &Stores{up: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "leaky_store_up", Help: "1 while the store answers the service, else 0."}, []string{"store"}),
		seconds: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "leaky_store_answer_seconds",
			Help: "How long the store took for its last answer; without one, how long it was waited for."}, []string{"store"}),
		refuses: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "leaky_store_refuses",
			Help: "1 while the store answers the service and refuses what it is there for, by the reason."}, []string{"store", "reason"}),
		said: retry.NewTroubles(slog.New(slog.DiscardHandler)), refused: map[string]Refusal{}}
	r.MustRegister(s.up, s.seconds, s.refuses)
	return s
}

// LogTo has it logged what stores refuse and that they do not answer: when it begins and ends, and once
// in ten seconds while it lasts.
func (s *Stores) LogTo(log *slog.Logger) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.said = retry.NewTroubles(log)
}

// Problem is what the stores refuse; nil: nothing.
func (s *Stores) Problem() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []error
	for _, store := range slices.Sorted(maps.Keys(s.refused)) {
		all = append(all, fmt.Errorf("%s refuses: %w", store, s.refused[store]))
	}
	return errors.Join(all...)
}

// note takes over what a store answered.
func (s *Stores) note(ctx context.Context, store string, err error) {
	refusal, refuses := errors.AsType[Refusal](err)
	s.mu.Lock()
	defer s.mu.Unlock()
	if before := s.refused[store]; before != nil && (!refuses || refusal.Reason() != before.Reason()) {
		s.refuses.DeleteLabelValues(store, before.Reason())
		delete(s.refused, store)
		if err == nil {
			s.said.Over(ctx, refused(store, before), store+" does not refuse any more")
		}
	}
	if refuses {
		s.refused[store] = refusal
		s.refuses.WithLabelValues(store, refusal.Reason()).Set(1)
		s.said.Say(ctx, slog.LevelError, refused(store, refusal), err, slog.String("reason", refusal.Reason()))
	}
	if err != nil && !refuses {
		s.said.Warn(ctx, store+" does not answer", err)
		return
	}
	s.said.Over(ctx, store+" does not answer", store+" answers again")
}

// refused is what is said of a refusal: another reason is another trouble. There are few of them.
func refused(store string, r Refusal) string { return store + " refuses: " + r.Reason() }

// Watch asks the store every five seconds until ctx ends. ask must end with its context and should
// do the least that proves an answer.
func (s *Stores) Watch(ctx context.Context, store string, ask func(context.Context) error) error {
	return s.watch(ctx, store, ask, true)
}

// Measure is Watch for a store of which the service says itself why it does not serve.
func (s *Stores) Measure(ctx context.Context, store string, ask func(context.Context) error) error {
	return s.watch(ctx, store, ask, false)
}

func (s *Stores) watch(ctx context.Context, store string, ask func(context.Context) error, says bool) error {
	ticker := time.NewTicker(askEvery)
	defer ticker.Stop()
	for {
		bounded, cancel := context.WithTimeout(ctx, askTimeout)
		began := time.Now()
		err := ask(bounded)
		cancel()
		if ctx.Err() != nil {
			return nil
		}
		s.seconds.WithLabelValues(store).Set(time.Since(began).Seconds())
		up := 1.0
		if err != nil {
			up = 0
		}
		s.up.WithLabelValues(store).Set(up)
		if says {
			s.note(ctx, store, err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// Connections shows those of a pool to Postgres: in use, idle, and how many there may be.
func Connections(r prometheus.Registerer, of func() (active, idle, most int32)) {
	r.MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "leaky_postgres_connections_active",
			Help: "Connections to Postgres that the process uses just now."}, func() float64 { active, _, _ := of(); return float64(active) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "leaky_postgres_connections_idle",
			Help: "Connections to Postgres that are open and wait for use."}, func() float64 { _, idle, _ := of(); return float64(idle) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "leaky_postgres_connections_max",
			Help: "Connections to Postgres that the process may have; who wants one more waits."}, func() float64 { _, _, most := of(); return float64(most) }))
}

// FreeSpace shows what is left of the disk that a folder is on.
func FreeSpace(dir string) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "leaky_state_free_ratio",
		Help: "Free part of the disk that the state folder is on, 0 to 1; 1 where it cannot be told."}, func() float64 {
		var disk syscall.Statfs_t
		if err := syscall.Statfs(dir, &disk); err != nil || disk.Blocks == 0 {
			return 1
		}
		return float64(disk.Bavail) / float64(disk.Blocks)
	})
}
