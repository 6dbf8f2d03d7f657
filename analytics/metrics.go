package analytics

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are the series of analytics. Every one has a constant label set; labels take
// values from known lists only, and no user id is among them.
type Metrics struct {
	// By provider and outcome.
	usageQueries, reportQueries, anomalyQueries, exportQueries, trendQueries, groupQueries, purchaseQueries *prometheus.CounterVec

	inserted, duplicates, dead, insertFailures prometheus.Counter
	insertSeconds                              prometheus.Histogram
	lag                                        prometheus.Gauge
}

// Outcomes of a query.
const (
	outcomeSuccess = "success"
	outcomeFailure = "failure"
)

// unknownProvider is the label of a provider that is not configured.
const unknownProvider = "unknown"

// NewMetrics registers the series.
func NewMetrics(to prometheus.Registerer) *Metrics {
	query := func(name, help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{"provider", "outcome"})
	}
	count := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	m := &Metrics{
		usageQueries:    query("analytics_usage_query_total", "Usage lists asked for."),
		reportQueries:   query("analytics_report_query_total", "Reports asked for."),
		anomalyQueries:  query("analytics_anomaly_query_total", "Anomaly checks asked for."),
		exportQueries:   query("analytics_export_query_total", "Exports asked for."),
		trendQueries:    query("analytics_trend_query_total", "Trends asked for."),
		groupQueries:    query("analytics_group_query_total", "Sums by provider or of one user asked for."),
		purchaseQueries: query("analytics_purchase_query_total", "Lists of purchases asked for."),
		inserted:        count("analytics_events_inserted_total", "Usage events written to the store, each id once as far as this process knows."),
		duplicates:      count("analytics_events_duplicate_total", "Usage events delivered again and left out before the store."),
		dead:            count("analytics_events_dead_total", "Messages that are no usage event, moved to the dead-letter subject."),
		insertFailures:  count("analytics_insert_failures_total", "Inserts that failed and were tried again."),
		insertSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "analytics_insert_seconds",
			Help:    "Duration of inserts that succeeded.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}}),
		lag: prometheus.NewGauge(prometheus.GaugeOpts{Name: "analytics_consumer_lag_events",
			Help: "Usage events published and not yet confirmed as stored."}),
	}
	to.MustRegister(m.usageQueries, m.reportQueries, m.anomalyQueries, m.exportQueries, m.trendQueries, m.groupQueries, m.purchaseQueries,
		m.inserted, m.duplicates, m.dead, m.insertFailures,
		m.insertSeconds, m.lag)
	return m
}

// Lag tells how far the store is behind the stream.
type Lag interface {
	// Pending is the number of events not yet confirmed as stored.
	Pending(ctx context.Context) (int64, error)
}

// WatchLag keeps the lag gauge fresh until ctx ends; the last known value stands while
// NATS does not answer.
func (m *Metrics) WatchLag(ctx context.Context, lag Lag, every time.Duration) error {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		if pending, err := lag.Pending(ctx); err == nil {
			m.lag.Set(float64(pending))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}
