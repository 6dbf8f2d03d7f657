package saga

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/leaky-tokens/leaky-tokens/internal/pgconn"
	"github.com/leaky-tokens/leaky-tokens/internal/retry"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/tokensdb"
)

// channel is what Postgres notifies when a purchase is written down (saga_purchase.sql).
const channel = "leaky_sagas"

// unclaimed is said while no worker can take up a purchase, with how many were open when last counted.
const unclaimed = "purchases cannot be claimed, trying again"

// gaugesEvery is how often the gauges are read.
const gaugesEvery = 5 * time.Second

// Run carries purchases on until ctx ends. Any number of replicas share the work.
func (s *Service) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { s.work(ctx); return nil })
	g.Go(func() error { s.listen(ctx); return nil })
	g.Go(func() error { s.every(ctx, s.cfg.Timing.Recover, "recover purchases", s.recover); return nil })
	g.Go(func() error { s.every(ctx, gaugesEvery, "count purchases", s.gauge); return nil })
	return g.Wait()
}

// awake tells the worker of this replica that there is something to do.
func (s *Service) awake() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// work claims as many purchases as it has hands for, whenever one is free.
func (s *Service) work(ctx context.Context) {
	var running sync.WaitGroup
	defer running.Wait()
	hands := make(chan struct{}, s.cfg.Workers)
	poll := time.NewTicker(s.cfg.Timing.Poll)
	defer poll.Stop()
	for ctx.Err() == nil {
		claimed, err := s.claim(ctx, s.cfg.Workers-len(hands))
		switch {
		case err == nil:
			s.said.Over(ctx, unclaimed, "purchases are claimed again")
		case ctx.Err() == nil:
			s.said.Warn(ctx, unclaimed, err, retry.Waiting(s.open.Load))
		}
		for _, row := range claimed {
			hands <- struct{}{} // never blocks: no more were claimed than are free
			running.Go(func() {
				defer func() { <-hands; s.awake() }()
				s.carry(ctx, row)
			})
		}
		if len(claimed) > 0 && len(hands) < s.cfg.Workers {
			continue
		}
		select {
		case <-ctx.Done():
		case <-poll.C:
		case <-s.wake:
		}
	}
}

func (s *Service) claim(ctx context.Context, free int) ([]Saga, error) {
	if free <= 0 {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timing.Step)
	defer cancel()
	rows, err := tokensdb.New(s.cfg.Pool).ClaimSagas(ctx, tokensdb.ClaimSagasParams{Owner: s.cfg.Owner, Lease: interval(s.cfg.Timing.Lease),
		Most: int32(free)})
	if err != nil {
		return nil, fmt.Errorf("claim purchases: %w", err)
	}
	if len(rows) > 0 {
		s.cfg.Boundary("claimed")
	}
	return rows, nil
}

// listen wakes the worker when another replica, or this one, takes an order. It is
// only faster than polling: a notification may be lost.
func (s *Service) listen(ctx context.Context) {
	_ = retry.Policy{First: s.cfg.Timing.Poll}.Do(ctx, func(ctx context.Context) error { // until ctx ends
		return pgconn.Listen(ctx, s.cfg.Pool, channel, s.awake)
	}, func(_ int, err error) {
		s.cfg.Log.LogAttrs(ctx, slog.LevelDebug, "not listening for purchases", slog.Any("error", err))
	})
}

// every runs a job now and then; what fails is done the next time.
func (s *Service) every(ctx context.Context, period time.Duration, name string, job func(context.Context) error) {
	for ctx.Err() == nil {
		step, cancel := context.WithTimeout(ctx, s.cfg.Timing.Step)
		err := job(step)
		cancel()
		wait := period
		switch {
		case err == nil:
			s.said.Over(ctx, name+" failed", name+" goes on")
		case ctx.Err() == nil:
			if !pgconn.Gone(err) { // else the worker says it
				s.said.Warn(ctx, name+" failed", err)
			}
			wait = min(period, s.cfg.Timing.Poll)
		}
		retry.Pause(ctx, wait)
	}
}

// recover drives on what stood still for too long, each purchase by one replica, and what waits for
// a time that a clock had which was set back; it forgets old idempotency keys.
func (s *Service) recover(ctx context.Context) error {
	const batch = 1000
	db := tokensdb.New(s.cfg.Pool)
	taken, err := db.RecoverSagas(ctx, tokensdb.RecoverSagasParams{Failure: fmt.Sprintf("not finished within %v", s.cfg.Timing.Stale),
		Stale: interval(s.cfg.Timing.Stale), Most: batch})
	if err != nil {
		return fmt.Errorf("recover purchases: %w", err)
	}
	if len(taken) > 0 {
		s.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "recovering purchases that stood still", slog.Int("purchases", len(taken)))
		s.awake()
	}
	// Twice as long as a wait, as other replicas may have been told to wait longer.
	hastened, err := db.HastenSagas(ctx, interval(2*max(s.cfg.Timing.Lease, s.cfg.Timing.BackoffMax)))
	if err != nil {
		return fmt.Errorf("hasten purchases: %w", err)
	}
	if hastened > 0 {
		s.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "purchases were to wait for a time that a clock had which was ahead; they go on now",
			slog.Int64("purchases", hastened))
		s.awake()
	}
	for {
		gone, err := db.PurgePurchaseKeys(ctx, interval(s.cfg.Timing.KeepKeys))
		if err != nil {
			return fmt.Errorf("purge idempotency keys: %w", err)
		}
		if gone < batch {
			return nil
		}
	}
}

func (s *Service) gauge(ctx context.Context) error {
	got, err := tokensdb.New(s.cfg.Pool).SagaGauges(ctx)
	if err != nil {
		return fmt.Errorf("count purchases: %w", err)
	}
	s.metrics.parked.Set(float64(got.Parked))
	s.metrics.open.Set(float64(got.Open))
	s.open.Store(got.Open)
	s.metrics.oldest.Set(got.OldestSeconds)
	return nil
}
