package server

import "github.com/prometheus/client_golang/prometheus"

// metrics are what is watched of the delivery.
type metrics struct {
	clients   prometheus.Gauge
	published prometheus.Counter
	answers   *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		clients: prometheus.NewGauge(prometheus.GaugeOpts{Name: "leaky_xds_clients", Help: "Envoys that are connected."}),
		published: prometheus.NewCounter(prometheus.CounterOpts{Name: "leaky_xds_snapshots_published_total",
			Help: "Configurations published to all Envoys."}),
		answers: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "leaky_xds_answers_total",
			Help: "What Envoys answered to a push: ack, or nack for one that they refuse."},
			[]string{"type", "answer"}),
	}
	if r != nil {
		r.MustRegister(m.clients, m.published, m.answers)
	}
	return m
}

// standing shows, at each scrape, what every connected Envoy runs. The series of an Envoy go with it.
type standing struct {
	list                        func() []Client
	config, refused, unanswered *prometheus.Desc
}

func newStanding(list func() []Client) *standing {
	return &standing{list: list,
		config: prometheus.NewDesc("leaky_xds_client_config_info",
			"1 for the version of each type of resources that an Envoy has acknowledged last.", []string{"node", "type", "version"}, nil),
		refused: prometheus.NewDesc("leaky_xds_client_refused_types",
			"Types of resources of which an Envoy has refused the present version and runs the one before.", []string{"node"}, nil),
		unanswered: prometheus.NewDesc("leaky_xds_client_unanswered_pushes", "Pushes that an Envoy has not answered.", []string{"node"}, nil)}
}

// Describe is prometheus.Collector's.
func (s *standing) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{s.config, s.refused, s.unanswered} {
		ch <- d
	}
}

// Collect is prometheus.Collector's. Envoys of one name (a hot restart) are one series.
func (s *standing) Collect(ch chan<- prometheus.Metric) {
	refused, unanswered := map[string]int{}, map[string]int{}
	type running struct{ node, kind, version string }
	told := map[running]bool{}
	for _, c := range s.list() {
		refused[c.Node] += len(c.Refused)
		unanswered[c.Node] += c.Unanswered
		for kind, version := range c.Acknowledged {
			told[running{c.Node, kind, version}] = true
		}
	}
	gauge := func(d *prometheus.Desc, value int, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(value), labels...)
	}
	for r := range told {
		gauge(s.config, 1, r.node, r.kind, r.version)
	}
	for node, n := range refused {
		gauge(s.refused, n, node)
		gauge(s.unanswered, unanswered[node], node)
	}
}
