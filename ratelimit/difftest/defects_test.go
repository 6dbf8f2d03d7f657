package difftest_test

import (
	"testing"

	common "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const two = `
domain: shop
descriptors:
  - {key: wide, rate_limit: {unit: hour, requests_per_unit: 10}}
  - {key: narrow, rate_limit: {unit: hour, requests_per_unit: 2}}
`

func one(key string) *common.RateLimitDescriptor {
	return &common.RateLimitDescriptor{Entries: []*common.RateLimitDescriptor_Entry{{Key: key, Value: "x"}}}
}

func request(hits uint32, ds ...*common.RateLimitDescriptor) *rls.RateLimitRequest {
	return &rls.RateLimitRequest{Domain: "shop", Descriptors: ds, HitsAddend: hits}
}

// step is a request and what each server answers.
type step struct {
	request        *rls.RateLimitRequest
	upstream, ours answer
}

func (p *pair) steps(t *testing.T, all ...step) {
	t.Helper()
	for i, s := range all {
		theirs, mine := p.ask(t, s.request)
		upstream, ours := answerOf(theirs), answerOf(mine)
		if upstream != s.upstream {
			t.Errorf("step %d: upstream: want %+v, got %+v", i+1, s.upstream, upstream)
		}
		if ours != s.ours {
			t.Errorf("step %d: ours: want %+v, got %+v", i+1, s.ours, ours)
		}
	}
}

func left(n string) answer { return answer{remaining: n} }

// full is a refusal.
func full() answer { return answer{refused: true, remaining: "0"} }

// TestRefusedHitsCount: what was refused counts all the same, so a large request that never
// passed locks out the small ones, as at upstream.
func TestRefusedHitsCount(t *testing.T) {
	t.Parallel()
	newPair(t, two).steps(t,
		step{request(8, one("wide")), left("2"), left("2")},
		step{request(5, one("wide")), full(), full()},
		step{request(1, one("wide")), full(), full()})
}

// TestRefusalChargesSiblings: a request that one limit refuses is charged to all the
// others, as at upstream.
func TestRefusalChargesSiblings(t *testing.T) {
	t.Parallel()
	p := newPair(t, two)
	p.steps(t, step{request(2, one("narrow")), left("0"), left("0")})
	for range 10 {
		p.steps(t, step{request(1, one("wide"), one("narrow")), full(), full()})
	}
	p.steps(t, step{request(1, one("wide")), full(), full()})
}

// TestUnknownDomain: upstream lets every request of a domain it does not know pass; here
// that is an error, so that a wrong name is not an open door. Envoy then does as its
// failure_mode_deny says.
func TestUnknownDomain(t *testing.T) {
	t.Parallel()
	p := newPair(t, two)
	q := request(1, one("wide"))
	q.Domain = "shpo"
	r, err := p.upstream.ShouldRateLimit(t.Context(), q)
	if err != nil || r.GetOverallCode() != rls.RateLimitResponse_OK {
		t.Errorf("upstream: want OK, got %v and %v", r, err)
	}
	if _, err := p.ours.ShouldRateLimit(t.Context(), q); status.Code(err) != codes.InvalidArgument {
		t.Errorf("ours: want InvalidArgument, got %v", err)
	}
}
