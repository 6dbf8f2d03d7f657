package difftest_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	common "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
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
    quota_mode: true
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
		switch r.IntN(5) {
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
		default:
			add(pick(r, "coin", "ip", "path"), strings.Repeat("x", r.IntN(400)))
		}
		out = append(out, d)
	}
	return out
}

// books count one round's hits by bucket and window, the way of each server.
type books struct {
	upstream, ours map[string]int64
}

// touched is one bucket of a request.
type touched struct {
	key   string // with its window
	limit int64
	hits  int64
	soft  bool // shadow or quota
}

// touches are the buckets of a request after unlimited and replaced rules are gone.
func (p *pair) touches(r *rls.RateLimitRequest) []touched {
	var found []touched
	var names []string
	gone := map[string]bool{}
	for _, d := range r.GetDescriptors() {
		var entries []limits.Entry
		for _, e := range d.GetEntries() {
			entries = append(entries, limits.Entry{Key: e.GetKey(), Value: e.GetValue()})
		}
		rule, ok := p.set.Match(entries)
		if !ok {
			continue
		}
		for _, name := range rule.Replaces {
			gone[name] = true
		}
		if rule.Unlimited {
			continue
		}
		window := p.at.Load() / int64(rule.Period/time.Second)
		found = append(found, touched{key: string(rule.AppendKey(nil, entries)) + "@" + strconv.FormatInt(window, 10),
			limit: int64(rule.PerPeriod),
			hits:  int64(max(1, r.GetHitsAddend())), soft: rule.Counts()})
		names = append(names, rule.Name)
	}
	kept := found[:0]
	for i, one := range found {
		if !gone[names[i]] {
			kept = append(kept, one)
		}
	}
	return kept
}

// charge says what each server has to answer, and books it: upstream charges every
// bucket of every request, ours all of an admitted request and none of a refused one,
// where a bucket in shadow takes part in the first only as if it were in force.
// A bucket that is there twice is charged twice by both.
func (b *books) charge(all []touched) (upstream, ours answer) {
	least, sum := int64(-1), map[string]int64{}
	for _, one := range all {
		b.upstream[one.key] += one.hits
		sum[one.key] += one.hits
		upstream.refused = upstream.refused || !one.soft && b.upstream[one.key] > one.limit
		ours.refused = ours.refused || !one.soft && b.ours[one.key]+sum[one.key] > one.limit
	}
	if ours.refused {
		ours.remaining = "0"
		return upstream, ours
	}
	for _, one := range all {
		if left := max(0, one.limit-b.ours[one.key]-sum[one.key]); least < 0 || left < least {
			least = left
		}
	}
	for key, hits := range sum {
		i := slices.IndexFunc(all, func(one touched) bool { return one.key == key })
		if !all[i].soft || b.ours[key]+hits <= all[i].limit { // a rule in shadow takes what it would if it refused
			b.ours[key] += hits
		}
	}
	if least >= 0 {
		ours.remaining = strconv.FormatInt(least, 10)
	}
	return upstream, ours
}

// same reports whether no refusal has made the servers' books differ for these buckets.
func (b *books) same(all []touched) bool {
	for _, one := range all {
		if b.upstream[one.key] != b.ours[one.key] {
			return false
		}
	}
	return true
}

const (
	rounds = 40
	asks   = 120
	// patience is how long a round may take: Redis forgets a window of a second after
	// a real second, whatever the virtual time.
	patience = 900 * time.Millisecond
)

// TestSameVerdicts asks both servers thousands of random things. Where no refusal came
// before, their verdicts and what they say is left are the same; after one they differ
// exactly as upstream's charging of refused requests makes them.
func TestSameVerdicts(t *testing.T) {
	t.Parallel()
	p := newPair(t, file)
	n, refusedSame, differ := 0, 0, 0
	for round := range rounds {
		for try := 0; ; try++ {
			began := time.Now()
			r := rand.New(rand.NewPCG(uint64(round), 7))
			p.at.Add(2 * 365 * 86400) // every window is new
			mistakes, same, other := p.round(t, r)
			if len(mistakes) > 0 && time.Since(began) > patience && try < 20 {
				continue
			}
			for _, m := range mistakes {
				t.Errorf("round %d: %s", round, m)
			}
			n, refusedSame, differ = n+asks, refusedSame+same, differ+other
			break
		}
		if t.Failed() {
			return
		}
	}
	t.Logf("%d requests: %d refused by both, %d where upstream's charging of refusals made the difference", n, refusedSame, differ)
	if refusedSame < n/20 || differ < n/100 {
		t.Errorf("too few refusals (%d) or differences (%d) to prove anything", refusedSame, differ)
	}
}

func (p *pair) round(t *testing.T, r *rand.Rand) (mistakes []string, refused, differ int) {
	b := &books{upstream: map[string]int64{}, ours: map[string]int64{}}
	for range asks {
		if r.IntN(10) == 0 {
			p.at.Add([]int64{1, 7, 60, 3600, 86400, 40 * 86400}[r.IntN(6)])
		}
		q := &rls.RateLimitRequest{Domain: "shop", Descriptors: descriptors(r)}
		if r.IntN(3) == 0 {
			q.HitsAddend = uint32(r.IntN(5))
		}
		all := p.touches(q)
		agree := b.same(all)
		wantUpstream, wantOurs := b.charge(all)
		upstream, ours := p.ask(t, q)
		switch {
		case upstream.refused != wantUpstream.refused:
			mistakes = append(mistakes, fmt.Sprintf("upstream is not as understood: want %v, got %v for %v", wantUpstream, upstream, q))
		case ours != wantOurs:
			mistakes = append(mistakes, fmt.Sprintf("ours: want %+v, got %+v for %v", wantOurs, ours, q))
		case agree && upstream.refused != ours.refused:
			mistakes = append(mistakes, fmt.Sprintf("upstream %+v, ours %+v for %v", upstream, ours, q))
		case agree && !ours.refused && upstream.remaining != ours.remaining:
			mistakes = append(mistakes, fmt.Sprintf("left: upstream %+v, ours %+v for %v", upstream, ours, q))
		case ours.refused && !upstream.refused:
			mistakes = append(mistakes, fmt.Sprintf("refused here alone: %v", q))
		case ours.refused:
			refused++
		case upstream.refused:
			differ++
		}
	}
	return mistakes, refused, differ
}
