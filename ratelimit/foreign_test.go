package ratelimit_test

import (
	"strings"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	common "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
	"github.com/leaky-tokens/leaky-tokens/ratelimit"
)

const shop = `
domain: shop
descriptors:
  - {key: window, rate_limit: {name: w, unit: hour, requests_per_unit: 100}}
  - {key: leaky, rate_limit: {unit: hour, requests_per_unit: 100}, metadata: {rate_limit_policy: {algorithm: leaky_bucket}}}
  - {key: token, rate_limit: {unit: hour, requests_per_unit: 100}, metadata: {rate_limit_policy: {algorithm: token_bucket}}}
  - {key: closed, rate_limit: {unit: hour, requests_per_unit: 0}}
  - {key: admitted, rate_limit: {unit: hour, requests_per_unit: 10}, metadata: {rate_limit_policy: {count: admitted}}}
  - {key: narrow, rate_limit: {unit: hour, requests_per_unit: 2}}
  - {key: free, rate_limit: {unlimited: true}}
  - {key: trial, shadow_mode: true, rate_limit: {unit: hour, requests_per_unit: 1}}
  - key: service
    value: one
    quota_mode: true
    rate_limit: {unit: hour, requests_per_unit: 1}
    metadata: {service_with_quota: {name: one}, both: 1}
  - key: service
    value: two
    quota_mode: true
    rate_limit: {unit: hour, requests_per_unit: 2}
    metadata: {service_with_quota: {name: two, more: true}, both: 2}
`

// foreignEnv is a service with a domain of another Envoy; its clock stands until it is moved.
func foreignEnv(t *testing.T, text string, options ...option) (*env, *atomic.Int64) {
	t.Helper()
	set, err := limits.ParseWith([]byte(text), limits.Options{AnyKeys: true})
	if err != nil {
		t.Fatal(err)
	}
	now := new(atomic.Int64)
	now.Store(1_800_000_000_000_000)
	return start(t, thousand, append([]option{func(c *ratelimit.Config) {
		c.Domains = []*limits.Set{set}
		c.Now = now.Load
	}}, options...)...), now
}

// of is a descriptor of one entry; hits below zero are not stated.
func of(key, value string, hits int64) *common.RateLimitDescriptor {
	d := &common.RateLimitDescriptor{Entries: []*common.RateLimitDescriptor_Entry{entry(key, value)}}
	if hits >= 0 {
		d.HitsAddend = wrapperspb.UInt64(uint64(hits))
	}
	return d
}

// asked is the answer to a request in the shop's domain.
func (e *env) asked(t *testing.T, ds ...*common.RateLimitDescriptor) *rls.RateLimitResponse {
	t.Helper()
	r, err := e.envoy.ShouldRateLimit(t.Context(), &rls.RateLimitRequest{Domain: "shop", Descriptors: ds})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// compact takes out the spaces that protojson puts in at random.
func compact(text string) string { return strings.NewReplacer(", ", ",", ": ", ":").Replace(text) }

func over(r *rls.RateLimitResponse) bool {
	return r.GetOverallCode() == rls.RateLimitResponse_OVER_LIMIT
}

// TestTokenIdiom asks with 0 before each call and charges 30 after it, as Envoys do that
// limit tokens: served until above the limit, refused then, and served again later.
func TestTokenIdiom(t *testing.T) {
	t.Parallel()
	for _, key := range []string{"window", "leaky", "token"} {
		t.Run(key, func(t *testing.T) {
			t.Parallel()
			e, now := foreignEnv(t, shop)
			served := 0
			for range 20 {
				if !over(e.asked(t, of(key, "ann", 0))) {
					served++
					e.asked(t, of(key, "ann", 30))
				}
			}
			if served != 4 {
				t.Errorf("want 4 calls served, 120 tokens, got %d", served)
			}
			now.Add(13 * 60e6) // a bucket leaks 21 and is at 99; a window stands
			if got, want := over(e.asked(t, of(key, "ann", 0))), key == "window"; got != want {
				t.Errorf("13 minutes later: refused %t, want %t", got, want)
			}
			now.Add(60 * 60e6)
			if over(e.asked(t, of(key, "ann", 0))) {
				t.Error("refused after more than an hour")
			}
		})
	}
}

// TestForeignVerdicts are single steps against fresh limits, in order.
func TestForeignVerdicts(t *testing.T) {
	t.Parallel()
	type step struct {
		ask     []*common.RateLimitDescriptor
		refused bool
	}
	one := func(key string, hits int64, refused bool) step {
		return step{[]*common.RateLimitDescriptor{of(key, "x", hits)}, refused}
	}
	override := func(requests uint32, unit typev3.RateLimitUnit, key string) *common.RateLimitDescriptor {
		d := of(key, "x", -1)
		d.Limit = &common.RateLimitDescriptor_RateLimitOverride{RequestsPerUnit: requests, Unit: unit}
		return d
	}
	hour := typev3.RateLimitUnit_HOUR
	for name, steps := range map[string][]step{
		"too large first":    {one("narrow", 6, true), one("narrow", 1, true), one("narrow", 0, true)},
		"at the limit":       {one("narrow", 2, false), one("narrow", 0, false), one("narrow", 1, true)},
		"closed":             {one("closed", -1, true), one("closed", 0, true)},
		"admitted only":      {one("admitted", 8, false), one("admitted", 5, true), one("admitted", 2, false), one("admitted", 1, true)},
		"unlimited":          {one("free", 1<<40, false), one("free", -1, false)},
		"shadow":             {one("trial", 5, false), one("trial", 5, false)},
		"sibling is counted": {{[]*common.RateLimitDescriptor{of("narrow", "x", -1), of("closed", "x", -1)}, true}, one("narrow", -1, false), one("narrow", -1, true)},
		"sibling is not":     {{[]*common.RateLimitDescriptor{of("admitted", "x", 9), of("closed", "x", -1)}, true}, one("admitted", 10, false)},
		"quota, one then all": {
			{[]*common.RateLimitDescriptor{of("service", "one", -1), of("service", "two", -1)}, false},
			{[]*common.RateLimitDescriptor{of("service", "one", -1), of("service", "two", -1)}, false},
			{[]*common.RateLimitDescriptor{of("service", "one", -1), of("service", "two", -1)}, true}},
		"override without rule": {
			{[]*common.RateLimitDescriptor{override(1, hour, "none")}, false}, {[]*common.RateLimitDescriptor{override(1, hour, "none")}, true},
			{[]*common.RateLimitDescriptor{override(3, hour, "none")}, false}},
		"override below the rule": {
			one("window", 1, false), {[]*common.RateLimitDescriptor{override(2, hour, "window")}, false},
			{[]*common.RateLimitDescriptor{override(2, hour, "window")}, true}, one("window", 90, false)},
		"override above the rule": {one("narrow", 2, false), {[]*common.RateLimitDescriptor{override(5, hour, "narrow")}, false}},
		"override of a window of its own": {
			one("narrow", 2, false), {[]*common.RateLimitDescriptor{override(1, typev3.RateLimitUnit_MINUTE, "narrow")}, false},
			one("narrow", 1, true)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e, _ := foreignEnv(t, shop)
			for i, s := range steps {
				if r := e.asked(t, s.ask...); over(r) != s.refused {
					t.Errorf("step %d: want refused %t, got %v", i+1, s.refused, r)
				}
			}
		})
	}
}

// TestForeignStatuses reads how each descriptor stands, and what the client is told.
func TestForeignStatuses(t *testing.T) {
	t.Parallel()
	e, now := foreignEnv(t, shop)
	now.Add(10 * 60e6)
	r := e.asked(t, of("window", "x", 30), of("none", "x", -1), of("free", "x", -1), of("leaky", "x", 50), of("window", "x", 30))
	got, err := protojson.Marshal(&rls.RateLimitResponse{Statuses: r.GetStatuses()})
	if err != nil {
		t.Fatal(err)
	}
	var want rls.RateLimitResponse
	if err := protojson.Unmarshal([]byte(`{"statuses": [
		{"code": "OK", "currentLimit": {"name": "w", "requestsPerUnit": 100, "unit": "HOUR"}, "limitRemaining": 70, "durationUntilReset": "3000s"},
		{"code": "OK"},
		{"code": "OK", "limitRemaining": 4294967295},
		{"code": "OK", "currentLimit": {"requestsPerUnit": 100, "unit": "HOUR"}, "limitRemaining": 50, "durationUntilReset": "1801s"},
		{"code": "OK", "currentLimit": {"name": "w", "requestsPerUnit": 100, "unit": "HOUR"}, "limitRemaining": 40, "durationUntilReset": "3000s"}]}`),
		&want); err != nil {
		t.Fatal(err)
	}
	if wanted, _ := protojson.Marshal(&want); string(wanted) != string(got) {
		t.Errorf("statuses: want %s\ngot  %s", wanted, got)
	}
	if h := headers(r); h["x-ratelimit-limit"] != "100" || h["x-ratelimit-remaining"] != "40" || h["x-ratelimit-reset"] != "3000" {
		t.Errorf("headers %v", h)
	}
	if h := headers(e.asked(t, of("narrow", "x", 5))); h["retry-after"] != "" || h["x-ratelimit-remaining"] != "0" {
		t.Errorf("of what can never fit: %v", h)
	}
	if h := headers(e.asked(t, of("narrow", "x", 1))); h["retry-after"] != "3000" && h["retry-after"] != "3001" {
		t.Errorf("of what fits in the next window: %v", h)
	}
}

// TestForeignMetadata is what a rule's metadata comes back as, while it has room.
func TestForeignMetadata(t *testing.T) {
	t.Parallel()
	e, _ := foreignEnv(t, shop)
	for call, want := range []string{
		`{"both":1,"service_with_quota":{"more":true,"name":"one"}}`, // of both, the first wins
		`{"both":2,"service_with_quota":{"more":true,"name":"two"}}`, // one is over
		``,
	} {
		m := e.asked(t, of("service", "one", -1), of("service", "two", -1)).GetDynamicMetadata()
		got := ""
		if one := m.GetFields()["metadata"].GetStructValue(); one != nil {
			text, err := one.MarshalJSON()
			if err != nil {
				t.Fatal(err)
			}
			got = string(text)
		}
		if got = compact(got); got != want {
			t.Errorf("call %d: want %s, got %s", call+1, want, got)
		}
		if d := m.GetFields()["domain"].GetStringValue(); d != "shop" || len(m.GetFields()["descriptors"].GetListValue().GetValues()) != 2 {
			t.Errorf("call %d: %v", call+1, m)
		}
	}
}

// TestForeignMistakes are requests that say too little or what nobody understands.
func TestForeignMistakes(t *testing.T) {
	t.Parallel()
	e, _ := foreignEnv(t, shop)
	strange := of("narrow", "x", -1)
	strange.Limit = &common.RateLimitDescriptor_RateLimitOverride{RequestsPerUnit: 1}
	for name, r := range map[string]*rls.RateLimitRequest{
		"no domain":             {Descriptors: []*common.RateLimitDescriptor{of("narrow", "x", -1)}},
		"no descriptor":         {Domain: "shop"},
		"override without unit": {Domain: "shop", Descriptors: []*common.RateLimitDescriptor{of("narrow", "x", 2), strange}},
	} {
		if got, err := e.envoy.ShouldRateLimit(t.Context(), r); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: want InvalidArgument, got %v and %v", name, got, err)
		}
	}
	if over(e.asked(t, of("narrow", "x", 2))) {
		t.Error("what was an error took something")
	}
}

// TestForeignMetrics counts hits by domain and rule, as upstream does it: a hit that is
// above the limit is over, those between 80 percent and the limit are near as well.
func TestForeignMetrics(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	e, _ := foreignEnv(t, `{domain: shop, descriptors: [{key: k, rate_limit: {name: "é", unit: hour, requests_per_unit: 10}}]}`,
		func(c *ratelimit.Config) { c.Metrics = registry })
	for _, hits := range []int64{7, 2, 4} { // 7: within; 9: near with one; 13: over with three
		e.asked(t, of("k", "x", hits))
	}
	const want = `
		# HELP leaky_ratelimit_rule_hits_total Hits in the domains of other Envoys by rule: total, and of those within the limit, over it, near it, which is above 80 percent and counted in within or over too, over it in shadow_mode, and over it and answered without Redis (local).
		# TYPE leaky_ratelimit_rule_hits_total counter
		leaky_ratelimit_rule_hits_total{domain="shop",level="local",rule="é"} 0
leaky_ratelimit_rule_hits_total{domain="shop",level="near",rule="é"} 2
		leaky_ratelimit_rule_hits_total{domain="shop",level="over",rule="é"} 3
leaky_ratelimit_rule_hits_total{domain="shop",level="shadow",rule="é"} 0
		leaky_ratelimit_rule_hits_total{domain="shop",level="total",rule="é"} 13
		leaky_ratelimit_rule_hits_total{domain="shop",level="within",rule="é"} 9
	`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "leaky_ratelimit_rule_hits_total"); err != nil {
		t.Error(err)
	}
}
