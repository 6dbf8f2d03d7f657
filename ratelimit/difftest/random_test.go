package difftest_test

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/wrapperspb"

	common "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
)

// file is a tree that uses the whole language, with small limits so that they are met.
const file = `
domain: shop
descriptors:
  - key: ip
    rate_limit: {unit: second, requests_per_unit: 3}
  - key: ip
    value: 10.0.0.*
    rate_limit: {unit: minute, requests_per_unit: 5}
  - key: ip
    value: 10.0.0.1
    rate_limit: {name: office, unlimited: true, replaces: [{name: per-path}]}
  - key: path
    rate_limit: {name: per-path, unit: hour, requests_per_unit: 7}
    descriptors:
      - key: method
        rate_limit: {unit: day, requests_per_unit: 9}
      - key: method
        value: POST
        rate_limit: {unit: minute, requests_per_unit: 2}
        descriptors:
          - {key: user, rate_limit: {unit: week, requests_per_unit: 4}}
  - key: path
    value: /files/*
    share_threshold: true
    rate_limit: {unit: month, requests_per_unit: 11}
  - key: path
    value: /closed
    rate_limit: {unit: year, requests_per_unit: 0}
  - key: user
    rate_limit: {name: per-user, unit: year, requests_per_unit: 20}
  - key: user
    value: ann
    shadow_mode: true
    rate_limit: {unit: minute, requests_per_unit: 2}
  - key: user
    value: bob
    rate_limit: {unit: minute, requests_per_unit: 2}
  - key: user
    value: boss
    rate_limit: {unit: day, requests_per_unit: 30, name: boss, replaces: [{name: per-path}, {name: office}]}
`

func pick(r *rand.Rand, of ...string) string { return of[r.IntN(len(of))] }

// descriptors is a random request's, some of them twice.
func descriptors(r *rand.Rand) []*common.RateLimitDescriptor {
	var out []*common.RateLimitDescriptor
	for range 1 + r.IntN(4) {
		d := &common.RateLimitDescriptor{}
		add := func(key, value string) {
			d.Entries = append(d.Entries, &common.RateLimitDescriptor_Entry{Key: key, Value: value})
		}
		switch r.IntN(6) {
		case 0:
			add("ip", pick(r, "10.0.0.1", "10.0.0.2", "10.0.0.3", "192.0.2.1", "192.0.2.2", "é {x}|%"))
		case 1:
			add("path", pick(r, "/", "/a", "/files/x", "/files/y", "/closed"))
		case 2:
			add("path", pick(r, "/", "/a", "/b"))
			add("method", pick(r, "GET", "POST", "PUT"))
			if r.IntN(2) == 0 {
				add("user", pick(r, "ann", "bob", "carl", "dora"))
			}
		case 3:
			add("user", pick(r, "ann", "bob", "boss", "carl", "dora", ""))
		case 4: // a limit that Envoy states; upstream's bucket has no unit in its name, so each has a value of its own
			unit := 1 + r.IntN(6)
			add(pick(r, "user", "coin"), "override-"+strconv.Itoa(unit))
			d.Limit = &common.RateLimitDescriptor_RateLimitOverride{RequestsPerUnit: uint32(r.IntN(6)), Unit: typev3.RateLimitUnit(unit)}
		default:
			add(pick(r, "coin", "ip", "path"), strings.Repeat("x", r.IntN(400)))
		}
		if r.IntN(4) == 0 {
			d.HitsAddend = wrapperspb.UInt64(uint64(r.IntN(4)))
		}
		out = append(out, d)
	}
	return out
}

const (
	rounds = 40
	asks   = 120
	// patience is how long a round may take: Redis forgets a window of a second after
	// a real second, whatever the virtual time.
	patience = 900 * time.Millisecond
)

// TestSameAnswers asks both servers thousands of random things: descriptor by descriptor
// they say the same code, limit, remaining and reset, and the same of the whole.
func TestSameAnswers(t *testing.T) {
	t.Parallel()
	p := newPair(t, file)
	n, refused := 0, 0
	for round := range rounds {
		for try := 0; ; try++ {
			began := time.Now()
			r := rand.New(rand.NewPCG(uint64(round), 7))
			p.at.Add(2 * 365 * 86400) // every window is new
			mistakes, over := p.round(t, r)
			if len(mistakes) > 0 && time.Since(began) > patience && try < 200 {
				continue
			}
			for _, m := range mistakes {
				t.Errorf("round %d: %s", round, m)
			}
			n, refused = n+asks, refused+over
			break
		}
		if t.Failed() {
			return
		}
	}
	t.Logf("%d requests, %d refused", n, refused)
	if refused < n/20 || refused > n-n/20 {
		t.Errorf("too few refused (%d) or admitted (%d) to prove anything", refused, n-refused)
	}
}

func (p *pair) round(t *testing.T, r *rand.Rand) (mistakes []string, refused int) {
	for range asks {
		if r.IntN(10) == 0 {
			p.at.Add([]int64{1, 7, 60, 3600, 86400, 40 * 86400}[r.IntN(6)])
		}
		q := &rls.RateLimitRequest{Domain: "shop", Descriptors: descriptors(r)}
		if r.IntN(3) == 0 {
			q.HitsAddend = uint32(r.IntN(5))
		}
		theirs, ours := p.ask(t, q)
		if diff := cmp.Diff(theirs.GetStatuses(), ours.GetStatuses(), protocmp.Transform()); diff != "" {
			mistakes = append(mistakes, fmt.Sprintf("statuses of %v (-upstream +ours):\n%s", q, diff))
		}
		if want := theirs.GetOverallCode(); ours.GetOverallCode() != want {
			mistakes = append(mistakes, fmt.Sprintf("want %v, got %v for %v", want, ours, q))
		}
		if ours.GetOverallCode() == rls.RateLimitResponse_OVER_LIMIT {
			refused++
		}
	}
	return mistakes, refused
}
