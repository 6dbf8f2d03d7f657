package pools

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/leaky-tokens/leaky-tokens/internal/pgconn"
	"github.com/leaky-tokens/leaky-tokens/internal/retry"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/ledger"
)

// jobTimeout bounds one run of a job.
const jobTimeout = time.Minute

// mostLogged bounds the lines about one proof of the books.
const mostLogged = 20

// JobsConfig is what NewJobs needs.
type JobsConfig struct {
	DB     *pgxpool.Pool
	Ledger interface {
		Lag(ctx context.Context) (int64, error)
	}
	ExpireEvery   time.Duration // default 10 s
	AnnounceEvery time.Duration // default 10 s
	VerifyEvery   time.Duration // default 10 min; it reads all entries
	Metrics       prometheus.Registerer
	Log           *slog.Logger
}

// Jobs are what happens to pools without anybody asking.
type Jobs struct {
	cfg  JobsConfig
	runs *prometheus.CounterVec
	lag  prometheus.Gauge

	drift, verified prometheus.Gauge
}

// NewJobs makes them; Run starts them.
func NewJobs(cfg JobsConfig) (*Jobs, error) {
	if cfg.DB == nil || cfg.Ledger == nil || cfg.Metrics == nil || cfg.Log == nil {
		return nil, errors.New("make jobs of pools: DB, Ledger, Metrics and Log are needed")
	}
	for _, every := range []*time.Duration{&cfg.ExpireEvery, &cfg.AnnounceEvery} {
		if *every <= 0 {
			*every = 10 * time.Second
		}
	}
	if cfg.VerifyEvery <= 0 {
		cfg.VerifyEvery = 10 * time.Minute
	}
	j := &Jobs{cfg: cfg,
		runs: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "token_pool_jobs_total", Help: "Pools that a job has touched."},
			[]string{"job"}),
		lag: prometheus.NewGauge(prometheus.GaugeOpts{Name: "token_ledger_lag_events", Help: "Usage events published and not yet booked."}),
		drift: prometheus.NewGauge(prometheus.GaugeOpts{Name: "token_ledger_drift",
			Help: "Differences that the last proof of the books found: units that do not sum to zero, pools that are not the fold of their entries, lots that promise too much."}),
		verified: prometheus.NewGauge(prometheus.GaugeOpts{Name: "token_ledger_verified_timestamp_seconds",
			Help: "When the books were proven last by this replica; 0: not since it started."})}
	cfg.Metrics.MustRegister(j.runs, j.lag, j.drift, j.verified)
	return j, nil
}

// Run does the jobs until ctx ends. What fails is done the next time.
func (j *Jobs) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return j.every(ctx, "expiry", j.cfg.ExpireEvery, func(ctx context.Context) (int, error) {
			return ledger.Expire(ctx, j.cfg.DB,
				time.Time{})
		})
	})
	g.Go(func() error {
		return j.every(ctx, "announce", j.cfg.AnnounceEvery, func(ctx context.Context) (int, error) { return ledger.Announce(ctx, j.cfg.DB) })
	})
	g.Go(func() error {
		return j.every(ctx, "lag", 5*time.Second, func(ctx context.Context) (int, error) {
			lag, err := j.cfg.Ledger.Lag(ctx)
			if err == nil {
				j.lag.Set(float64(lag))
			}
			return 0, nil // the last known value stands while NATS or Postgres does not answer
		})
	})
	g.Go(func() error { return j.every(ctx, "verify", j.cfg.VerifyEvery, j.verify) })
	return g.Wait()
}

// verify proves the books and tells how many differences there are; they are named in the log.
func (j *Jobs) verify(ctx context.Context) (int, error) {
	differences, err := proof(ctx, j.cfg.DB)
	if err != nil {
		return 0, err
	}
	for _, difference := range differences[:min(len(differences), mostLogged)] {
		j.cfg.Log.LogAttrs(ctx, slog.LevelError, "the books differ", slog.String("difference", difference))
	}
	j.drift.Set(float64(len(differences)))
	j.verified.SetToCurrentTime()
	return 0, nil
}

func (j *Jobs) every(ctx context.Context, name string, every time.Duration, f func(context.Context) (int, error)) error {
	undone, said := "job of pools failed, it runs again: "+name, retry.NewTroubles(j.cfg.Log)
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		running, cancel := context.WithTimeout(ctx, jobTimeout)
		touched, err := f(running)
		cancel()
		j.runs.WithLabelValues(name).Add(float64(touched))
		switch {
		case err == nil:
			said.Over(ctx, undone, "job of pools goes on: "+name)
		case ctx.Err() == nil && !pgconn.Gone(err):
			said.Warn(ctx, undone, err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}
