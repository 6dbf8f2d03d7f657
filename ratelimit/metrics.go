package ratelimit

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/leaky-tokens/leaky-tokens/ratelimit/store"
)

// ruleHits are the counters of one rule.
type ruleHits struct{ total, within, over, near, shadow, local prometheus.Counter }

// hitsOf gives a rule's counters; they are looked up once.
func (m *metrics) hitsOf(domain, rule string) *ruleHits {
	key := [2]string{domain, rule}
	if have, ok := m.hitsKnown.Load(key); ok {
		return have.(*ruleHits)
	}
	of := func(level string) prometheus.Counter { return m.hits.WithLabelValues(domain, rule, level) }
	one, _ := m.hitsKnown.LoadOrStore(key, &ruleHits{total: of("total"), within: of("within"), over: of("over"), near: of("near"),
		shadow: of("shadow"), local: of("local")})
	return one.(*ruleHits)
}

// metrics of the service. Labels hold rule names and statuses, never callers.
type metrics struct {
	holds struct{ admitted, refused, balance, repeated, malformed, failed, abandoned prometheus.Counter }

	byRule, shadow, hits *prometheus.CounterVec
	unknownDomains       *prometheus.CounterVec
	idleRules            *prometheus.GaugeVec
	hitsKnown            sync.Map // *ruleHits by domain and label
	settles              struct {
		settled, duplicate, late, unknown, failed prometheus.Counter
	}
	outage *prometheus.CounterVec

	asks     struct{ answered, failed prometheus.Counter }
	booked   struct{ answered, failed prometheus.Counter }
	balances struct{ applied, malformed prometheus.Counter }

	expired, published, unpublished prometheus.Counter
	live, learned                   prometheus.Gauge
	heldTokens, oldestHold          prometheus.Gauge
	unwritten                       prometheus.Gauge
	gateway                         struct{ allowed, blocked prometheus.Counter }
}

func newMetrics(r prometheus.Registerer, s *Service) *metrics {
	m := &metrics{}
	holds := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "leaky_ratelimit_decisions_total",
		Help: "Decisions by outcome; balance: refused because the account's pool holds too little or there is none, failed: Redis did not answer, malformed: the facts made no sense, abandoned: admitted, but Envoy had given up."}, []string{"outcome"})
	m.holds.admitted, m.holds.refused, m.holds.repeated = holds.WithLabelValues("admitted"), holds.WithLabelValues("refused"),
		holds.WithLabelValues("repeated")
	m.holds.balance = holds.WithLabelValues("balance")
	m.holds.malformed, m.holds.failed = holds.WithLabelValues("malformed"), holds.WithLabelValues("failed")
	m.holds.abandoned = holds.WithLabelValues("abandoned")
	m.byRule = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "leaky_ratelimit_refusals_total",
		Help: "Refusals by the rule that decided."}, []string{"domain", "rule"})
	m.shadow = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "leaky_ratelimit_shadow_refusals_total",
		Help: "Calls that a rule in shadow_mode or quota_mode would have refused."}, []string{"domain", "rule"})
	m.hits = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "leaky_ratelimit_rule_hits_total",
		Help: "Hits in the domains of other Envoys by rule: total, and of those within the limit, over it, near it, which is above 80 percent and counted in within or over too, over it in shadow_mode, and over it and answered without Redis (local)."},
		[]string{"domain", "rule", "level"})
	m.unknownDomains = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "leaky_ratelimit_unknown_domains_total",
		Help: "Requests that passed because no file has their domain, where that is allowed."}, []string{"domain"})
	m.idleRules = prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "leaky_ratelimit_rule_idle",
		Help: "1 for a rule that matched nothing for limits.idle_after, else 0."}, []string{"domain", "rule"})
	settles := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "leaky_ratelimit_settlements_total",
		Help: "Settlements by status; late: the sweeper was before, unknown: no such hold."}, []string{"status"})
	m.settles.settled, m.settles.duplicate = settles.WithLabelValues("settled"), settles.WithLabelValues("duplicate")
	m.settles.late, m.settles.unknown, m.settles.failed = settles.WithLabelValues("late"), settles.WithLabelValues("unknown"),
		settles.WithLabelValues("failed")
	m.outage = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "leaky_ratelimit_outage_decisions_total",
		Help: "Decisions while Redis did not answer, by the route's mode (closed, open, lease)."}, []string{"mode", "outcome"})
	asks := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "leaky_ratelimit_balance_asks_total",
		Help: "Pools asked of the token service because Redis did not know them; failed: no answer, and the calls got a 503."},
		[]string{"outcome"})
	m.asks.answered, m.asks.failed = asks.WithLabelValues("answered"), asks.WithLabelValues("failed")
	rebuilt := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "leaky_ratelimit_limit_asks_total",
		Help: "Questions for what was used of limits whose count Redis had lost; failed: no answer, and the calls were decided as in an outage."},
		[]string{"outcome"})
	m.booked.answered, m.booked.failed = rebuilt.WithLabelValues("answered"), rebuilt.WithLabelValues("failed")
	changes := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "leaky_ratelimit_balance_changes_total",
		Help: "Changes of pools told by the token service."}, []string{"outcome"})
	m.balances.applied, m.balances.malformed = changes.WithLabelValues("applied"), changes.WithLabelValues("malformed")
	m.expired = prometheus.NewCounter(prometheus.CounterOpts{Name: "leaky_ratelimit_holds_expired_total",
		Help: "Holds that nobody settled in time."})
	m.published = prometheus.NewCounter(prometheus.CounterOpts{Name: "leaky_ratelimit_expired_events_total",
		Help: "Usage events of expired holds published."})
	m.unpublished = prometheus.NewCounter(prometheus.CounterOpts{Name: "leaky_ratelimit_expired_event_errors_total",
		Help: "Attempts to publish such an event that failed; the next sweep tries again."})
	m.live = prometheus.NewGauge(prometheus.GaugeOpts{Name: "leaky_ratelimit_holds_live",
		Help: "Holds not settled yet, as of the last sweep."})
	m.heldTokens = prometheus.NewGauge(prometheus.GaugeOpts{Name: "leaky_ratelimit_held_tokens",
		Help: "Tokens in holds that are not settled yet, as of the last sweep; each replica tells the whole."})
	m.oldestHold = prometheus.NewGauge(prometheus.GaugeOpts{Name: "leaky_ratelimit_oldest_hold_seconds",
		Help: "Age of the oldest hold that is not settled yet, as of the last sweep; 0 without one."})
	m.unwritten = prometheus.NewGauge(prometheus.GaugeOpts{Name: "leaky_ratelimit_calls_unwritten",
		Help: "1 while an Envoy cannot write its log of calls, so that calls are decided as in an outage."})
	gateway := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "gateway_rate_limit_total",
		Help: "Requests that our own Envoy asked about, by what a limit or a balance said; those that are not counted at all are not here."},
		[]string{"outcome"})
	m.gateway.allowed, m.gateway.blocked = gateway.WithLabelValues("allowed"), gateway.WithLabelValues("blocked")
	m.learned = prometheus.NewGauge(prometheus.GaugeOpts{Name: "leaky_ratelimit_learned_models",
		Help: "Models whose input ratio is known from settled calls; held by it where providers.NAME.learn_input is on."})
	open := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "leaky_ratelimit_redis_open",
		Help: "1 while Redis is asked, 0 while calls fail at once because it did not answer."}, func() float64 {
		if s.store.Down() {
			return 0
		}
		return 1
	})
	for _, reason := range reasons() {
		r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "leaky_ratelimit_redis_refuses",
			Help: "1 while Redis does not take what is written, by its reason.", ConstLabels: prometheus.Labels{"reason": reason}}, func() float64 {
			if s.redis.reason() == reason {
				return 1
			}
			return 0
		}))
	}
	r.MustRegister(holds, m.byRule, m.shadow, m.hits, m.unknownDomains, m.idleRules, settles, m.outage, asks, rebuilt, changes, m.expired,
		m.published, m.unpublished, m.live, m.learned, open, m.heldTokens, m.oldestHold, m.unwritten, gateway)
	return m
}

func (m *metrics) refused(domain, rule string) { m.byRule.WithLabelValues(domain, rule).Inc() }

// ofGateway counts a request of our own Envoy.
func (m *metrics) ofGateway(o store.Outcome) {
	if o.Refuses() {
		m.gateway.blocked.Inc()
		return
	}
	m.gateway.allowed.Inc()
}

func (m *metrics) settled(s store.Status) {
	switch s {
	case store.Settled:
		m.settles.settled.Inc()
	case store.Duplicate:
		m.settles.duplicate.Inc()
	case store.Late:
		m.settles.late.Inc()
	case store.Away:
		m.settles.failed.Inc()
	default:
		m.settles.unknown.Inc()
	}
}
