package telemetry

import (
	"context"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// askEvery is how often a store is asked, askTimeout how long it may take: an answer that comes
// later is none.
const askEvery, askTimeout = 5 * time.Second, 3 * time.Second

// Stores shows how the stores of a service answer it.
type Stores struct{ up, seconds *prometheus.GaugeVec }

// NewStores registers the series.
func NewStores(r prometheus.Registerer) *Stores {
	s := &Stores{up: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "leaky_store_up", Help: "1 while the store answers the service, else 0."}, []string{"store"}),
		seconds: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "leaky_store_answer_seconds",
			Help: "How long the store took for its last answer; without one, how long it was waited for."}, []string{"store"})}
	r.MustRegister(s.up, s.seconds)
	return s
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
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
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
