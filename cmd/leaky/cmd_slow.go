package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/api"
	promv1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"

	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

// slowCommand is `leaky slow`: where the time of the last minutes went.
type slowCommand struct {
	output
	For time.Duration `help:"How far back, 30s to 24h." default:"5m"`
	At  string        `help:"Base URL of Prometheus; that of monitoring.prometheus when empty." placeholder:"URL"`
}

// Help shows how it is used.
func (slowCommand) Help() string {
	return `Asks Prometheus whom the gateway waited for, how long the stores and the services' own endpoints took, and says which of them is above its objective. Exit code 1 if any is.

A provider is named when it took more than half of the gateway's time: then the calls are as slow as it is, and not as the gateway.

Examples:

    leaky slow
    leaky slow --for 1m
    leaky slow -o json | jq -r '.causes[]'`
}

// Objectives: a part or store that takes longer is named. They are those of the alerts.
const (
	ownShare    = 0.1  // seconds at the 95th percentile, of who calls and may they
	storeAnswer = 0.25 // seconds for a ping
	endpoint    = 0.5  // seconds at the 95th percentile, of a service's own endpoint
	mostOfTime  = 0.5  // of the gateway's time, spent at one provider
)

// mostEndpoints are listed.
const mostEndpoints = 8

// timing is how long something took.
type timing struct {
	Name      string  `json:"name"`
	PerMinute float64 `json:"perMinute"`
	P50       float64 `json:"p50Seconds"`
	P95       float64 `json:"p95Seconds"`
	Share     float64 `json:"share"`  // of the time of all calls of the gateway
	Failed    float64 `json:"failed"` // calls that were not answered in time, or with 5xx
}

// slowness is the answer.
type slowness struct {
	Upstreams []timing           `json:"upstreams"` // whom Envoy asks
	Endpoints []timing           `json:"endpoints"` // of our services, the slowest
	Stores    map[string]float64 `json:"stores"`    // seconds for the slowest ping
	Down      []string           `json:"down"`      // parts that do not answer Prometheus
	Causes    []string           `json:"causes"`
}

var errSlow = errors.New("something is slower than it should be")

// Run asks and says.
func (k slowCommand) Run(ctx context.Context, c *cli) error {
	if k.For < 30*time.Second || k.For > 24*time.Hour {
		return fmt.Errorf("--for %s: it must be 30s to 24h", k.For)
	}
	if k.At == "" {
		l, err := openLocal(c)
		if err != nil {
			return err
		}
		address, on := l.cfg.Monitoring.At(topology.Prometheus)
		if !on {
			return errors.New("monitoring.prometheus is off: name another Prometheus with --at")
		}
		k.At = "http://" + address
	}
	at, err := api.NewClient(api.Config{Address: k.At})
	if err != nil {
		return fmt.Errorf("--at: %w", err)
	}
	found, err := asked{promv1.NewAPI(at), k.For}.slowness(ctx)
	if err != nil {
		return fmt.Errorf("is the stack up (leaky up)? %w", err)
	}
	if k.Output == "json" {
		err = k.print(os.Stdout, found, nil, nil)
	} else {
		err = k.tables(found)
	}
	if err == nil && len(found.Causes) > 0 {
		err = errSlow
	}
	return err
}

func (k slowCommand) tables(found slowness) error {
	var rows [][]string
	for _, u := range found.Upstreams {
		rows = append(rows, []string{u.Name, fmt.Sprintf("%.3g", u.PerMinute), lasting(u.P50), lasting(u.P95), fmt.Sprintf("%.0f %%", 100*u.Share),
			fmt.Sprintf("%.0f", u.Failed)})
	}
	err := k.print(os.Stdout, nil, []string{"ENVOY WAITED FOR", "CALLS/MIN", "P50", "P95", "OF ALL TIME", "FAILED"}, rows)
	rows = nil
	for _, e := range found.Endpoints {
		rows = append(rows, []string{e.Name, fmt.Sprintf("%.3g", e.PerMinute), lasting(e.P50), lasting(e.P95)})
	}
	fmt.Println()
	err = errors.Join(err, k.print(os.Stdout, nil, []string{"ENDPOINT", "CALLS/MIN", "P50", "P95"}, rows))
	rows = nil
	for _, name := range topology.Names(topology.Having(func(p topology.Part) bool { return p.Kind == topology.Store })) {
		if took, known := found.Stores[name]; known {
			rows = append(rows, []string{name, lasting(took)})
		}
	}
	fmt.Println()
	err = errors.Join(err, k.print(os.Stdout, nil, []string{"STORE", "SLOWEST PING"}, rows))
	fmt.Println()
	for _, cause := range found.Causes {
		fmt.Println(cause)
	}
	if len(found.Causes) == 0 {
		fmt.Println("Nothing is slower than it should be.")
	}
	return err
}

// lasting writes seconds, to three digits.
func lasting(seconds float64) string {
	if math.IsNaN(seconds) || seconds <= 0 {
		return "-"
	}
	d := time.Duration(seconds * float64(time.Second))
	return d.Round(max(time.Microsecond, time.Duration(math.Pow10(int(math.Log10(float64(d)))-2)))).String()
}

// asked is a Prometheus, of which the last minutes are asked.
type asked struct {
	api promv1.API
	of  time.Duration
}

// by runs a query, with WINDOW for the time, and gives the values by their labels.
func (a asked) by(ctx context.Context, query string, labels ...model.LabelName) (map[string]float64, error) {
	query = strings.ReplaceAll(query, "WINDOW", fmt.Sprintf("[%ds]", int(a.of.Seconds())))
	value, _, _, err := a.api.Query(ctx, query, time.Now())
	if err != nil {
		return nil, fmt.Errorf("ask prometheus: %w", err)
	}
	vector, ok := value.(model.Vector)
	if !ok {
		return nil, fmt.Errorf("ask prometheus: want a vector, got a %s", value.Type())
	}
	all := map[string]float64{}
	for _, sample := range vector {
		var name []string
		for _, l := range labels {
			name = append(name, string(sample.Metric[l]))
		}
		if v := float64(sample.Value); !math.IsNaN(v) && !math.IsInf(v, 0) {
			all[strings.Join(name, " ")] = v
		}
	}
	return all, nil
}

// timings are the rate and the percentiles of a histogram, whose values are so many seconds.
func (a asked) timings(ctx context.Context, histogram string, unit float64, labels ...model.LabelName) (map[string]*timing, error) {
	group := ""
	for _, l := range labels {
		group += "," + string(l)
	}
	quantile := func(q string) string {
		return fmt.Sprintf("histogram_quantile(%s, sum by (le%s) (rate(%s_bucketWINDOW)))", q, group, histogram)
	}
	all := map[string]*timing{}
	for query, take := range map[string]func(*timing, float64){
		fmt.Sprintf("60 * sum by (%s) (rate(%s_countWINDOW)) > 0", group[1:], histogram): func(t *timing, v float64) { t.PerMinute = v },
		quantile("0.5"):  func(t *timing, v float64) { t.P50 = v * unit },
		quantile("0.95"): func(t *timing, v float64) { t.P95 = v * unit },
	} {
		found, err := a.by(ctx, query, labels...)
		if err != nil {
			return nil, err
		}
		for name, v := range found {
			if all[name] == nil {
				all[name] = &timing{Name: name}
			}
			take(all[name], v)
		}
	}
	return all, nil
}

// cluster is Envoy's label for whom it asks.
const cluster = model.LabelName("envoy_cluster_name")

// slowness asks for everything, and judges it.
func (a asked) slowness(ctx context.Context) (s slowness, err error) {
	if s.Upstreams, err = a.upstreams(ctx); err != nil {
		return s, err
	}
	endpoints, err := a.timings(ctx, "http_server_requests_seconds", 1, "application", "method", "uri")
	if err != nil {
		return s, err
	}
	maps.DeleteFunc(endpoints, func(name string, _ *timing) bool { return strings.HasPrefix(name, "stub-") }) // they stand for providers
	s.Endpoints = sorted(endpoints, func(t *timing) float64 { return t.P95 })
	s.Endpoints = s.Endpoints[:min(len(s.Endpoints), mostEndpoints)]
	if s.Stores, err = a.by(ctx, `max by (store) (max_over_time(leaky_store_answer_secondsWINDOW))`, "store"); err != nil {
		return s, err
	}
	down, err := a.by(ctx, `min by (part) (up) == 0`, "part")
	if err != nil {
		return s, err
	}
	s.Down = slices.Sorted(maps.Keys(down))
	s.Causes = s.causes()
	return s, nil
}

// upstreams are whom Envoy asked, by the share of the gateway's time that they took.
func (a asked) upstreams(ctx context.Context) ([]timing, error) {
	const milli = 1e-3 // Envoy counts milliseconds
	upstreams, err := a.timings(ctx, "envoy_cluster_upstream_rq_time", milli, cluster)
	if err != nil {
		return nil, err
	}
	shares, err := a.by(ctx, `sum by (envoy_cluster_name) (rate(envoy_cluster_upstream_rq_time_sumWINDOW)) /
		scalar(sum(rate(envoy_http_downstream_rq_time_sum{envoy_http_conn_manager_prefix="gateway"}WINDOW)))`, cluster)
	if err != nil {
		return nil, err
	}
	failed, err := a.by(ctx, `sum by (envoy_cluster_name) (
		sum by (envoy_cluster_name) (increase(envoy_cluster_upstream_rq_timeoutWINDOW)) or
		label_replace(sum by (envoy_cluster_name) (increase(envoy_cluster_upstream_cx_connect_failWINDOW)), "why", "connect", "", "") or
		label_replace(sum by (envoy_cluster_name) (increase(envoy_cluster_upstream_rq_xx{envoy_response_code_class="5"}WINDOW)),
			"why", "5xx", "", "")
		) > 0.5`, cluster)
	if err != nil {
		return nil, err
	}
	for name, n := range failed {
		if upstreams[name] == nil {
			upstreams[name] = &timing{Name: name}
		}
		upstreams[name].Failed = n
	}
	for name, share := range shares {
		if upstreams[name] != nil {
			upstreams[name].Share = min(1, share)
		}
	}
	return sorted(upstreams, func(t *timing) float64 { return t.Share }), nil
}

// sorted are those that were called, or failed, the largest first.
func sorted(all map[string]*timing, by func(*timing) float64) []timing {
	out := []timing{}
	for _, t := range all {
		if t.PerMinute > 0 || t.Failed > 0 {
			out = append(out, *t)
		}
	}
	slices.SortFunc(out, func(a, b timing) int { return cmp.Or(cmp.Compare(by(&b), by(&a)), cmp.Compare(a.Name, b.Name)) })
	return out
}

// causes are the sentences about what is above its objective, the root before what follows from it.
func (s slowness) causes() []string {
	all := []string{}
	say := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	for _, part := range s.Down {
		say("%s does not answer Prometheus: `leaky ps` has the reason, docs/operations.md#servicedown", part)
	}
	for _, name := range topology.Names(topology.Having(func(p topology.Part) bool { return p.Kind == topology.Store })) {
		if took := s.Stores[name]; took > storeAnswer {
			say("%s took %s for a ping: docs/operations.md#%sslow", name, lasting(took), name)
		}
	}
	for _, u := range s.Upstreams {
		own := u.Name == topology.ExtAuthz || u.Name == topology.RateLimit
		switch {
		case own && (u.P95 > ownShare || u.Failed > 0):
			say("%s takes %s at the 95th percentile, and %.0f of its calls failed: it, or what it waits for", u.Name, lasting(u.P95), u.Failed)
		case strings.HasPrefix(u.Name, "provider-") && u.Share > mostOfTime && u.P95 > 1:
			say("%s takes %s at the 95th percentile, %.0f %% of the gateway's time: the provider is slow, the gateway is not", u.Name, lasting(u.P95),
				100*u.Share)
		case strings.HasPrefix(u.Name, "provider-") && u.Failed > 0:
			say("%.0f calls of %s failed, and Envoy asked again: docs/operations.md#highgatewayfallbackrate", u.Failed, u.Name)
		}
	}
	for _, e := range s.Endpoints {
		if e.P95 > endpoint && !strings.Contains(e.Name, "/actuator") {
			say("%s takes %s at the 95th percentile: if no store above is slow, something holds its rows, `leaky logs postgres`", e.Name, lasting(e.P95))
		}
	}
	return all
}
