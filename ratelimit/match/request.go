package match

import (
	"errors"
	"fmt"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
)

// Request is what an Envoy asks, in our words (envoy.service.ratelimit.v3's
// RateLimitRequest).
type Request struct {
	Domain      string
	Descriptors []Descriptor
	Hits        uint32   // hits_addend; 0 counts as 1
	Addends     []Addend // by descriptor, nil when none states its own; the last ones may be missing
}

// Descriptor is the entries of one descriptor.
type Descriptor []limits.Entry

// Addend is what one descriptor takes of its limit instead of what the request says.
type Addend struct {
	Stated bool
	Hits   int64 // 0 takes nothing and asks whether there is room; negative gives back
}

// Counting is what a request takes from the limits it falls under.
type Counting struct {
	Tokens  bool     // a hold of tokens; else rules that count tokens take only own hits
	Hits    int64    // taken from each limit of requests; a refund is negative
	Addends []Addend // by descriptor, before Hits; nil: none has its own
}

// OneCall is what a call takes that uses tokens: one of each limit of requests, and of
// each limit of tokens what its hold comes to.
var OneCall = Counting{Tokens: true, Hits: 1}

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
	MaxDescriptors = 64
	MaxEntries     = 32 // of a descriptor
	// MaxHits is the most that a descriptor adds or gives back, and the most tokens that one
	// call may hold.
	MaxHits = 1 << 50
)

// Errors of a request beyond these bounds.
var (
	ErrTooMany = errors.New("too many descriptors or entries")
	ErrHits    = fmt.Errorf("a descriptor's hits_addend is above %d", int64(MaxHits))
)
