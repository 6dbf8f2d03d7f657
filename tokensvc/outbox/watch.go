package outbox

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/leaky-tokens/leaky-tokens/tokensvc/tokensdb"
)

const (
	// watchEvery is how often the gauges are refreshed, purgeEvery how often old rows go and
	// parked balances are tried again.
	watchEvery, purgeEvery = 5 * time.Second, 30 * time.Second
	// purgeBatch is how many rows one statement removes.
	purgeBatch = 5000
	// purgeJob is the advisory lock of the purge: one replica is enough.
	purgeJob = 0x6f7574626f78 // "outbox"
)

// metrics are the series of the outbox.
type metrics struct {
	published, refused      prometheus.Counter
	pending, oldest, parked prometheus.Gauge
}

func newMetrics(to prometheus.Registerer) metrics {
	m := metrics{
		published: prometheus.NewCounter(prometheus.CounterOpts{Name: "token_outbox_published_total", Help: "Events confirmed by JetStream."}),
		refused: prometheus.NewCounter(prometheus.CounterOpts{Name: "token_outbox_refused_total",
			Help: "Attempts at an event that JetStream refused while it was there."}),
		pending: prometheus.NewGauge(prometheus.GaugeOpts{Name: "token_outbox_backlog_events",
			Help: "Events not published yet, parked ones left out."}),
		oldest: prometheus.NewGauge(prometheus.GaugeOpts{Name: "token_outbox_oldest_seconds",
			Help: "Age of the oldest event that is not published yet; 0 without one."}),
		parked: prometheus.NewGauge(prometheus.GaugeOpts{Name: "token_outbox_parked_events",
			Help: "Events refused too many times; a person must look. Those of balances are tried on."}),
	}
	to.MustRegister(m.published, m.refused, m.pending, m.oldest, m.parked)
	return m
}

// watch keeps the gauges fresh, purges and tries parked balances again until ctx ends. The last known values stand
// while Postgres is away.
func (r *Relay) watch(ctx context.Context) error {
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	var purged time.Time
	for {
		if err := r.gauge(ctx); err == nil && time.Since(purged) > purgeEvery {
			purged = time.Now()
			if _, err := r.Purge(ctx); err != nil && ctx.Err() == nil {
				r.said.Warn(ctx, "purge outbox failed", err)
			}
			if _, err := r.RetryParked(ctx); err != nil && ctx.Err() == nil {
				r.said.Warn(ctx, "parked events could not be tried again", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

func (r *Relay) gauge(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, watchEvery)
	defer cancel()
	b, err := tokensdb.New(r.cfg.DB).OutboxBacklog(ctx)
	if err != nil {
		return fmt.Errorf("count outbox: %w", err)
	}
	r.metrics.pending.Set(float64(b.Pending))
	r.pending.Store(b.Pending)
	r.metrics.oldest.Set(b.OldestSeconds)
	r.metrics.parked.Set(float64(b.Parked))
	return nil
}

// Purge removes events that were published longer ago than Keep, which is far longer than
// JetStream takes to write them to disk, and answers how many. While another replica does
// it, this one does nothing.
func (r *Relay) Purge(ctx context.Context) (int64, error) {
	total := int64(0)
	for {
		var removed int64
		err := pgx.BeginFunc(ctx, r.cfg.DB, func(tx pgx.Tx) error {
			q := tokensdb.New(tx)
			mine, err := q.TryJobLock(ctx, purgeJob)
			if err != nil || !mine {
				return err
			}
			removed, err = q.PurgePublished(ctx, tokensdb.PurgePublishedParams{KeptSeconds: r.cfg.Keep.Seconds(), Most: purgeBatch})
			return err
		})
		if err != nil {
			return total, fmt.Errorf("purge outbox: %w", err)
		}
		total += removed
		if removed < purgeBatch {
			return total, nil
		}
	}
}
