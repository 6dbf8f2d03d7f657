package meter

import (
	"fmt"
	"math"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/spool"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
)

type metrics struct {
	lines     *prometheus.CounterVec // by kind
	settled   *prometheus.CounterVec // by status
	tokens    *prometheus.CounterVec // charged, by source
	retries   *prometheus.CounterVec // by step
	published prometheus.Counter
	kept      prometheus.Counter
	lag       prometheus.Gauge
	away      prometheus.Gauge
	failure   prometheus.Histogram
	inputs    *prometheus.HistogramVec // by provider

	kinds   map[usage.Source]prometheus.Counter
	charged map[usage.Source]prometheus.Counter
	nothing prometheus.Counter
	running prometheus.Counter
	renewed prometheus.Counter
	skipped prometheus.Counter

	used, most prometheus.Gauge // bytes of the stream

	unwritable *prometheus.GaugeVec // by reason
	free       prometheus.Gauge     // bytes of the spool's disk

	held, overshoot *prometheus.CounterVec // by provider
	genAI           *genAI
}

func newMetrics(r prometheus.Registerer) (metrics, error) {
	counter := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{label})
	}
	m := metrics{
		lines:     counter("leaky_meter_lines_total", "Spool lines read, by what became of them.", "kind"),
		settled:   counter("leaky_meter_settlements_total", "Settlements, by the limiter's answer.", "status"),
		tokens:    counter("leaky_meter_tokens_total", "Tokens charged, by where the count comes from.", "source"),
		retries:   counter("leaky_meter_retries_total", "Attempts that failed and are made again, by step.", "step"),
		published: prometheus.NewCounter(prometheus.CounterOpts{Name: "leaky_meter_published_total", Help: "Usage events stored by JetStream."}),
		kept: prometheus.NewCounter(prometheus.CounterOpts{Name: "leaky_meter_events_refused_total",
			Help: "Usage events that JetStream takes in no form: kept in damaged.jsonl, and in no book."}),
		lag: prometheus.NewGauge(prometheus.GaugeOpts{Name: "leaky_meter_lag_bytes",
			Help: "Bytes of the spool that are written and not settled."}),
		away: prometheus.NewGauge(prometheus.GaugeOpts{Name: "leaky_meter_settlements_away",
			Help: "Settlements that wait because their server of the Redis cluster does not answer."}),
		failure: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "leaky_meter_estimate_error_ratio",
			Help:    "Relative error the estimate of output tokens would have had on answers whose usage is known.",
			Buckets: []float64{0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1}}),
		inputs: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "leaky_meter_input_hold_ratio",
			Help:    "Input tokens that the provider counted, by what was held for them; above 1 the bound of the input did not hold.",
			Buckets: []float64{0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1, 1.5, 2, 4}}, []string{"provider"}),
		kinds: map[usage.Source]prometheus.Counter{}, charged: map[usage.Source]prometheus.Counter{},
	}
	for _, s := range []usage.Source{usage.FromProvider, usage.FromEstimate, usage.FromHold, usage.FromRefusal, usage.FromUnstarted} {
		m.kinds[s], m.charged[s] = m.lines.WithLabelValues(string(s)), m.tokens.WithLabelValues(string(s))
	}
	m.nothing, m.running = m.lines.WithLabelValues("not_held"), m.lines.WithLabelValues("running")
	m.renewed = prometheus.NewCounter(prometheus.CounterOpts{Name: "leaky_meter_renewed_total",
		Help: "Times that the hold of a call that still ran was renewed."})
	m.skipped = prometheus.NewCounter(prometheus.CounterOpts{Name: "leaky_meter_refusals_skipped_total",
		Help: "Refusals without an event of their own, since the account is refused too often."})
	m.used = prometheus.NewGauge(prometheus.GaugeOpts{Name: "leaky_meter_stream_bytes", Help: "Size of the stream of events."})
	m.most = prometheus.NewGauge(prometheus.GaugeOpts{Name: "leaky_meter_stream_max_bytes",
		Help: "Size at which the stream drops its oldest events, 0 without one."})
	m.unwritable = prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "leaky_meter_spool_unwritable",
		Help: "1 while Envoy cannot write the spool, by the reason: disk_full, or write_failed, which is what Envoy says."}, []string{"reason"})
	m.free = prometheus.NewGauge(prometheus.GaugeOpts{Name: "leaky_meter_spool_free_bytes", Help: "Room on the spool's disk."})
	m.held = counter("leaky_meter_held_tokens_total", "Tokens that were held for calls that are charged now.", "provider")
	m.overshoot = counter("leaky_meter_overshoot_tokens_total", "Tokens charged above what was held for the call.", "provider")
	m.genAI = newGenAI()
	if r == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.lines, m.settled, m.tokens, m.retries, m.published, m.lag, m.failure, m.inputs, m.renewed,
		m.kept, m.away, m.skipped, m.used, m.most, m.held, m.overshoot, m.genAI.tokens, m.genAI.duration, m.genAI.firstByte, m.genAI.perToken,
		m.unwritable, m.free} {
		if err := r.Register(c); err != nil {
			return m, fmt.Errorf("register meter metrics: %w", err)
		}
	}
	return m, nil
}

func (m *metrics) countLine(v *verdict) {
	if !v.settle && !v.publish || v.orphan {
		m.nothing.Inc()
		return
	}
	m.kinds[v.event.Source].Inc()
}

func (m *metrics) countEvent(e *usage.Event) {
	if c := m.charged[e.Source]; c != nil {
		c.Add(float64(e.Charged))
	}
	if e.Allowed {
		m.held.WithLabelValues(e.Provider).Add(float64(e.Held))
		m.overshoot.WithLabelValues(e.Provider).Add(float64(max(0, e.Charged-e.Held)))
		m.genAI.observe(e)
	}
}

func (m *metrics) countError(ratio float64) {
	if !math.IsNaN(ratio) {
		m.failure.Observe(ratio)
	}
}

// countInput compares the input with what was held for it, where that is told.
func (m *metrics) countInput(l *spool.Line) {
	if held := whole(l.HeldIn); held > 0 {
		input, _ := l.Answer.Tokens()
		m.inputs.WithLabelValues(l.Provider).Observe(float64(input) / float64(held))
	}
}
