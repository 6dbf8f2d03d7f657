package match

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/bucket"
)

// Foreign is what a request of another Envoy's domain falls under. There, unlike in our
// own domain, each descriptor is told how it stands, and what came is counted whether the
// request is refused or not (see limits.Rule.CountsAll), as envoyproxy/ratelimit does it.
type Foreign struct {
	Matched
	Hits []Hit // by descriptor
}

// Hit is one descriptor's part.
type Hit struct {
	Found     *limits.Rule // its rule, also one that is replaced or unlimited; nil: there is none, or an override
	Limit     *Limit       // nil: nothing limits it
	Bucket    int          // of Matched.Buckets and Limits, whose limit is the same; with a Limit only
	Hits      int64        // taken
	Unlimited bool
}

// Errors of a request that says too little. Upstream refuses the same.
var (
	ErrNoDomain      = errors.New("rate limit domain must not be empty")
	ErrNoDescriptors = errors.New("rate limit descriptor list must not be empty")
)

// MatchForeign finds the limits of a request of another Envoy.
func (r *Rules) MatchForeign(q *Request, account, tier string) (Foreign, error) {
	out := Foreign{Matched: Matched{Limits: make([]*Limit, 0, len(q.Descriptors)), Buckets: make([]bucket.Bucket, 0, len(q.Descriptors)),
		Counts: r.counts}, Hits: make([]Hit, len(q.Descriptors))}
	levels := r.tiers[tier]
	if levels == nil {
		levels = r.tiers[r.fallback]
	}
	count := q.Counting()
	var replaced []string
	for i, d := range q.Descriptors {
		hit := &out.Hits[i]
		if hit.Hits = count.Hits; count.addend(i).Stated {
			hit.Hits = count.addend(i).Hits
		}
		if i < len(q.Overrides) && q.Overrides[i].Stated {
			var err error
			if hit.Limit, err = r.override(q.Overrides[i]); err != nil {
				return out, fmt.Errorf("descriptor %d: %w", i, err)
			}
			continue
		}
		rule, ok := r.set.Match(d)
		if !ok {
			continue
		}
		hit.Found = rule
		r.marks[rule].touch()
		replaced = append(replaced, rule.Replaces...)
		if hit.Unlimited = rule.Unlimited; hit.Unlimited {
			continue
		}
		if hit.Limit = levels[rule]; hit.Limit == nil {
			hit.Limit = r.base[rule]
		}
		hit.Limit = hit.Limit.at(r.now)
	}
	out.place(r, q, account, replaced)
	return out, nil
}

// place gives each hit its bucket. Hits that fall into one bucket add up there.
func (f *Foreign) place(r *Rules, q *Request, account string, replaced []string) {
	names := map[string]bool{}
	for _, name := range replaced {
		names[name] = true
	}
	var room [192]byte
	byKey := make(map[string]int, len(f.Hits))
	for i := range f.Hits {
		hit := &f.Hits[i]
		if hit.Limit != nil && names[hit.Limit.Rule.Name] && hit.Limit.Rule.Name != "" {
			hit.Limit = nil
		}
		if hit.Limit == nil {
			continue
		}
		key := bucket.Key(account, hit.Limit.Rule.Shared, r.foreignKey(room[:0], hit.Limit, account, q.Descriptors[i]))
		at, again := byKey[key]
		if !again {
			at = len(f.Buckets)
			byKey[key] = at
			f.Limits = append(f.Limits, hit.Limit)
			f.Buckets = append(f.Buckets, bucket.Bucket{Limit: hit.Limit.Limit, Key: key, HasOwn: true})
			if r.labelled || hit.Limit.override {
				f.labels = append(f.labels, make([]string, at-len(f.labels))...)
				f.labels = append(f.labels, r.foreignLabel(hit.Limit, q.Descriptors[i]))
			}
		}
		hit.Bucket = at
		f.Buckets[at].Own += hit.Hits
	}
	if f.labels != nil {
		f.labels = append(f.labels, make([]string, len(f.Limits)-len(f.labels))...)
	}
}

// foreignKey names a bucket. That of an override is the rule's of the same entries and
// period, if there is one, so that both count together, else one of its own.
func (r *Rules) foreignKey(dst []byte, l *Limit, account string, d Descriptor) []byte {
	if !l.override {
		return l.Rule.AppendAccountKey(dst, account, d)
	}
	if rule, ok := r.set.Match(d); ok && !rule.Unlimited && rule.Period == l.Rule.Period && rule.Algorithm == limits.FixedWindow &&
		rule.Calendar == nil {
		return rule.AppendAccountKey(dst, account, d)
	}
	return append(append(r.set.AppendKey(dst, d), '|'), limits.PeriodName(l.Rule.Period)...)
}

func (r *Rules) foreignLabel(l *Limit, d Descriptor) string {
	if !l.override {
		return r.labels.of(l.Rule, d)
	}
	var b strings.Builder
	for i, e := range d {
		if i > 0 {
			b.WriteByte('.')
		}
		b.WriteString(e.Key)
		if e.Value != "" {
			b.WriteString("_" + e.Value)
		}
	}
	return r.labels.ofText(b.String(), "override")
}

// mostOverrides bounds the overrides that are kept made.
const mostOverrides = 10_000

// overrides are the limits that Envoys stated, made once.
type overrides struct {
	mu    sync.Mutex
	known map[Override]*Limit
}

func (r *Rules) override(o Override) (*Limit, error) {
	period := o.Unit.period()
	if period == 0 {
		return nil, fmt.Errorf("its limit has no unit that is known: %d", o.Unit)
	}
	r.overrides.mu.Lock()
	defer r.overrides.mu.Unlock()
	if l := r.overrides.known[o]; l != nil {
		return l, nil
	}
	l := newLimit(&limits.Rule{Path: "override", PerPeriod: o.Requests, Period: period, Capacity: float64(o.Requests), Shared: true,
		CountsAll: true}, noTier(), time.Time{})
	l.mark, l.override = &mark{since: time.Now()}, true
	if r.overrides.known == nil || len(r.overrides.known) >= mostOverrides {
		r.overrides.known = map[Override]*Limit{}
	}
	r.overrides.known[o] = l
	return l, nil
}

// Verdict is how one descriptor stands after a decision.
type Verdict struct {
	Hit
	Over      bool  // above its limit, whether that refuses or not
	Remaining int64 // what fits still, >= 0

	level float64 // of the bucket, with this descriptor's hits
}

// Levels tells how many of the hits were within the limit and how many above it, as
// envoyproxy/ratelimit counts: all hits are within, or if the last of them is above, those
// above are over. near are those of them between a share of the limit and the limit.
func (v *Verdict) Levels(share float64) (within, over, near float64) {
	limit, hits := v.Limit.Params.Capacity, float64(v.Hits)
	begin, mark := v.level-hits, math.Floor(limit*share)
	if v.Over {
		if begin >= limit {
			return 0, hits, 0
		}
		return 0, v.level - limit, limit - max(mark, begin)
	}
	return hits, 0, max(0, v.level-max(mark, begin))
}

// Judge tells how each descriptor stands, and whether the request is refused: by a limit
// that is over, or when all limits in quota mode are. states are those of the buckets
// after the decision; taken says that nothing refused, so that rules which count only
// what is admitted took their hits. quota puts every limit in quota mode.
func (f *Foreign) Judge(states []bucket.State, taken, quota bool) (all []Verdict, refused bool) {
	all = make([]Verdict, len(f.Hits))
	later := make([]int64, len(f.Buckets)) // hits of descriptors after this one, in each bucket
	quotas, over := 0, 0
	for i := len(f.Hits) - 1; i >= 0; i-- {
		v := &all[i]
		v.Hit = f.Hits[i]
		if v.Limit == nil {
			continue
		}
		level := states[v.Bucket].Level()
		if !taken && v.Limit.Kind == bucket.Requests {
			level += float64(f.Buckets[v.Bucket].Own) // as if it had been
		}
		level -= float64(later[v.Bucket])
		later[v.Bucket] += v.Hits
		v.level = level
		v.Over = level > v.Limit.Params.Capacity
		v.Remaining = int64(max(0, v.Limit.Params.Capacity-level))
		switch rule, counts := v.Limit.Rule, v.Over && !v.Limit.Rule.Shadow; {
		case rule.Quota || quota:
			quotas++
			if counts {
				over++
			}
		case counts:
			refused = true
		}
	}
	return all, refused || quotas > 0 && quotas == over
}

// Wait is how long until a refused request may fit into every limit that is over, in
// microseconds from now; bucket.Never: it cannot ever.
func (f *Foreign) Wait(all []Verdict, states []bucket.State, now int64) int64 {
	var longest int64
	for _, v := range all {
		if v.Limit == nil || !v.Over || v.Limit.Rule.Shadow {
			continue
		}
		wait := v.Limit.Params.Wait(states[v.Bucket], float64(max(0, f.Buckets[v.Bucket].Own)), now, 0)
		if wait < 0 {
			return bucket.Never
		}
		longest = max(longest, wait)
	}
	return longest
}

// HasMetadata reports whether some rule has metadata to tell its Envoy.
func (r *Rules) HasMetadata() bool { return r.metadata }
