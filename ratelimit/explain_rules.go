package ratelimit

import (
	"context"
	"net/http"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/bucket"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/match"
)

// ExplainPath is where a RateLimitRequest in JSON is explained.
const ExplainPath = "/explain"

// Explained is what would be decided of a request of another Envoy just now, and why. Asking
// takes nothing and counts nothing.
type Explained struct {
	Domain            string                `json:"domain"`
	Refused           bool                  `json:"refused"`
	RetryAfterSeconds float64               `json:"retryAfterSeconds"` // of a refusal; -1: it can never fit
	Descriptors       []ExplainedDescriptor `json:"descriptors"`       // in the request's order
}

// ExplainedDescriptor is how one descriptor of it stands.
type ExplainedDescriptor struct {
	Descriptor   string         `json:"descriptor"`
	Rule         *ExplainedRule `json:"rule"`            // null: nothing limits it
	Why          string         `json:"why,omitempty"`   // there is no rule
	Mode         string         `json:"mode,omitempty"`  // enforced, shadow, quota, unlimited, override, or replaced by another rule
	Hits         int64          `json:"hits"`            // asked
	Level        float64        `json:"level"`           // before them
	Over         bool           `json:"over"`            // above the limit with them
	Remaining    int64          `json:"remaining"`       // that would fit after them
	ResetSeconds float64        `json:"resetSeconds"`    // until its window ends or its bucket is empty
	Bucket       string         `json:"bucket,omitzero"` // what is shared by whoever has the same
}

// ExplainedRule is the rule of a descriptor, or the limit that its Envoy stated.
type ExplainedRule struct {
	Name      string  `json:"name"`
	Path      string  `json:"path"`
	Line      int     `json:"line,omitzero"` // of the domain's file
	Algorithm string  `json:"algorithm"`
	Limit     float64 `json:"limit"` // most that fits
	Unit      string  `json:"unit"`
}

// ServeExplain explains a RateLimitRequest in protobuf's JSON form. 400 says what is wrong with it.
func (s *Service) ServeExplain(w http.ResponseWriter, r *http.Request) {
	request, ok := readJSON(w, r)
	if !ok {
		return
	}
	answer, err := s.explainOther(r.Context(), request)
	if err != nil {
		said := status.Convert(err)
		http.Error(w, said.Message(), httpStatus(said.Code()))
		return
	}
	httpapi.WriteJSON(w, http.StatusOK, answer)
}

// explainOther decides without taking anything.
func (s *Service) explainOther(ctx context.Context, q *match.Request) (Explained, error) {
	p := s.policy.Load()
	rules := p.Domain(q.Domain)
	switch {
	case q.Domain == "":
		return Explained{}, status.Error(codes.InvalidArgument, match.ErrNoDomain.Error())
	case rules == nil:
		return Explained{}, status.Errorf(codes.InvalidArgument, "no file has the domain %q", q.Domain)
	case rules == p.Rules:
		return Explained{}, status.Errorf(codes.InvalidArgument, "the domain %q is our own Envoy's: ask about a call by its request id", q.Domain)
	case len(q.Descriptors) == 0:
		return Explained{}, status.Error(codes.InvalidArgument, match.ErrNoDescriptors.Error())
	}
	org, user, tier := match.Callers(q.Descriptors)
	account := match.Account(org, user, q.Descriptors)
	f, err := rules.Apart().MatchForeign(q, account, tier)
	if err != nil {
		return Explained{}, status.Error(codes.InvalidArgument, err.Error())
	}
	seen, err := s.store.ReadState(ctx, account, nil, f.Buckets)
	if err != nil {
		return Explained{}, unavailable(err)
	}
	after := make([]bucket.State, len(f.Buckets))
	for i, b := range f.Buckets {
		if after[i] = seen.States[i]; b.Limit.Kind != bucket.Requests { // of which Judge takes nothing for taken
			after[i] = after[i].Use(float64(b.Own))
		}
	}
	verdicts, refused := f.Judge(after, false, p.others.Quota)
	out := Explained{Domain: q.Domain, Refused: refused && !p.others.Shadow}
	if out.Refused {
		out.RetryAfterSeconds = -1
		if wait := f.Wait(verdicts, after, seen.Now); wait >= 0 {
			out.RetryAfterSeconds = float64(wait) / 1e6
		}
	}
	replaced := map[string]string{}
	for _, v := range verdicts {
		if rule := v.Found; rule != nil {
			for _, name := range rule.Replaces {
				replaced[name] = rule.Name
			}
		}
	}
	for i := range verdicts {
		out.Descriptors = append(out.Descriptors, explainDescriptor(rules, q.Descriptors[i], &f, &verdicts[i], seen.States, seen.Now, replaced))
	}
	return out, nil
}

func explainDescriptor(rules *match.Rules, d match.Descriptor, f *match.Foreign, v *match.Verdict, before []bucket.State, now int64,
	replaced map[string]string) ExplainedDescriptor {
	e := ExplainedDescriptor{Descriptor: descriptorText(d), Hits: v.Hits}
	rule := v.Found
	switch {
	case v.Limit != nil:
		rule = v.Limit.Rule
	case rule == nil:
		e.Why = rules.Set().Why(d)
		return e
	}
	e.Rule = &ExplainedRule{Name: rule.Name, Path: rule.Path, Line: rule.Line, Algorithm: rule.Algorithm.String(), Limit: rule.Capacity,
		Unit: limits.PeriodName(rule.Period)}
	e.Mode = modeOf(rule)
	if v.Limit == nil {
		if by := replaced[rule.Name]; by != "" && !rule.Unlimited {
			e.Mode = "replaced by " + by
		}
		return e
	}
	if v.Limit.Overrides() {
		e.Mode = "override"
	}
	state := before[v.Bucket]
	e.Level, e.Over, e.Remaining, e.Bucket = state.Level(), v.Over, v.Remaining, f.Buckets[v.Bucket].Key
	e.ResetSeconds = float64(v.Limit.Params.Reset(state, now)) / 1e6
	return e
}

func modeOf(rule *limits.Rule) string {
	switch {
	case rule.Unlimited:
		return "unlimited"
	case rule.Shadow:
		return "shadow"
	case rule.Quota:
		return "quota"
	}
	return "enforced"
}

// descriptorText is a descriptor as `leaky limits test` takes it.
func descriptorText(d match.Descriptor) string {
	escape := strings.NewReplacer(`\`, `\\`, ",", `\,`)
	parts := make([]string, len(d))
	for i, e := range d {
		parts[i] = escape.Replace(e.Key + "=" + e.Value)
	}
	return strings.Join(parts, ",")
}
