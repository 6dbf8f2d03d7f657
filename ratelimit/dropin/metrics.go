package dropin

import (
	"context"
	"maps"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	gostats "github.com/lyft/gostats"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	dto "github.com/prometheus/client_model/go"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
)

// counted tells what the limiter counted under envoyproxy/ratelimit's names.
type counted struct {
	source prometheus.Gatherer
	tags   map[string]string

	mu     sync.Mutex
	paths  map[[2]string]string // of rules, by domain and name
	loaded int
	failed int
}

// took notes how a load of rules ended.
func (c *counted) took(sets []*limits.Set, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.failed++
		return
	}
	c.loaded++
	c.paths = map[[2]string]string{}
	for _, set := range sets {
		for _, rule := range set.Rules() {
			c.paths[[2]string{set.Domain(), rule.Name}] = rule.Path
		}
	}
}

// ipv4 are dots that would part a name.
var ipv4 = regexp.MustCompile(`\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}`)

// clean is a text as a part of a name.
func clean(text string) string {
	return ipv4.ReplaceAllStringFunc(strings.NewReplacer(":", "_", "|", "_").Replace(text), func(ip string) string {
		return strings.ReplaceAll(ip, ".", "_")
	})
}

// levels are the names of what is counted of a rule's hits.
func levels() map[string]string {
	return map[string]string{"total": "total_hits", "within": "within_limit", "over": "over_limit", "near": "near_limit",
		"shadow": "shadow_mode",
		"local":  "over_limit_with_local_cache"}
}

// Beginnings of names.
const (
	perRule    = "ratelimit.service.rate_limit."
	perCall    = "ratelimit.service.call.should_rate_limit."
	perService = "ratelimit.service."
	perMethod  = "ratelimit_server.ShouldRateLimit."
)

// totals are the counters by name, as statsd has them.
func (c *counted) totals() (map[string]float64, error) {
	families, err := c.source.Gather()
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	out := map[string]float64{perService + "config_load_success": float64(c.loaded), perService + "config_load_error": float64(c.failed)}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if name := c.name(f.GetName(), m); name != "" {
				out[name] += m.GetCounter().GetValue()
			}
			if f.GetName() == "leaky_ratelimit_decisions_total" {
				out[perMethod+"total_requests"] += m.GetCounter().GetValue()
			}
		}
	}
	return out, nil
}

// name is what a counter of ours is called; empty: nothing.
func (c *counted) name(family string, m *dto.Metric) string {
	labels := map[string]string{}
	for _, l := range m.GetLabel() {
		labels[l.GetName()] = l.GetValue()
	}
	switch family {
	case "leaky_ratelimit_rule_hits_total":
		rule := labels["rule"]
		if path := c.paths[[2]string{labels["domain"], rule}]; path != "" {
			rule = path
		}
		return perRule + clean(labels["domain"]) + "." + clean(rule) + "." + levels()[labels["level"]]
	case "leaky_ratelimit_unknown_domains_total":
		return perRule + clean(labels["domain"]) + ".domain_not_found"
	case "leaky_ratelimit_decisions_total":
		if labels["outcome"] == "failed" {
			return perCall + "redis_error"
		}
	}
	return ""
}

// Describe implements prometheus.Collector: what there is depends on the rules.
func (c *counted) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector, by envoyproxy/ratelimit's default mapping: of a
// rule's path the first two keys are labels, and rules that differ further on add up.
func (c *counted) Collect(out chan<- prometheus.Metric) {
	totals, err := c.totals()
	if err != nil {
		return
	}
	type series struct{ name, labels string }
	sums, names := map[series]float64{}, map[series]map[string]string{}
	for name, value := range totals {
		family, labels := mapped(name)
		maps.Copy(labels, c.tags)
		var key strings.Builder
		for _, label := range slices.Sorted(maps.Keys(labels)) {
			key.WriteString(label + "=" + strconv.Quote(labels[label]))
		}
		at := series{family, key.String()}
		sums[at] += value
		names[at] = labels
	}
	for at, value := range sums {
		labels := slices.Sorted(maps.Keys(names[at]))
		values := make([]string, len(labels))
		for i, l := range labels {
			values[i] = names[at][l]
		}
		out <- prometheus.MustNewConstMetric(prometheus.NewDesc(at.name, "As envoyproxy/ratelimit counts.", labels, nil),
			prometheus.CounterValue, value,
			values...)
	}
}

// mapped is a name as Prometheus has it.
func mapped(name string) (family string, labels map[string]string) {
	if rest, ok := strings.CutPrefix(name, perRule); ok {
		parts := strings.Split(rest, ".")
		last := len(parts) - 1
		if last >= 2 {
			labels = map[string]string{"domain": parts[0], "key1": parts[1]}
			if last > 2 {
				labels["key2"] = parts[2]
			}
			return "ratelimit_service_rate_limit_" + parts[last], labels
		}
	}
	if kind, ok := strings.CutPrefix(name, perCall); ok {
		return "ratelimit_service_should_rate_limit_error", map[string]string{"err_type": kind}
	}
	if what, ok := strings.CutPrefix(name, perMethod); ok {
		return "ratelimit_service_" + what, map[string]string{"grpc_method": "ShouldRateLimit"}
	}
	return strings.ReplaceAll(name, ".", "_"), map[string]string{}
}

// registry is what Prometheus scrapes.
func (c *counted) registry() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(c, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// statsd sends what was counted since the last time, until ctx ends, and once more then.
func (c *counted) statsd(ctx context.Context, s *MetricSettings) error {
	sink := gostats.NewTCPStatsdSink(gostats.WithStatsdHost(s.StatsdHost), gostats.WithStatsdPort(s.StatsdPort))
	store := gostats.NewStore(sink, false)
	scopes := map[string]gostats.Scope{}
	sent := map[string]float64{}
	ticker := time.NewTicker(max(s.Flush, 100*time.Millisecond))
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			c.send(store, scopes, sent)
			store.Flush()
			return nil
		case <-ticker.C:
			c.send(store, scopes, sent)
			store.Flush()
		}
	}
}

// send adds to the store's counters what came since sent.
func (c *counted) send(store gostats.Store, scopes map[string]gostats.Scope, sent map[string]float64) {
	totals, err := c.totals()
	if err != nil {
		return
	}
	for name, total := range totals {
		root, rest, _ := strings.Cut(name, ".")
		if scopes[root] == nil {
			scopes[root] = store.ScopeWithTags(root, c.tags)
		}
		if more := total - sent[name]; more >= 1 {
			scopes[root].NewCounter(rest).Add(uint64(more))
			sent[name] += float64(uint64(more))
		}
	}
}

// address is where a host and a port are.
func address(host string, port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }
