package reconcile

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// JobConfig is what NewJob needs.
type JobConfig struct {
	Sources Sources       // its Most also bounds how long a span one comparison takes
	Every   time.Duration // between two runs; each takes the calls since the one before
	Metrics prometheus.Registerer
	Log     *slog.Logger
}

// Job compares the books on a schedule, and tells what differs in its series and the log.
type Job struct {
	cfg      JobConfig
	findings *prometheus.GaugeVec
	calls    prometheus.Gauge
	last     prometheus.Gauge
}

const (
	// jobLags is how long before the present a run ends: calls that are just being settled are no
	// business of it.
	jobLags = time.Minute
	jobWait = 30 * time.Second
	// leastSpan is the shortest time that is compared by itself.
	leastSpan = time.Second
	// shown findings of one run go to the log.
	shown = 20
)

// NewJob makes a job; Run starts it.
func NewJob(cfg JobConfig) (*Job, error) {
	if cfg.Every <= 0 || cfg.Metrics == nil || cfg.Log == nil || cfg.Sources.Most <= 0 {
		return nil, errors.New("make reconciliation: Sources, Every, Metrics and Log are needed")
	}
	j := &Job{cfg: cfg, findings: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "leaky_reconcile_findings",
		Help: "Differences between the books that the last reconciliation found, by fault."}, []string{"fault"}),
		calls: prometheus.NewGauge(prometheus.GaugeOpts{Name: "leaky_reconcile_calls", Help: "Calls that the last reconciliation compared."}),
		last: prometheus.NewGauge(prometheus.GaugeOpts{Name: "leaky_reconcile_last_timestamp_seconds",
			Help: "When the last reconciliation ended, in seconds since the epoch; 0 before the first."})}
	for _, f := range Faults() {
		j.findings.WithLabelValues(string(f))
	}
	cfg.Metrics.MustRegister(j.findings, j.calls, j.last)
	return j, nil
}

// Run compares until ctx ends. The calls of a run that failed are compared by the next.
func (j *Job) Run(ctx context.Context) error {
	ticker := time.NewTicker(j.cfg.Every)
	defer ticker.Stop()
	from := time.Now().Add(-jobLags)
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-ticker.C:
			to := now.Add(-jobLags)
			r, err := j.compare(ctx, from, to)
			if err != nil {
				if ctx.Err() == nil {
					j.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "reconcile failed, its calls are compared next time", slog.Any("error", err))
				}
				continue
			}
			from = to
			j.tell(ctx, r)
		}
	}
}

// compare takes a span by halves where it is too much at once.
func (j *Job) compare(ctx context.Context, from, to time.Time) (Report, error) {
	r, err := Run(ctx, j.cfg.Sources, from, to, jobWait)
	if !errors.Is(err, ErrTooMany) {
		return r, err
	}
	if to.Sub(from) < 2*leastSpan {
		return r, fmt.Errorf("from %s to %s: %w", from.Format(time.RFC3339), to.Format(time.RFC3339), err)
	}
	middle := from.Add(to.Sub(from) / 2)
	first, err := j.compare(ctx, from, middle)
	if err != nil {
		return r, err
	}
	second, err := j.compare(ctx, middle, to)
	if err != nil {
		return r, err
	}
	return first.and(second), nil
}

// and joins the reports of two spans; their accounts are not summed up.
func (r *Report) and(next Report) Report {
	joined := Report{From: r.From, To: next.To, Calls: r.Calls + next.Calls, Findings: append(r.Findings, next.Findings...),
		Unread: next.Unread}
	joined.finish()
	return joined
}

func (j *Job) tell(ctx context.Context, r Report) {
	for f, n := range r.Counts {
		j.findings.WithLabelValues(string(f)).Set(float64(n))
	}
	j.calls.Set(float64(r.Calls))
	j.last.SetToCurrentTime()
	for _, f := range r.Findings[:min(len(r.Findings), shown)] {
		j.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "the books differ", slog.String("fault", string(f.Fault)), slog.String("request_id", f.RequestID),
			slog.String("account", f.Account), slog.String("provider", f.Provider), slog.String("detail", f.Detail))
	}
	for _, why := range r.Unread {
		j.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "a book was not compared", slog.String("why", why))
	}
}
