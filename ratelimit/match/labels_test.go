package match

import (
	"strings"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
)

// TestLabelsAreBounded gives a rule's metrics more values than they may carry.
func TestLabelsAreBounded(t *testing.T) {
	t.Parallel()
	set, err := limits.Parse([]byte("domain: leaky\ndescriptors: [{key: count, value: requests, descriptors: [{key: user, detailed_metric: true, rate_limit: {unit: day, requests_per_unit: 1}}]}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	l, rule, seen := Labels{}, set.Rules()[0], map[string]bool{}
	for i := range 3 * mostLabels {
		seen[l.of(rule, Descriptor{{Key: "count", Value: "requests"}, {Key: "user", Value: strings.Repeat("x", i%300) + "é" +
			time.Duration(i).String()}})] = true
	}
	if len(seen) > mostLabels+1 || !seen["count_requests.user other"] {
		t.Errorf("%d labels", len(seen))
	}
}
