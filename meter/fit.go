package meter

import (
	"cmp"
	"hash/fnv"
	"slices"
)

const (
	window = 256 // samples remembered for one kind
	// perOwner is how many of them one account may hold, so that none teaches alone what the
	// answers of others are estimated by.
	perOwner = window / 8

	// slopeQuantile takes the bytes of a token from the lower half of what was seen: too many
	// bytes for a token make an estimate that is too low, which would be a gift.
	slopeQuantile = 0.4
	// refitAfter is how many new samples a fit may lag behind.
	refitAfter = 8
)

// sample is one request.
type sample struct {
	tokens, bytes float64
	owner         uint32 // hash of the account
	age           int    // order in which samples came

	// Of a stream:
	events float64 // that carried content
	hidden float64 // of tokens, thoughts that were told and not shown
	text   text    // that the model produced; zero where it was not read
}

// ownerOf is an account's hash.
func ownerOf(account string) uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(account)) // never fails
	return h.Sum32()
}

// fit is a straight line, bytes = fixed + slope * tokens, over the last samples. It is
// robust: a quarter of the samples may say anything. The samples are put in the order of
// their tokens, each of the lower half is paired with one of the upper half, and the line
// takes a quantile of the slopes between them.
type fit struct {
	samples []sample
	came    int

	fresh        int // samples since the line was computed
	known        bool
	slope, fixed float64
}

func (f *fit) add(s sample) {
	s.age = f.came
	f.came++
	f.fresh++
	if at := f.place(s.owner); at >= 0 {
		f.samples[at] = s
		return
	}
	f.samples = append(f.samples, s)
}

// place is the sample that a new one replaces: the owner's oldest when they have their share,
// else the oldest of all when the window is full, else none.
func (f *fit) place(owner uint32) int {
	own, oldest, count := -1, -1, 0
	for i, s := range f.samples {
		if oldest < 0 || s.age < f.samples[oldest].age {
			oldest = i
		}
		if s.owner != owner {
			continue
		}
		if count++; own < 0 || s.age < f.samples[own].age {
			own = i
		}
	}
	switch {
	case count >= perOwner:
		return own
	case len(f.samples) >= window:
		return oldest
	}
	return -1
}

// around is the fit of the samples that are about so many bytes long; nil: there are too few.
func (f *fit) around(bytes float64) *fit {
	if f == nil {
		return nil
	}
	near := &fit{}
	for _, s := range f.samples {
		if s.bytes >= bytes/alike && s.bytes <= bytes*alike {
			near.samples = append(near.samples, s)
		}
	}
	if near.fresh = len(near.samples); near.fresh < enoughInputs {
		return nil
	}
	return near
}

// line is the fitted line; not ok with too few samples, when all answers are about equally
// long, or when the slope makes no sense.
func (f *fit) line() (slope, fixed float64, ok bool) {
	if f == nil || len(f.samples) < 2 {
		return 0, 0, false
	}
	if f.fresh >= min(refitAfter, len(f.samples)/2) {
		f.slope, f.fixed, f.known = fitted(f.samples)
		f.fresh = 0
	}
	return f.slope, f.fixed, f.known
}

func fitted(samples []sample) (slope, fixed float64, ok bool) {
	sorted := slices.SortedFunc(slices.Values(samples), func(a, b sample) int { return cmp.Compare(a.tokens, b.tokens) })
	half := len(sorted) / 2
	least := sorted[half].tokens / 10 // a pair that is closer says nothing
	var slopes []float64
	for i, low := range sorted[:half] {
		high := sorted[len(sorted)-half+i]
		if apart := high.tokens - low.tokens; apart > least {
			slopes = append(slopes, (high.bytes-low.bytes)/apart)
		}
	}
	if 2*len(slopes) < half || len(slopes) == 0 {
		return 0, 0, false
	}
	if slope = quantile(slopes, slopeQuantile); slope < 0.5 || slope > 1<<16 {
		return 0, 0, false
	}
	rest := make([]float64, len(sorted))
	for i, s := range sorted {
		rest[i] = s.bytes - slope*s.tokens
	}
	return slope, max(0, quantile(rest, 0.5)), true
}

// ratio is a low quantile of bytes per token.
func (f *fit) ratio() (float64, bool) {
	if f == nil || len(f.samples) == 0 {
		return 0, false
	}
	ratios := make([]float64, len(f.samples))
	for i, s := range f.samples {
		ratios[i] = s.bytes / s.tokens
	}
	return quantile(ratios, slopeQuantile), true
}

// quantile sorts values.
func quantile(values []float64, q float64) float64 {
	slices.Sort(values)
	return values[min(int(q*float64(len(values))), len(values)-1)]
}

// sparse are the samples on disk, the oldest first.
func (f *fit) sparse() [][]float64 {
	sorted := slices.SortedFunc(slices.Values(f.samples), func(a, b sample) int { return cmp.Compare(a.age, b.age) })
	out := make([][]float64, len(sorted))
	for i, s := range sorted {
		out[i] = []float64{s.tokens, s.bytes, float64(s.owner)}
		if s.text.total() > 0 {
			out[i] = append(append(out[i], s.events, s.hidden), s.text[:]...)
		}
	}
	return out
}

// sampleOf undoes sparse; false: it is none.
func sampleOf(n []float64) (sample, bool) {
	if len(n) < 3 || n[0] <= 0 || n[1] <= 0 {
		return sample{}, false
	}
	s := sample{tokens: n[0], bytes: n[1], owner: uint32(n[2])}
	if len(n) == 5+kinds {
		s.events, s.hidden = n[3], n[4]
		copy(s.text[:], n[5:])
	}
	return s, true
}
