// Package store keeps buckets and holds in Redis, which only ratelimit touches. Each
// step (hold, settle, expire) is one Lua script and so atomic; its arithmetic is that of
// ratelimit/bucket.
//
// A bucket is a string of doubles: settled, held, time, and the form that it has and had
// (lua/common.lua). It expires when it would be empty and stands while anything is held. Numbers
// travel and lie as binary doubles: they are exact, and printing and parsing text took the scripts
// longer than all the rest.
// A pool is what the token service told of an account's balance and what is spent and
// held of it. A hold is a string at "{account}:h:<request id>"; when it is settled its id is
// remembered for a while (memory.go), so that a second settlement is known as such. Holds do not
// expire by themselves, because nobody would give back what they hold: the sweeper finds them by an
// index (index.go). The hash tag keeps an account's keys in one slot; buckets of rules that name no
// caller are shared by all accounts and have no tag (see cluster.go for those in a cluster).
package store

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/leaky-tokens/leaky-tokens/internal/redisconn"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/bucket"
)

//go:embed lua/common.lua
var common string

//go:embed lua/hold.lua
var holdLua string

//go:embed lua/release.lua
var releaseLua string

//go:embed lua/correct.lua
var correctLua string

//go:embed lua/settle.lua
var settleLua string

//go:embed lua/expire.lua
var expireLua string

//go:embed lua/finish.lua
var finishLua string

//go:embed lua/late.lua
var lateLua string

//go:embed lua/renew.lua
var renewLua string

//go:embed lua/raise.lua
var raiseLua string

//go:embed lua/recount.lua
var recountLua string

//go:embed lua/balance.lua
var balanceLua string

// Errors of the store.
var (
	// ErrUnavailable says Redis did not answer, or is not asked because it did not lately.
	ErrUnavailable = errors.New("redis unavailable")
	// ErrReply says a script answered what this version cannot read.
	ErrReply = errors.New("unexpected script answer")
)

// Config of a Store.
type Config struct {
	// URL is redis://[user:password@]host:port[/db], unix:///path,
	// redis+cluster://host:port[,host:port...] or
	// redis+sentinel://host:port[,host:port...]/master[/db].
	URL string
	redisconn.Extra
	// Prefix goes before every key; for tests that share a server.
	Prefix string
	// Lifetime is how long a hold may stay unsettled, > 0.
	Lifetime time.Duration
	// SettledKept is how long a settled hold is remembered, > 0.
	SettledKept time.Duration
	// ExpiredKept is how long an expired one is: so long a settlement may come that corrects what
	// it was charged. Default 7 days.
	ExpiredKept time.Duration
	// DialTimeout and Timeout bound a connection attempt and a round trip; default 50 ms and 100 ms.
	DialTimeout, Timeout time.Duration
	// Changed hears that the server's data is not what it was: it started anew or another took over.
	// older says that it lacks what was there before. It must not block. May be nil.
	Changed func(older bool)
	// Now gives the time in microseconds; nil: the server's clock. For tests.
	Now func() int64
}

// Store is the limiter's state.
type Store struct {
	config Config
	client redis.UniversalClient
	// cluster says that keys of different hash tags may be on different servers.
	cluster bool
	life    float64 // microseconds
	kept    float64 // milliseconds
	// memoryBits of a call's hash choose the key that it is remembered in once it is settled.
	memoryBits int
	breaker    *breaker
	breakers   sync.Map // of a cluster's servers, by address
	identity   identity
	index      index
	hold       script
	move       script // hold, of a call that holds already
	settle     script
	expire     script
	finish     script
	pool       script
	late       script
	renew      script
	raise      script
	recount    script
}

// New makes a store; it does not connect.
func New(c Config) (*Store, error) {
	if c.Lifetime <= 0 || c.SettledKept < time.Millisecond {
		return nil, fmt.Errorf("make store: lifetime %s and settled kept %s must be positive", c.Lifetime, c.SettledKept)
	}
	setDefault(&c.ExpiredKept, expiredKept)
	setDefault(&c.DialTimeout, 50*time.Millisecond)
	setDefault(&c.Timeout, 100*time.Millisecond)
	s := &Store{config: c, life: float64(c.Lifetime.Microseconds()), kept: millis(c.SettledKept), memoryBits: memoryWidth(c.SettledKept),
		breaker: newBreaker()}
	s.identity.changed = func(older bool) {
		s.lacks()
		if c.Changed != nil {
			c.Changed(older)
		}
	}
	var err error
	// A hold and a settlement are idempotent by request id, so that they may be tried twice.
	if s.client, s.cluster, err = redisconn.Dial(redisconn.Config{URL: c.URL, DialTimeout: c.DialTimeout, Timeout: c.Timeout, Retries: 1,
		Extra: c.Extra, Connected: s.onConnect}); err != nil {
		return nil, err
	}
	s.makeScripts()
	return s, nil
}

// makeScripts puts the scripts together.
func (s *Store) makeScripts() {
	release := fmt.Sprintf("%slocal clustered = %t\n%s", common, s.cluster, releaseLua)
	s.hold = newScript(common + "local moving = false\n" + holdLua)
	s.move = newScript(release + "local moving = true\n" + holdLua)
	s.settle = newScript(release + correctLua + settleLua)
	s.expire, s.finish = newScript(release+expireLua), newScript(finishLua)
	s.pool, s.late = newScript(balanceLua), newScript(release+lateLua)
	s.renew, s.raise = newScript(release+renewLua), newScript(common+raiseLua)
	s.recount = newScript(recountLua)
}

// expiredKept is as long as JetStream keeps usage events.
const expiredKept = 7 * 24 * time.Hour

func setDefault(d *time.Duration, to time.Duration) {
	if *d <= 0 {
		*d = to
	}
}

// Close gives back the connections.
func (s *Store) Close() error { return s.client.Close() }

// Ping asks the server for a sign of life and loads the scripts.
func (s *Store) Ping(ctx context.Context) error {
	if err := s.client.Ping(ctx).Err(); err != nil { // first: of a script a server that wants a password says that it is long
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	for _, sc := range []script{s.hold, s.move, s.settle, s.expire, s.finish, s.pool, s.late, s.renew, s.raise, s.recount} {
		if err := s.client.ScriptLoad(ctx, sc.source).Err(); err != nil {
			return fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
	}
	return nil
}

// PoolPart is what a pool has to do with a call.
type PoolPart int8

// Parts.
const (
	PoolNone      PoolPart = iota // not asked
	PoolIfPresent                 // drawn on if there is one
	PoolRequired                  // drawn on, and without one the call is refused
)

// Take is one call to admit.
type Take struct {
	Account  string
	ID       string // request id; empty: nothing is held or recorded, only requests are counted
	Buckets  []bucket.Bucket
	Requests int64  // cost in request buckets, >= 0
	Input    int64  // tokens of the input, >= 0
	Output   int64  // most tokens of the output; 0 asks for fill
	Fill     int64  // most to grant for the output then; 0: the call has no output
	Facts    []byte // kept with the hold, for the event if it expires
	// Life is how long the hold may stay unsettled; 0: Config.Lifetime.
	Life time.Duration
	// Release says that the hold is given back when it expires, whatever the policy.
	Release bool
	// Moves says that what the ID holds already is given back in the same step, if there is room for
	// what is asked now; else it stays.
	Moves bool
	// Watch says what is known of the server's data, if that matters to the buckets.
	Watch    Watch
	Pool     PoolPart
	Provider string // whose pool, up to 255 bytes; with a Pool an ID is needed

	parted bool // the call's part in shared buckets is another Take's, see cluster.go
}

// Outcome of a Take.
type Outcome byte

// Outcomes.
const (
	Admitted Outcome = 'A'
	Refused  Outcome = 'R'
	Repeated Outcome = 'D' // the same request held before; nothing more is taken
	Short    Outcome = 'B' // the pool holds too little
	NoPool   Outcome = 'N' // there is no pool and one is required
	// Missing says that the pool's state is not here, or that it is of a window that has not begun (the pool is
	// Known then): ask for it, SetBalance and try again.
	Missing Outcome = 'M'
	Lost    Outcome = 'W' // a long limit's bucket is not here, and the server's data is not what Take.Watch says
)

// String is the outcome in a word.
func (o Outcome) String() string {
	switch o {
	case Admitted:
		return "admitted"
	case Refused:
		return "refused"
	case Repeated:
		return "repeated"
	case Short, NoPool:
		return "balance"
	}
	return "unknown"
}

// Refuses reports whether nothing was taken.
func (o Outcome) Refuses() bool { return o != Admitted && o != Repeated }

// Taken is what a Take came to.
type Taken struct {
	Outcome Outcome
	Now     int64          // microseconds, the clock the decision was made by
	Held    int64          // tokens
	Output  int64          // of those, for the output
	States  []bucket.State // of each bucket, after the decision
	Pool    Pool           // after the decision, if it was asked
	Err     error          // why there is no outcome; HoldAll's only
}

// Status of a settlement.
type Status byte

// Statuses.
const (
	Settled   Status = 'S' // the charge replaces the hold
	Duplicate Status = 'D' // settled before
	Late      Status = 'L' // the sweeper was before, and the charge replaces what it charged
	Unknown   Status = 'U' // no such hold, or one that cannot be read
	Away      Status = 'A' // a server of the cluster does not answer: to be settled again; SettleEach's only
)

// Settlement is what one call really used.
type Settlement struct {
	Account string
	ID      string
	Charged int64 // tokens, >= 0
}

// Settling is what a Settlement came to: what the books say after it.
type Settling struct {
	Status  Status
	Held    int64
	Charged int64
	Drawn   bool  // the charge draws on the account's pool; without meaning if Unknown
	Taken   int64 // when the hold was taken, microseconds; Late ones only, and 0 if not known
	Lacked  bool  // a bucket of the hold was gone, with what was settled there; Settled ones only
	Err     error // why the hold cannot be read, or its server is away

	alone bool // the call surely holds nothing in shared buckets
}
