package limits_test

import (
	"maps"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// stage is a row of equal calls: so many pass, and then one rule refuses.
type stage struct {
	ask    []string // descriptors
	tier   string
	tokens int64
	pass   int
	rule   string        // that refuses the next; empty: nothing does
	wait   time.Duration // that it asks for; -1: it will never fit
}

const (
	nightly = "00000000-0000-4000-8000-000000000001"
	banned  = "00000000-0000-4000-8000-000000000666"
)

// levels are the three descriptors of per-organisation.yaml.
func levels(team, user string) []string {
	return []string{"count=tokens,org=acme", "count=tokens,org=acme,team=" + team, "count=tokens,user=" + user}
}

func examples() map[string][]stage {
	model := func(name string) []string { return []string{"count=tokens,user=ann,model=" + name} }
	return map[string][]stage{
		"per-address.yaml": {
			{ask: []string{"count=requests,remote_address=192.0.2.1"}, pass: 120, rule: "per-address", wait: time.Minute},
			{ask: []string{"count=requests,remote_address=192.0.2.2"}, pass: 120, rule: "per-address", wait: time.Minute},
		},
		"per-key.yaml": {{ask: []string{"count=requests,key=k1"}, pass: 100, rule: "per-key", wait: 20 * time.Millisecond}},
		"per-user.yaml": {
			{ask: []string{"count=tokens,user=ann,provider=gemini"}, tokens: 90000, pass: 1, rule: "user-tokens", wait: 90 * time.Second},
			{ask: []string{"count=tokens,user=ann,provider=openai"}, tokens: 90001, rule: "user-tokens", wait: -1},
			{ask: []string{"count=tokens,user=ann,provider=openai"}, tokens: 30000, pass: 3, rule: "user-tokens", wait: 30 * time.Second},
		},
		"per-tier.yaml": {
			{ask: []string{"count=tokens,user=ann"}, tier: "USER", tokens: 1000, pass: 10, rule: "tokens-by-tier", wait: 10 * time.Second},
			{ask: []string{"count=tokens,user=bob"}, tier: "GOLD", tokens: 1000, pass: 40, rule: "tokens-by-tier", wait: 2500 * time.Millisecond},
		},
		"per-organisation.yaml": {
			{ask: levels("red", "ann"), tokens: 100000, pass: 2, rule: "member-hour", wait: time.Hour},
			{ask: levels("red", "bob"), tokens: 200000, pass: 1},
			{ask: levels("red", "carl"), tokens: 200000, pass: 1},
			{ask: levels("red", "dora"), tokens: 200000, pass: 1},
			{ask: levels("red", "emil"), tokens: 200000, pass: 1},
			{ask: levels("red", "fred"), tokens: 1, rule: "team-day", wait: 24 * time.Hour},
			{ask: levels("blue", "fred"), tokens: 200000, pass: 1, rule: "member-hour", wait: time.Hour},
			{ask: []string{"count=tokens,org=acme"}, tokens: 8800000, pass: 1, rule: "org-month", wait: 30 * 24 * time.Hour},
		},
		"per-team.yaml": {
			{ask: []string{"count=requests,org=acme,team=red"}, pass: 60},
			{ask: []string{"count=requests,org=acme,team=interns"}, pass: 50, rule: "interns", wait: time.Hour},
			{ask: []string{"count=requests,org=other,team=interns"}, pass: 50, rule: "interns", wait: time.Hour},
		},
		"per-model.yaml": {
			{ask: model("gpt-4o"), tokens: 10000, pass: 4, rule: "gpt-4o", wait: time.Minute},
			{ask: model("gpt-4.1"), tokens: 10000, pass: 2, rule: "gpt-4", wait: time.Minute},
			{ask: model("gpt-4-turbo"), tokens: 10000, pass: 2, rule: "gpt-4", wait: time.Minute},
			{ask: model("o1"), tokens: 1000, pass: 3},
			{ask: model("o3"), tokens: 1000, pass: 2, rule: "reasoning", wait: time.Minute},
			{ask: model("qwen-max"), tokens: 50000, pass: 2, rule: "any-model", wait: time.Minute},
		},
		"per-provider.yaml": {
			{ask: []string{"count=requests,provider=openai"}, pass: 500, rule: "openai-requests", wait: 2 * time.Millisecond},
			{ask: []string{"count=tokens,provider=gemini"}, tokens: 500000, pass: 4, rule: "provider-tokens", wait: 15 * time.Second},
		},
		"shadow.yaml": {{ask: []string{"count=requests,user=ann", "count=requests,key=k1"}, pass: 600, rule: "old-limit", wait: time.Minute}},
		"unlimited.yaml": {
			{ask: []string{"count=requests,user=" + banned}, rule: "banned", wait: -1},
			{ask: []string{"count=requests,user=ann", "count=requests,key=" + nightly, "count=requests,remote_address=192.0.2.1"}, pass: 150,
				rule: "each-address", wait: time.Hour},
			{ask: []string{"count=requests,user=ann", "count=requests,key=other"}, pass: 100, rule: "everybody", wait: time.Hour},
		},
	}
}

// TestExamples sends each example what it is for. The clock stands still but for the
// last refusal of a file, whose wait is waited: it has to be the truth.
func TestExamples(t *testing.T) {
	t.Parallel()
	for file, stages := range examples() {
		t.Run(file, func(t *testing.T) {
			t.Parallel()
			s := start(t, file)
			for i, stage := range stages {
				s.play(t, i+1, stage, i == len(stages)-1)
			}
		})
	}
}

func (s *service) play(t *testing.T, number int, a stage, last bool) {
	t.Helper()
	for n := range a.pass {
		if answer := s.hold(t, a.tier, a.tokens, a.ask); !answer.GetAdmitted() {
			t.Fatalf("stage %d: call %d of %d is refused: %v", number, n+1, a.pass, answer)
		}
	}
	if a.rule == "" {
		return
	}
	answer := s.hold(t, a.tier, a.tokens, a.ask)
	if answer.GetAdmitted() || answer.GetRule() != a.rule {
		t.Fatalf("stage %d: want %s to refuse, got %v", number, a.rule, answer)
	}
	wait := time.Duration(answer.GetRetryAfterUs()) * time.Microsecond
	if a.wait < 0 {
		if answer.GetRetryAfterUs() != -1 {
			t.Fatalf("stage %d: want it never to fit, got a wait of %s", number, wait)
		}
		return
	}
	if off := (wait - a.wait).Abs(); off > 5*time.Microsecond {
		t.Errorf("stage %d: want to be told to wait %s, got %s", number, a.wait, wait)
	}
	if !last {
		return
	}
	s.now.Add(answer.GetRetryAfterUs())
	if answer := s.hold(t, a.tier, a.tokens, a.ask); !answer.GetAdmitted() {
		t.Errorf("stage %d: refused after the wait of %s: %v", number, wait, answer)
	}
}

// TestEveryExampleIsTested keeps the table whole.
func TestEveryExampleIsTested(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	tested := slices.Collect(maps.Keys(examples()))
	tested = append(tested, "envoy.yaml", "other-envoy.yaml", "tokens-envoy.yaml", "tokens.yaml") // behind an Envoy
	slices.Sort(tested)
	if !slices.Equal(files, tested) {
		t.Errorf("files %v, tested %v", files, tested)
	}
}

// TestShadowTells counts whom the limit in shadow mode would have refused.
func TestShadowTells(t *testing.T) {
	t.Parallel()
	s := start(t, "shadow.yaml")
	for range 100 {
		if answer := s.hold(t, "", 0, []string{"count=requests,user=ann", "count=requests,key=k1"}); !answer.GetAdmitted() {
			t.Fatalf("refused: %v", answer)
		}
	}
	if got := s.counter(t, "leaky_ratelimit_shadow_refusals_total", "new-limit"); got != 40 {
		t.Errorf("want 40 of 100 calls told as over the limit of 60, got %g", got)
	}
	if got := s.counter(t, "leaky_ratelimit_refusals_total", "new-limit"); got != 0 {
		t.Errorf("want no refusal, got %g", got)
	}
}

// TestLabelsCarryValues looks at the metric of a rule with value_to_metric.
func TestLabelsCarryValues(t *testing.T) {
	t.Parallel()
	s := start(t, "per-provider.yaml")
	for range 2 {
		s.hold(t, "", 1_500_000, []string{"count=tokens,provider=gemini"})
	}
	if got := s.counter(t, "leaky_ratelimit_refusals_total", "count_tokens.provider_gemini"); got != 1 {
		t.Errorf("want one refusal with the provider in its label, got %g", got)
	}
}

// counter reads a metric of the service with these values of labels, 0 if there is none.
func (s *service) counter(t *testing.T, name string, values ...string) float64 {
	t.Helper()
	families, err := s.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			labels := map[string]bool{}
			for _, l := range m.GetLabel() {
				labels[l.GetValue()] = true
			}
			if !slices.ContainsFunc(values, func(v string) bool { return !labels[v] }) {
				return m.GetCounter().GetValue()
			}
		}
	}
	return 0
}
