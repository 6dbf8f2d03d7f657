package match

import (
	"errors"
	"fmt"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
)

// Request is what an Envoy asks, in our words (envoy.service.ratelimit.v3's
// RateLimitRequest).
type Request struct {
	Domain      string
	Descriptors []Descriptor
	Hits        uint32     // hits_addend; 0 counts as 1
	Addends     []Addend   // by descriptor, nil when none states its own; the last ones may be missing
	Overrides   []Override // likewise
}

// Descriptor is the entries of one descriptor.
type Descriptor []limits.Entry

// Addend is what one descriptor takes of its limit instead of what the request says.
type Addend struct {
	Stated bool
	Hits   int64 // 0 takes nothing and asks whether there is room; negative gives back
}

// Override is a limit that an Envoy states for one descriptor (RateLimitOverride).
type Override struct {
	Stated   bool
	Requests uint32 // per Unit
	Unit     Unit
}

// Unit is envoy.type.v3.RateLimitUnit, and so RateLimitResponse's.
type Unit uint8

// period is the length of a unit, 0 for one that is not known.
func (u Unit) period() time.Duration {
	const day = 24 * time.Hour
	periods := [...]time.Duration{1: time.Second, 2: time.Minute, 3: time.Hour, 4: day, 5: 30 * day, 6: 365 * day, 7: 7 * day}
	if int(u) < len(periods) {
		return periods[u]
	}
	return 0
}

// UnitOf is the unit of a rule's period.
func UnitOf(period time.Duration) Unit {
	for u := Unit(1); u.period() != 0; u++ {
		if u.period() == period {
			return u
		}
	}
	return 0
}

// Counting is what a request takes from the limits it falls under.
type Counting struct {
	Tokens  bool     // a hold of tokens; else rules that count tokens take only own hits
	Hits    int64    // taken from each limit of requests; a refund is negative
	Addends []Addend // by descriptor, before Hits; nil: none has its own
}

// OneCall is what a call takes that uses tokens: one of each limit of requests, and of
// each limit of tokens what its hold comes to.
func OneCall() Counting { return Counting{Tokens: true, Hits: 1} }

// Counting is what the request takes of limits of requests.
func (r *Request) Counting() Counting {
	return Counting{Hits: int64(max(1, r.Hits)), Addends: r.Addends}
}

// addend is the addend of a descriptor.
func (c Counting) addend(i int) Addend {
	if i < len(c.Addends) {
		return c.Addends[i]
	}
	return Addend{}
}

// Bounds on what a request may bring.
const (
	MaxDescriptors    = 64   // in our own domain
	MaxDescriptorsAny = 1024 // in the domains of other Envoys
	MaxEntries        = 256  // of a descriptor
	// MaxHits is the most that a descriptor adds or gives back, and the most tokens that one
	// call may hold.
	MaxHits = 1 << 50
)

// Errors of a request beyond these bounds.
var (
	ErrTooMany = errors.New("too many descriptors or entries")
	ErrHits    = fmt.Errorf("a descriptor's hits_addend is above %d", int64(MaxHits))
)
