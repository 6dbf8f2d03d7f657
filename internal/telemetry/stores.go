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
)

// askEvery is how often a store is asked, askTimeout how long it may take: an answer that comes
// later is none.
const askEvery, askTimeout = 5 * time.Second, 3 * time.Second

// sayAgain is the least pause between two lines about a store that refuses.
const sayAgain = 10 * time.Second

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
	log     *slog.Logger
	refused map[string]*refused // by store
}

// refused is a store that refuses.
type refused struct {
	err    Refusal
	said   time.Time
	unsaid int // refusals since
}

// NewStores registers the series.
func NewStores(r prometheus.Registerer) *Stores {
	s := &Stores{up: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "leaky_store_up", Help: "1 while the store answers the service, else 0."}, []string{"store"}),
		seconds: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "leaky_store_answer_seconds",
			Help: "How long the store took for its last answer; without one, how long it was waited for."}, []string{"store"}),
		refuses: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "leaky_store_refuses",
			Help: "1 while the store answers the service and refuses what it is there for, by the reason."}, []string{"store", "reason"}),
		log: slog.New(slog.DiscardHandler), refused: map[string]*refused{}}
	r.MustRegister(s.up, s.seconds, s.refuses)
	return s
}

// LogTo has refusals logged: each when it begins and ends, and once in ten seconds while it lasts.
func (s *Stores) LogTo(log *slog.Logger) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = log
}

// Problem is what the stores refuse; nil: nothing.
func (s *Stores) Problem() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []error
	for _, store := range slices.Sorted(maps.Keys(s.refused)) {
		all = append(all, fmt.Errorf("%s refuses: %w", store, s.refused[store].err))
	}
	return errors.Join(all...)
}

// note takes over what a store answered.
func (s *Stores) note(ctx context.Context, store string, err error, now time.Time) {
	refusal, refuses := errors.AsType[Refusal](err)
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.refused[store]
	if before != nil && (!refuses || refusal.Reason() != before.err.Reason()) {
		s.refuses.DeleteLabelValues(store, before.err.Reason())
		delete(s.refused, store)
		if err == nil {
			s.log.LogAttrs(ctx, slog.LevelInfo, store+" does not refuse any more")
		}
		before = nil
	}
	if !refuses {
		return
	}
	if before == nil {
		before = &refused{}
		s.refused[store] = before
		s.refuses.WithLabelValues(store, refusal.Reason()).Set(1)
	}
	before.err = refusal
	if before.unsaid++; now.Sub(before.said) >= sayAgain {
		s.log.LogAttrs(ctx, slog.LevelError, store+" refuses", slog.String("reason", refusal.Reason()), slog.Int("times", before.unsaid),
			slog.Any("error", err))
		before.said, before.unsaid = now, 0
	}
}

// Watch asks the store every five seconds until ctx ends. ask must end with its context and should
// do the least that proves an answer.
func (s *Stores) Watch(ctx context.Context, store string, ask func(context.Context) error) error {
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
		s.note(ctx, store, err, time.Now())
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
