package ratelimit

import (
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/leaky-tokens/leaky-tokens/ratelimit/bucket"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/match"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/store"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/wire"
)

// foreign is the part of a request in the domain of another Envoy that is not one of
// ours: it is told how each of its descriptors stands.
type foreign struct {
	request  match.Request
	matched  match.Foreign
	verdicts []match.Verdict
	refused  bool
	how      *Others
	metadata bool // rules' metadata is told
}

// findForeignLimits makes what is taken of whom in the domain of another Envoy.
func (s *Service) findForeignLimits(p *policy, rules *match.Rules, r *match.Request, out *envoyCall) {
	if len(r.Descriptors) == 0 {
		out.fail(status.Error(codes.InvalidArgument, match.ErrNoDescriptors.Error()))
		return
	}
	org, user, tier := match.Callers(r.Descriptors)
	account := match.Account(org, user, r.Descriptors)
	matched, err := rules.MatchForeign(r, account, tier)
	if err != nil {
		out.fail(status.Error(codes.InvalidArgument, err.Error()))
		return
	}
	out.others = &foreign{request: *r, matched: matched, how: &p.others, metadata: p.others.Metadata || rules.HasMetadata()}
	out.rules, out.asked, out.matched = rules, r.Descriptors, matched.Matched
	out.take = store.Take{Account: account, Buckets: matched.Buckets, Requests: r.Counting().Hits}
	out.mode = p.outage.For(match.Route(r.Descriptors))
}

// judge tells how each descriptor stands after a decision, and counts its hits.
func (s *Service) judge(e *envoyCall) {
	o, a := e.others, &e.admission
	o.verdicts, o.refused = o.matched.Judge(a.taken.States, a.taken.Outcome == store.Admitted, o.how.Quota)
	o.refused = o.refused && !o.how.Shadow
	domain := a.rules.Set().Domain()
	for i := range o.verdicts {
		v := &o.verdicts[i]
		if v.Limit == nil || v.Hits <= 0 {
			continue
		}
		count := s.metrics.hitsOf(domain, a.matched.Label(v.Bucket))
		within, over, near := v.Levels(o.how.NearLimit)
		count.total.Add(float64(v.Hits))
		count.within.Add(within)
		count.over.Add(over)
		count.near.Add(near)
		if v.Limit.Rule.Shadow {
			count.shadow.Add(over)
		}
		if e.known {
			count.local.Add(over)
		}
	}
}

// foreignResponse is the answer to another Envoy.
func (s *Service) foreignResponse(e *envoyCall) *wire.Response {
	t, o := &e.taken, e.others
	if o.how.Local && !e.known && len(t.States) == len(o.matched.Buckets) {
		e.full.learn(&o.matched.Matched, t)
	}
	s.judge(e)
	f := wire.Foreign{Request: &o.request, States: t.States, Now: t.Now, Metadata: o.metadata, Wait: bucket.Never,
		Silent: o.how.Silent, Headers: o.how.Headers}
	f.Verdicts, f.Refused = o.verdicts, o.refused
	if f.Refused {
		f.Wait = o.matched.Wait(f.Verdicts, t.States, t.Now)
	}
	return wire.AnswerForeign(&f)
}
