package protos

import (
	"strings"
	"testing"

	rlsconf "github.com/envoyproxy/go-control-plane/ratelimit/config/ratelimit/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/leaky-tokens/leaky-tokens/deploy"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
)

func TestRateLimits(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ yaml, want, wrong string }{
		"everything": {`domain: shop
descriptors:
  - key: a
    value: 5
    shadow_mode: true
    quota_mode: true
    detailed_metric: true
    metadata: {rate_limit_policy: {burst: 9, list: [1, x]}}
    rate_limit: {name: n, unit: month, requests_per_unit: 4294967295, replaces: [{name: m}]}
    descriptors: [{key: b, rate_limit: {unlimited: true}}]
`, `{"name":"shop","domain":"shop","descriptors":[{"key":"a","value":"5","shadowMode":true,"quotaMode":true,"detailedMetric":true,
	"metadata":{"rate_limit_policy":{"burst":9,"list":[1,"x"]}},
	"rateLimit":{"name":"n","unit":"MONTH","requestsPerUnit":4294967295,"replaces":[{"name":"m"}]},
	"descriptors":[{"key":"b","rateLimit":{"unlimited":true}}]}]}`, ""},
		"anchors": {`domain: shop
descriptors:
  - {key: a, rate_limit: &one {unit: hour, requests_per_unit: 1}}
  - {key: b, rate_limit: *one}
  - {key: c, rate_limit: {<<: *one, unit: day}}
`, `{"name":"shop","domain":"shop","descriptors":[{"key":"a","rateLimit":{"unit":"HOUR","requestsPerUnit":1}},
	{"key":"b","rateLimit":{"unit":"HOUR","requestsPerUnit":1}},{"key":"c","rateLimit":{"unit":"DAY","requestsPerUnit":1}}]}`, ""},
		"no word for it": {"domain: shop\ndescriptors: [{key: a, value: x*, share_threshold: true}]\n", "", "share_threshold"},
		"too many":       {"domain: shop\ndescriptors: [{key: a, rate_limit: {unit: day, requests_per_unit: 4294967296}}]\n", "", "shop.yaml"},
	} {
		got, err := RateLimits(limits.Text{Name: "shop.yaml", YAML: []byte(c.yaml)})
		if c.wrong != "" {
			if err == nil || !strings.Contains(err.Error(), c.wrong) {
				t.Errorf("%s: want an error with %q, got %v %v", name, c.wrong, got, err)
			}
			continue
		}
		var want rlsconf.RateLimitConfig
		if err := protojson.Unmarshal([]byte(c.want), &want); err != nil {
			t.Fatal(err)
		}
		if err != nil || !proto.Equal(got, &want) {
			t.Errorf("%s: want %v, got %v %v", name, &want, got, err)
		}
	}
	if own, err := RateLimits(limits.Text{YAML: deploy.DefaultLimits}); err != nil || own.GetDomain() != limits.Domain || len(own.GetDescriptors()) == 0 {
		t.Errorf("want the built-in limits taken, got %v %v", own, err)
	}
}
