package config

import "time"

// defaultHoldLife is holds.life.
const defaultHoldLife = 10 * time.Minute

// renewals is how often a long call renews its hold within the hold's life.
const renewals = 4

func (h Holds) validate(v *validator) {
	v.oneOf("holds.expiry", h.Expiry, ExpiryCharge, ExpiryRelease)
	between(v, "holds.life", h.Life, time.Second, 24*time.Hour)
	between(v, "holds.margin", h.Margin, time.Second, time.Hour)
	between(v, "holds.sweep_every", h.SweepEvery, 100*time.Millisecond, time.Hour)
	between(v, "holds.settled_kept", h.SettledKept, time.Minute, 7*24*time.Hour)
}

// HoldLife is how long a hold lives without a sign of life, holds.margin not counted: as
// long as the longest call, and no longer than holds.life.
func (c *Config) HoldLife() time.Duration { return min(c.Gateway.MaxStreamDuration, c.Holds.Life) }

// RenewEvery is how often a running call gives a sign of life; 0: no call is so long that
// it has to.
func (c *Config) RenewEvery() time.Duration {
	if c.Gateway.MaxStreamDuration <= c.Holds.Life {
		return 0
	}
	return c.Holds.Life / renewals
}
