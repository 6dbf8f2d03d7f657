package chaos

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

// kind is what goes wrong.
type kind string

const (
	full     kind = "has no space left"      // the disk of the part is filled to its last byte
	frozen   kind = "is frozen"              // it stands still, and its connections stay open
	killed   kind = "is killed"              // and started again by the supervisor
	older    kind = "comes back older"       // with the data it had when the schedule began
	empty    kind = "is replaced"            // by one that knows nothing
	evicts   kind = "evicts"                 // what it likes
	starved  kind = "is out of memory"       // and refuses to write
	demoted  kind = "is a replica"           // until it is promoted again
	ahead    kind = "has stamps of tomorrow" // as if its clock had been ahead and was set back
	fast     kind = "has a clock that is an hour ahead"
	slow     kind = "has a clock that is 45 seconds behind"
	slower   kind = "has a clock that is five minutes behind"
	emptied  kind = "is empty"              // of a file
	cut      kind = "is cut"                // in the middle, as a full disk leaves it
	spool         = "spool"                 // the folder of Envoy's usage log
	leaky         = "leaky.yaml"            //
	limits        = "limits.yaml"           //
	perSeed       = 7                       // faults of one schedule
	together      = 3                       // so many seeds in a row meet every fault
	shortest      = 500 * time.Millisecond  // that a fault stands
	longest       = 2500 * time.Millisecond //
)

// fault is one thing that goes wrong with a part, a folder or a file.
type fault struct {
	on   string
	kind kind
}

// step is a fault of a schedule.
type step struct {
	fault
	stands time.Duration // from when it is there until it is lifted, or until the next one is there, too
	meets  bool          // it is lifted only when the next one is there
	push   bool          // the limits are edited and pushed meanwhile
}

func (s step) String() string {
	text := fmt.Sprintf("%s %s for %v", s.on, s.kind, s.stands)
	if s.push {
		text += " while limits are pushed"
	}
	if s.meets {
		text += ", and"
	}
	return text
}

// schedule is all that a seed decides.
type schedule []step

func (s schedule) String() string {
	var lines []string
	for _, one := range s {
		lines = append(lines, one.String())
	}
	return strings.Join(lines, "\n")
}

// faults are all there are; two are of a part that chance names.
func faults(luck *rand.Rand) []fault {
	one := func(names ...string) string { return names[luck.IntN(len(names))] }
	return []fault{
		{topology.NATS, full}, {topology.Postgres, full}, {topology.ClickHouse, full}, {topology.Redis, full}, {spool, full},
		{topology.Redis, frozen}, {one(topology.Postgres, topology.NATS, topology.ClickHouse), frozen},
		{one(topology.RateLimit, topology.Meter, topology.TokenSvc, topology.Identity, topology.ExtAuthz, topology.Envoy), frozen},
		{one(topology.Names(append(topology.Of(topology.Store), topology.Of(topology.Service)...))...), killed},
		{topology.Redis, older}, {topology.Redis, empty}, {topology.Redis, evicts}, {topology.Redis, starved},
		{topology.Redis, demoted}, {topology.Redis, ahead}, {topology.Redis, fast}, {topology.Redis, slow}, {topology.Redis, slower},
		{leaky, []kind{emptied, cut}[luck.IntN(2)]}, {limits, []kind{emptied, cut}[luck.IntN(2)]},
	}
}

// newSchedule deals all faults to so many seeds as are together, and gives one its hand.
func newSchedule(seed uint64) schedule {
	deal := rand.New(rand.NewPCG(seed/together, 16))
	deck := faults(deal)
	for len(deck) < perSeed*together {
		deck = append(deck, deck[deal.IntN(len(deck))])
	}
	deal.Shuffle(len(deck), func(i, j int) { deck[i], deck[j] = deck[j], deck[i] })
	luck := rand.New(rand.NewPCG(seed, 17))
	hand := deck[seed%together*perSeed:][:perSeed]
	var s schedule
	for i, f := range hand {
		s = append(s, step{fault: f, stands: shortest + time.Duration(luck.Int64N(int64(longest-shortest))).Truncate(time.Millisecond),
			meets: luck.IntN(3) == 0 && i+1 < len(hand) && hand[i+1].on != f.on, push: luck.IntN(3) == 0})
	}
	return s
}

// forgets is how often Redis loses all that it knew of limits that are no pools, or its clock is set
// forward so far that all has leaked away.
func (s schedule) forgets() (times int64) {
	for _, one := range s {
		if one.on == topology.Redis && slices.Contains([]kind{older, empty, fast, slower}, one.kind) {
			times++
		}
	}
	return times
}

// leaksAgain is how long limits may leak once more. A clock that is somewhat behind is waited for, but a
// limit that is first met meanwhile has the time of that clock, and has leaked when it is set right.
func (s schedule) leaksAgain() (seconds int64) {
	for _, one := range s {
		if one.on == topology.Redis && one.kind == slow {
			seconds += 45
		}
	}
	return seconds
}

// losesTwice is whether lines of calls find no room, and Redis loses holds.
func (s schedule) losesTwice() bool {
	lost := func(on string, kinds ...kind) bool {
		return slices.ContainsFunc(s, func(one step) bool { return one.on == on && slices.Contains(kinds, one.kind) })
	}
	return lost(spool, full) && lost(topology.Redis, older, empty, evicts)
}

// TestASeedIsASchedule: the same seed is the same schedule, and three in a row meet every fault.
func TestASeedIsASchedule(t *testing.T) {
	t.Parallel()
	for first := uint64(0); first < 30; first += together {
		met := map[fault]bool{}
		for seed := first; seed < first+together; seed++ {
			s := newSchedule(seed)
			if again := newSchedule(seed); again.String() != s.String() {
				t.Errorf("seed %d is\n%s\nand then\n%s", seed, s, again)
			}
			for _, one := range s {
				met[one.fault] = true
			}
		}
		for _, f := range faults(rand.New(rand.NewPCG(first/together, 16))) {
			if !met[f] {
				t.Errorf("seeds %d to %d lack: %s %s", first, first+together-1, f.on, f.kind)
			}
		}
	}
}
