package bucket

import (
	"encoding/binary"
	"math"
	"strings"
)

// Kind is what a bucket counts and whether it can refuse.
type Kind byte

// Kinds of buckets, as the scripts know them.
const (
	Tokens         Kind = 't'
	Requests       Kind = 'r'
	ShadowTokens   Kind = 'T'
	ShadowRequests Kind = 'R'
	Counted        Kind = 'c' // requests, whatever comes; refuses what is above the capacity then
	ShadowCounted  Kind = 'C' // the same, and refuses nobody
)

// CountsTokens reports whether a hold of tokens goes into the bucket.
func (k Kind) CountsTokens() bool { return k == Tokens || k == ShadowTokens }

// Refuses reports whether the bucket can say no.
func (k Kind) Refuses() bool { return k == Tokens || k == Requests || k == Counted }

// CountsAll reports whether what is refused is counted too, so that the bucket may be
// fuller than its capacity.
func (k Kind) CountsAll() bool { return k == Counted || k == ShadowCounted }

// Limit is a bucket's kind and numbers, made once and used for every request.
type Limit struct {
	Kind   Kind
	Params Params
	// Long says that what is used counts for a day or more, so that it is worth asking for elsewhere if
	// it is lost. (A day of the calendar may have 23 hours.)
	Long   bool
	packed string // for the scripts: kind, capacity, form
	arg    any    // the same in an interface
	drain  string // for a hold's record: form
}

// long is the least Span of a Long limit, as hold.lua has it, too.
const long = 23 * 3600 * 1e6

// NewLimit prepares a limit.
func NewLimit(kind Kind, p Params) *Limit {
	form := p.Form()
	drain := Pack(form.Rate, float64(form.Window))
	packed := string(kind) + Pack(p.Capacity) + drain
	return &Limit{Kind: kind, Params: p, Long: p.Span() >= long, packed: packed, arg: packed, drain: drain}
}

// Packed is the limit as a script takes it: its kind, and capacity and form as doubles.
func (l *Limit) Packed() string { return l.packed }

// Argument is Packed as part of an argument list, which so allocates nothing.
func (l *Limit) Argument() any { return l.arg }

// PackedDrain is what it takes to drain the bucket, as a hold's record keeps it: its form, as
// doubles.
func (l *Limit) PackedDrain() string { return l.drain }

// Bucket is one bucket that a request falls into.
type Bucket struct {
	Limit *Limit
	Key   string // see Key; without the store's prefix
	// Own is the bucket's own cost in requests when HasOwn is set: 0 takes nothing and
	// tells whether there is room, a negative one gives back and is never refused.
	Own    int64
	HasOwn bool
}

// Shared reports whether the bucket belongs to no account.
func (b Bucket) Shared() bool { return b.Key != "" && b.Key[0] != '{' }

// Key is where a bucket is; name is limits.Rule.AppendAccountKey's. The account stands in
// the key's hash tag, so that all its keys are on one server of a cluster.
func Key(account string, shared bool, name []byte) string {
	if shared {
		return "b:" + string(name)
	}
	var b strings.Builder
	b.Grow(len(account) + len(name) + 5)
	b.WriteByte('{')
	b.WriteString(account)
	b.WriteString("}:b:")
	b.Write(name)
	return b.String()
}

// Pack writes numbers as the scripts read them: little-endian doubles (struct.unpack "<d").
func Pack(numbers ...float64) string {
	var room [64]byte
	b := room[:0]
	for _, n := range numbers {
		b = binary.LittleEndian.AppendUint64(b, math.Float64bits(n))
	}
	return string(b)
}
