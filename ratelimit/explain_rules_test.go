package ratelimit_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"

	common "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
	"github.com/leaky-tokens/leaky-tokens/ratelimit"
)

// explained asks what would be decided of a request in the shop's domain.
func (e *env) explained(t *testing.T, ds ...*common.RateLimitDescriptor) ratelimit.Explained {
	t.Helper()
	text, err := protojson.Marshal(inDomain("shop", ds...))
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	e.service.ServeExplain(w, httptest.NewRequest(http.MethodPost, ratelimit.ExplainPath, strings.NewReader(string(text))))
	var got ratelimit.Explained
	if err := json.Unmarshal(w.Body.Bytes(), &got); w.Code != http.StatusOK || err != nil {
		t.Fatalf("%d %s: %v", w.Code, w.Body, err)
	}
	return got
}

// TestExplainOfAnotherDomain explains each kind of rule, and says beforehand what is decided then.
func TestExplainOfAnotherDomain(t *testing.T) {
	t.Parallel()
	e, _ := foreignEnv(t, shop+"  - {key: boss, rate_limit: {unlimited: true, replaces: [{name: w}]}}\n")
	for range 2 {
		e.asked(t, of("narrow", "x", 1))
	}
	e.asked(t, of("leaky", "x", 60))
	stated := of("none", "x", 1)
	stated.Limit = &common.RateLimitDescriptor_RateLimitOverride{RequestsPerUnit: 3, Unit: typev3.RateLimitUnit_DAY}
	got := e.explained(t, of("narrow", "x", 1), of("leaky", "x", 7), of("window", "a,b", 1), of("boss", "x", 1), of("trial", "x", 5), stated,
		of("nothing", "x", 1))
	want := []ratelimit.ExplainedDescriptor{
		{Descriptor: "narrow=x", Mode: "enforced", Hits: 1, Level: 2, Over: true, ResetSeconds: 3600, Bucket: "b:shop|narrow|x"},
		{Descriptor: "leaky=x", Mode: "enforced", Hits: 7, Level: 60, Remaining: 33, ResetSeconds: 2160.000001, Bucket: "b:shop|leaky|x"},
		{Descriptor: `window=a\,b`, Mode: "replaced by boss", Hits: 1},
		{Descriptor: "boss=x", Mode: "unlimited", Hits: 1},
		{Descriptor: "trial=x", Mode: "shadow", Hits: 5, Over: true, Bucket: "b:shop|trial|x"},
		{Descriptor: "none=x", Mode: "override", Hits: 1, Remaining: 2, Bucket: "b:shop|none|x|day"},
		{Descriptor: "nothing=x", Hits: 1, Why: "the file begins with window, leaky, token, closed, admitted, narrow, free, trial, service, boss, not nothing=x"},
	}
	for i := range got.Descriptors {
		if rule := got.Descriptors[i].Rule; (rule == nil) != (i == 6) {
			t.Errorf("%s: rule %+v", got.Descriptors[i].Descriptor, rule)
		}
		got.Descriptors[i].Rule = nil
	}
	if diff := cmp.Diff(want, got.Descriptors); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if !got.Refused || got.RetryAfterSeconds < 3599 || got.RetryAfterSeconds > 3601 {
		t.Errorf("want it refused for an hour, got %+v", got)
	}
	for _, key := range []string{"window", "leaky", "token", "closed", "admitted", "narrow", "free", "trial", "service"} {
		for _, hits := range []int64{0, 1, 9, 120} {
			said := e.explained(t, of(key, "one", hits))
			if said, again := e.explained(t, of(key, "one", hits)), said; !cmp.Equal(said, again) {
				t.Errorf("%s: asking changed something: %+v, then %+v", key, again, said)
			}
			if r := e.asked(t, of(key, "one", hits)); over(r) != said.Refused {
				t.Errorf("%s with %d hits: said refused %t, then %v", key, hits, said.Refused, r)
			}
		}
	}
}

// TestExplainMistakes are told in a sentence; and who only asks makes no rule look used.
func TestExplainMistakes(t *testing.T) {
	t.Parallel()
	e, _ := foreignEnv(t, shop)
	for body, want := range map[string]string{
		`{`: "no RateLimitRequest in JSON", `{"domain": "shop"}`: "descriptor list must not be empty", `{}`: "domain must not be empty",
		`{"domain": "shpo", "descriptors": [{}]}`: `no file has the domain "shpo"`, `{"domain": "leaky", "descriptors": [{}]}`: "our own Envoy's",
		`{"domain": "shop", "descriptors": [{"limit": {"requestsPerUnit": 1}}]}`: "no unit that is known",
	} {
		w := httptest.NewRecorder()
		e.service.ServeExplain(w, httptest.NewRequest(http.MethodPost, ratelimit.ExplainPath, strings.NewReader(body)))
		if w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s: want 400 and %q, got %d %s", body, want, w.Code, w.Body)
		}
	}
	if d := e.explained(t, &common.RateLimitDescriptor{}).Descriptors[0]; d.Why != "it has no entry" {
		t.Errorf("no entry: %+v", d)
	}
	e.explained(t, of("narrow", "x", 1))
	for _, rule := range e.service.Rules() {
		if rule.Domain != limits.Domain && rule.LastMatch != nil {
			t.Errorf("%s: matched %s", rule.Name, rule.LastMatch)
		}
	}
}
