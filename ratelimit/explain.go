package ratelimit

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/match"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/store"
)

// recalled is a decision as it was made. It is kept as it lay in memory and made
// readable only when somebody asks.
type recalled struct {
	at       int64 // microseconds
	take     store.Take
	matched  match.Matched
	taken    store.Taken
	refusal  match.Refusal
	shadow   []string
	rules    *match.Rules
	asked    []match.Descriptor
	admitted bool
	note     string
}

// memory holds the last decisions of this replica about calls that have an id.
type memory struct {
	mu   sync.Mutex
	ring []recalled
	next int
}

// add forgets the oldest decision for a new one.
func (m *memory) add(r *recalled) {
	if len(m.ring) == 0 || r.take.ID == "" || r.taken.Outcome == store.Repeated {
		return
	}
	m.mu.Lock()
	m.ring[m.next] = *r
	m.next = (m.next + 1) % len(m.ring)
	m.mu.Unlock()
}

// find is the last decision about a request.
func (m *memory) find(id string) (recalled, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range m.ring {
		if one := &m.ring[(m.next-1-i+2*len(m.ring))%len(m.ring)]; one.take.ID == id {
			return *one, true
		}
	}
	return recalled{}, false
}

// remember keeps what Redis said of a call.
func (s *Service) remember(a *admission) {
	if a.take.ID == "" {
		return
	}
	r := recalled{at: a.taken.Now, take: a.take, matched: a.matched, taken: a.taken, refusal: a.refusal, shadow: a.shadow, rules: a.rules,
		asked: a.asked, admitted: !a.taken.Outcome.Refuses()}
	if a.err != nil {
		r.admitted, r.note = false, "Envoy had given up waiting, so the hold was given back"
	}
	s.memory.add(&r)
}

// rememberBlind keeps a decision that was made without Redis.
func (s *Service) rememberBlind(a *admission) {
	r := recalled{at: time.Now().UnixMicro(), take: a.take, rules: a.rules, asked: a.asked, admitted: a.blind,
		note: "Redis did not answer; the route's outage mode decided: " + string(a.mode)}
	if a.blind {
		r.taken = store.Taken{Held: a.take.Input + a.taken.Output, Output: a.taken.Output}
	}
	s.memory.add(&r)
}

// rememberMalformed keeps a call whose attributes made no sense.
func (s *Service) rememberMalformed(c *match.Call, why error) {
	s.memory.add(&recalled{at: time.Now().UnixMicro(), take: store.Take{ID: c.ID, Account: c.Account, Facts: c.Facts()}, note: why.Error()})
}

// Explain is leaky.limit.v1.Limiter's: how this replica decided about one of its last
// calls, and what became of the hold.
func (s *Service) Explain(ctx context.Context, r *limitpb.ExplainRequest) (*limitpb.ExplainResponse, error) {
	if id := r.GetRequestId(); !match.ValidID(id) {
		return nil, status.Errorf(codes.InvalidArgument, "no request id: letters, digits and dashes, at most %d", match.MaxID)
	}
	d, ok := s.memory.find(r.GetRequestId())
	if !ok {
		return &limitpb.ExplainResponse{}, nil
	}
	out := &limitpb.ExplainResponse{Found: true, Facts: &limitpb.Facts{}, Account: d.take.Account, DecidedUnixUs: d.at, Admitted: d.admitted,
		Held: d.taken.Held, Output: d.taken.Output, Shadow: d.shadow, Note: d.note}
	if d.rules != nil {
		for _, one := range d.rules.Unmatched(d.asked) {
			out.Unmatched = append(out.Unmatched, toProto(one))
		}
	}
	if err := proto.Unmarshal(d.take.Facts, out.Facts); err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	if len(d.taken.States) == len(d.matched.Limits) {
		out.Buckets = showBuckets(&d.matched, d.taken.States, d.taken.Now)
	}
	if d.taken.Pool.Known {
		out.Balance = showPool(d.taken.Pool, d.taken.Now)
	}
	out.Refusal, out.Rule, out.RetryAfterUs = refusalOf(d.taken.Outcome, d.refusal)
	out.Hold = &limitpb.HoldState{RequestId: d.take.ID, State: limitpb.HoldState_UNKNOWN}
	if seen, err := s.store.ReadState(ctx, d.take.Account, []string{d.take.ID}, nil); err == nil {
		one := seen.Records[0]
		out.Hold.State, out.Hold.Held, out.Hold.Charged = holdState(one.State), one.Held, one.Charged
	} else if out.Note == "" {
		out.Note = "Redis does not answer, so what became of the hold is not known"
	}
	return out, nil
}

// refusalOf says what refused, by which rule, and the wait in microseconds.
func refusalOf(o store.Outcome, no match.Refusal) (what limitpb.Refusal, rule string, wait int64) {
	switch o {
	case store.Short:
		return limitpb.Refusal_REFUSAL_BALANCE, "", no.Wait
	case store.NoPool:
		return limitpb.Refusal_REFUSAL_NO_POOL, "", -1
	case store.Refused:
		return limitpb.Refusal_REFUSAL_LIMIT, no.Limit.Rule.Name, no.Wait
	}
	return limitpb.Refusal_REFUSAL_UNSPECIFIED, "", 0
}
