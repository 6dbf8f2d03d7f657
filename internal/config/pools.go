package config

import "time"

// How a pool refills.
const (
	RefillWindow = "window" // full again at the end of each window
	RefillNever  = "never"  // prepaid: what is spent is gone
)

// Pools are the tokens that accounts own, and how they are told of.
type Pools struct {
	Refill        string        `yaml:"refill" jsonschema:"enum=never,enum=window"`       // of pools that a purchase makes: never (default) or window
	GrantRefill   string        `yaml:"grant_refill" jsonschema:"enum=never,enum=window"` // of pools that a grant makes: window (default) or never
	Window        time.Duration `yaml:"window"`                                           // of new pools that refill, default 24h
	ExpireEvery   time.Duration `yaml:"expire_every"`                                     // how often credits that are over are taken back, default 10s
	AnnounceEvery time.Duration `yaml:"announce_every"`                                   // how often ratelimit is told what usage has left, default 10s
	Outbox        Outbox        `yaml:"outbox"`
}

// Outbox is how events go from Postgres to JetStream.
type Outbox struct {
	PollEvery time.Duration `yaml:"poll_every"` // without a notification, default 2s
	Batch     int           `yaml:"batch"`      // events of one round, default 1000
	Attempts  int           `yaml:"attempts"`   // of an event that JetStream refuses before it is parked, default 8
	Keep      time.Duration `yaml:"keep"`       // published events stay so long, default 1h
}

func defaultPools() Pools {
	return Pools{Refill: RefillNever, GrantRefill: RefillWindow, Window: 24 * time.Hour, ExpireEvery: 10 * time.Second,
		AnnounceEvery: 10 * time.Second,
		Outbox:        Outbox{PollEvery: 2 * time.Second, Batch: 1000, Attempts: 8, Keep: time.Hour}}
}

func (p Pools) validate(v *validator) {
	v.oneOf("pools.refill", p.Refill, RefillWindow, RefillNever)
	v.oneOf("pools.grant_refill", p.GrantRefill, RefillWindow, RefillNever)
	between(v, "pools.window", p.Window, time.Minute, 366*24*time.Hour)
	between(v, "pools.expire_every", p.ExpireEvery, 100*time.Millisecond, time.Hour)
	between(v, "pools.announce_every", p.AnnounceEvery, 100*time.Millisecond, time.Hour)
	between(v, "pools.outbox.poll_every", p.Outbox.PollEvery, 10*time.Millisecond, time.Minute)
	between(v, "pools.outbox.batch", p.Outbox.Batch, 16, 2000)
	between(v, "pools.outbox.attempts", p.Outbox.Attempts, 1, 100)
	between(v, "pools.outbox.keep", p.Outbox.Keep, 10*time.Minute, 30*24*time.Hour)
}
