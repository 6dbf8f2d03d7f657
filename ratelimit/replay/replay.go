// Package replay is beside the request path: it decides recorded calls anew under another limits
// file, with the matcher and the buckets that decide real ones, and tells who would have been refused.
//
// The books know when a call began and ended, what it held and what it was charged; they do not know
// to the millisecond when its hold was taken and settled, nor what a refused call asked for. So each
// bucket is kept twice, as empty and as full as it can have been: holds taken late and settled at once,
// or taken at once and settled late; and a call is decided late in the one, at once in the other. Where
// both say the same, the decision is certain. Where they do not, and for calls that were refused then,
// what is told is an estimate and counted as one.
package replay

import (
	"cmp"
	"container/heap"
	"iter"
	"slices"
	"time"

	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/bucket"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/match"
)

const (
	// decided is how long after its begin a call can have been decided, in microseconds, if it did not
	// end before.
	decided = 2_000_000
	// settled is how long after its end a call can have been settled, in microseconds.
	settled = 3_000_000
	// longestWarm bounds how far back calls fill the buckets before the first that is reported.
	longestWarm = 31 * 24 * time.Hour
)

// Warm is how long before a moment calls still fill the buckets of a file.
func Warm(set *limits.Set) time.Duration {
	var longest time.Duration
	for _, r := range set.Rules() {
		lasts := r.Period
		if r.Algorithm != limits.FixedWindow && r.PerPeriod > 0 {
			lasts = time.Duration(min(r.Capacity/float64(r.PerPeriod)*float64(r.Period), float64(longestWarm)))
		}
		longest = max(longest, lasts)
	}
	return min(longest, longestWarm)
}

// Refused is what an account would have been refused.
type Refused struct {
	Account string    `json:"account"`
	Calls   int64     `json:"calls"`
	Tokens  int64     `json:"tokens"` // that those calls were charged
	First   time.Time `json:"first"`
	Rules   []string  `json:"rules"` // that refused, in order of the first time
}

// Report is what a file would have decided. Of the calls of the time, each is Agreed, NewlyRefused or
// NewlyAdmitted; Estimated are those among them of which that is not certain.
type Report struct {
	From          time.Time `json:"from"`
	To            time.Time `json:"to"`
	Calls         int64     `json:"calls"`
	Admitted      int64     `json:"admittedThen"`
	RefusedThen   int64     `json:"refusedThen"`
	Agreed        int64     `json:"agreed"`
	NewlyRefused  int64     `json:"newlyRefused"`
	NewlyAdmitted int64     `json:"newlyAdmitted"`
	Estimated     int64     `json:"estimated"`
	Certain       int64     `json:"certain"`       // calls that are not estimated
	CertainAgreed int64     `json:"certainAgreed"` // of those, decided as then; all of them under the file of then
	Skipped       int64     `json:"skipped"`       // refusals of then that have no event, and are not replayed
	Refused       []Refused `json:"refused"`       // newly refused, most tokens first
}

// world is a bucket as empty and as full as it can be.
type world struct{ low, high bucket.State }

// step is a hold that is taken, or that is settled.
type step struct {
	at      int64 // microseconds
	call    int64 // whose hold it is, by its number
	taken   bool
	buckets []bucket.Bucket
	cost    int64 // tokens held
	charged float64
}

// do takes or settles the hold in one of its buckets.
func (s *step) do(b *bucket.Bucket, state bucket.State) bucket.State {
	state = b.Limit.Params.Drain(state, s.at)
	switch {
	case s.taken && b.Limit.Kind.CountsTokens():
		return state.Hold(float64(s.cost))
	case s.taken:
		return state.Use(1)
	case b.Limit.Kind.CountsTokens():
		return state.Settle(float64(s.cost), s.charged)
	}
	return state
}

// queue has the next step first; of one moment, a hold is taken before it is settled.
type queue []*step

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].taken && !q[j].taken
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)   { *q = append(*q, x.(*step)) }
func (q *queue) Pop() any {
	last := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return last
}

// replay is one run.
type replay struct {
	rules   *match.Rules
	from    time.Time
	worlds  map[string]*world
	calls   int64               // that took something
	low     queue               // steps to come in the buckets as empty as they can be
	high    queue               // and as full
	usual   map[[2]string]int64 // what the last admitted call of an account and a model held
	report  Report
	refused map[string]*Refused
}

// Run decides calls anew, which come in the order in which they began, those before from to fill the
// buckets alone.
func Run(rules *match.Rules, calls iter.Seq2[usage.Event, error], from, to time.Time) (Report, error) {
	r := &replay{rules: rules, from: from, worlds: map[string]*world{}, usual: map[[2]string]int64{}, refused: map[string]*Refused{},
		report: Report{From: from, To: to, Refused: []Refused{}}}
	for e, err := range calls {
		if err != nil {
			return Report{}, err
		}
		r.call(&e)
	}
	for _, one := range r.refused {
		r.report.Refused = append(r.report.Refused, *one)
	}
	slices.SortFunc(r.report.Refused, func(a, b Refused) int {
		switch {
		case a.Tokens != b.Tokens:
			return int(min(max(b.Tokens-a.Tokens, -1), 1))
		case a.Account < b.Account:
			return -1
		}
		return 1
	})
	r.report.Certain = r.report.Calls - r.report.Estimated
	return r.report, nil
}

// descriptors are those that the gateway asks for of a call: of tokens, and of requests.
func (r *replay) descriptors(f *limitpb.Facts) []match.Descriptor {
	paths := r.rules.Set().Paths()
	all := match.Derive(paths, f)
	values := map[string]string{"user": f.GetUser(), "org": f.GetOrg(), "team": f.GetTeam(), "key": f.GetKey(), "tier": f.GetTier(),
		"route": f.GetRoute(), "provider": f.GetProvider(), "model": f.GetModel()}
	for _, d := range match.Reachable(paths, f, []string{f.GetProvider()}) {
		other := slices.ContainsFunc(d, func(e limits.Entry) bool {
			value, known := values[e.Key]
			return known && value != e.Value
		})
		if d[0].Value == limits.Requests.String() && !other {
			all = append(all, d)
		}
	}
	return all
}

// call decides one call.
func (r *replay) call(e *usage.Event) {
	begun := e.Timestamp.UnixMicro()
	r.settle(begun)
	f := &limitpb.Facts{User: e.UserID, Org: e.OrgID, Team: e.Team, Key: e.KeyID, Tier: e.Tier, Route: e.Route, Provider: e.Provider,
		Model: e.ModelAsked}
	account := match.Account(e.OrgID, e.UserID, nil)
	m := r.rules.MatchAt(begun, r.descriptors(f), account, e.Tier, match.OneCall())
	cost, guessed := e.Held, false
	name := [2]string{account, e.ModelAsked}
	switch {
	case e.Allowed:
		r.usual[name] = e.Held
	default:
		cost, guessed = r.usual[name], true
	}
	late := begun + min(decided, (e.LatencyMS+2)*1000) // begin and duration are cut to the millisecond
	low, _ := r.fits(&m, cost, late, r.emptiest)
	high, rule := r.fits(&m, cost, begun, func(b *bucket.Bucket, _ int64) bucket.State { return r.world(b.Key).high })
	estimated := guessed || low != high
	admit := low && high
	if low != high {
		admit = e.Allowed // either may be; then it was so
	}
	reported := !e.Timestamp.Before(r.from)
	if !reported {
		admit = e.Allowed
	}
	if admit {
		r.take(&m, e, cost, guessed)
	}
	if reported {
		r.count(e, account, rule, admit, estimated)
	}
}

func (r *replay) world(key string) *world {
	w := r.worlds[key]
	if w == nil {
		w = &world{}
		r.worlds[key] = w
	}
	return w
}

// costOf is what a call takes from a bucket.
func costOf(b *bucket.Bucket, tokens int64) float64 {
	if b.Limit.Kind.CountsTokens() {
		return float64(tokens)
	}
	return 1
}

// fits says whether all limits have room at a moment, and which had none.
func (r *replay) fits(m *match.Matched, tokens, at int64, of func(*bucket.Bucket, int64) bucket.State) (ok bool, rule string) {
	for i := range m.Buckets {
		b := &m.Buckets[i]
		state := b.Limit.Params.Drain(of(b, at), at)
		if b.Limit.Kind.Refuses() && !b.Limit.Params.Fits(state, costOf(b, tokens)) {
			return false, m.Limits[i].Rule.Name
		}
	}
	return true, ""
}

// emptiest is a bucket as empty as it can be at a moment to come: what was surely taken before now, of
// which all is settled that can be by then. Who has not surely taken yet may come later than that.
func (r *replay) emptiest(b *bucket.Bucket, at int64) bucket.State {
	state, ends := r.world(b.Key).low, queue{}
	waiting := map[int64]bool{}
	for _, s := range r.low {
		for i := range s.buckets {
			switch {
			case s.buckets[i].Key != b.Key:
			case s.taken:
				waiting[s.call] = true
			case s.at <= at:
				ends = append(ends, s)
			}
		}
	}
	slices.SortFunc(ends, func(a, b *step) int { return cmp.Compare(a.at, b.at) })
	for _, s := range ends {
		if !waiting[s.call] {
			state = s.do(b, state)
		}
	}
	return state
}

// take holds in both worlds, and has it settled. What a call of an unknown cost would have taken makes
// a bucket only as full as it can be.
func (r *replay) take(m *match.Matched, e *usage.Event, tokens int64, guessed bool) {
	begun := e.Timestamp.UnixMicro()
	end := begun + e.LatencyMS*1000
	r.calls++
	one := step{at: begun, call: r.calls, taken: true, buckets: m.Buckets, cost: tokens, charged: float64(e.Charged)}
	if guessed {
		one.charged = float64(tokens)
	}
	settling := one
	settling.at, settling.taken = end+settled, false
	heap.Push(&r.high, &one)
	heap.Push(&r.high, &settling)
	if guessed {
		return
	}
	late, atOnce := one, settling
	late.at, atOnce.at = min(begun+decided, end), end
	heap.Push(&r.low, &late)
	heap.Push(&r.low, &atOnce)
}

// settle takes and settles what is due.
func (r *replay) settle(now int64) {
	due := func(q *queue, of func(*world) *bucket.State) {
		for len(*q) > 0 && (*q)[0].at <= now {
			s := heap.Pop(q).(*step)
			for i := range s.buckets {
				b := &s.buckets[i]
				state := of(r.world(b.Key))
				*state = s.do(b, *state)
			}
		}
	}
	due(&r.low, func(w *world) *bucket.State { return &w.low })
	due(&r.high, func(w *world) *bucket.State { return &w.high })
}

func (r *replay) count(e *usage.Event, account, rule string, admit, estimated bool) {
	n := &r.report
	n.Calls++
	n.Skipped += e.Skipped
	agreed := admit == e.Allowed
	if e.Allowed {
		n.Admitted++
	} else {
		n.RefusedThen++
	}
	if estimated {
		n.Estimated++
	} else if agreed {
		n.CertainAgreed++
	}
	switch {
	case agreed:
		n.Agreed++
	case admit:
		n.NewlyAdmitted++
	default:
		n.NewlyRefused++
		one := r.refused[account]
		if one == nil {
			one = &Refused{Account: account, First: e.Timestamp, Rules: []string{}}
			r.refused[account] = one
		}
		one.Calls++
		one.Tokens += e.Charged
		if !slices.Contains(one.Rules, rule) {
			one.Rules = append(one.Rules, rule)
		}
	}
}
