package judge

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

// partLimiter begins the names of the limiters.
const partLimiter = topology.RateLimit

// mode is what the call's route does while Redis is away.
func (j *judge) mode(c *Call) config.OutageMode {
	for _, t := range j.e.Targets {
		if t.Provider == c.Provider {
			return t.Mode(c.Stream)
		}
	}
	return config.OutageClosed
}

// Mode is what the target's route does while Redis is away.
func (t *Target) Mode(stream bool) config.OutageMode {
	if stream {
		return cmp.Or(t.StreamOutage, config.OutageClosed)
	}
	return cmp.Or(t.Outage, config.OutageClosed)
}

// opens tells whether nothing bounds what is admitted at a provider while Redis or the
// limiters are away, and one of them was.
func (j *judge) opens(provider string) bool {
	if !slices.ContainsFunc(j.e.Outages, func(o Outage) bool { return o.Part == PartRedis || strings.HasPrefix(o.Part, partLimiter) }) {
		return false
	}
	return slices.ContainsFunc(j.e.Targets, func(t Target) bool {
		return t.Provider == provider && (t.Mode(false) == config.OutageOpen || t.Mode(true) == config.OutageOpen)
	})
}

// unasked tells whether Envoy let a call pass because no limiter answered, as it does where
// the mode is open: the buckets never hear of it, all other books do.
func (j *judge) unasked(c *Call, charge Charge) bool {
	known := charge.State != Unknown && charge.State != ""
	return !known && c.Held == 0 && c.Blind == "" && j.opens(c.Provider) && j.mode(c) == config.OutageOpen
}

// torn tells whether Redis died under a call: it may have held for it and never answered.
func (j *judge) torn(c *Call) bool {
	return slices.ContainsFunc(j.e.Outages, func(o Outage) bool { return o.Part == PartRedis && c.Sent <= o.Dead && c.Answered >= o.Begun })
}

// outages holds what was admitted while Redis was away against what each mode promises.
func (j *judge) outages() {
	for i, o := range j.e.Outages {
		v := OutageVerdict{Part: o.Part, At: o.Begun.Seconds(), Down: (o.Back - o.Dead).Seconds()}
		if o.Part == PartRedis {
			for _, mode := range []config.OutageMode{config.OutageClosed, config.OutageLease, config.OutageOpen} {
				if m := j.outage(o, j.until(i), mode); len(m.Providers) > 0 {
					v.Modes = append(v.Modes, m)
				}
			}
		}
		j.v.Outages = append(j.v.Outages, v)
	}
	j.v.Adopted = j.e.Adopted
	if n := j.e.Adopted["failed"]; n > 0 {
		j.fail("%s of an outage could not be written down after it", Count(n, "call"))
	}
}

// until is when the next outage of Redis began: the limiters notice only after a moment
// that Redis is back, so calls are admitted without it a little longer than it is away.
func (j *judge) until(i int) time.Duration {
	end := time.Duration(math.MaxInt64)
	for _, o := range j.e.Outages {
		if o.Part == PartRedis && o.Begun > j.e.Outages[i].Begun {
			end = min(end, o.Begun)
		}
	}
	return end
}

// outage looks at the calls of one mode.
func (j *judge) outage(o Outage, until time.Duration, mode config.OutageMode) ModeVerdict {
	v := ModeVerdict{Mode: string(mode)}
	for _, t := range j.e.Targets {
		if t.Mode(false) == mode || t.Mode(true) == mode {
			v.Providers = append(v.Providers, t.Provider)
		}
	}
	early := int64(0) // of what was leased, gone before the limiters were asked
	for i := range j.e.Calls {
		c := &j.e.Calls[i]
		if late := c.Sent > o.Back && (c.Blind == "" || c.Sent >= until); j.mode(c) != mode || c.Answered < o.Begun || late {
			continue
		}
		v.Calls++
		switch blind := c.Admitted() && (c.Blind != "" || c.Sent >= o.Dead && c.Answered <= o.Started); {
		case blind:
			v.Admitted++
			v.Tokens += c.Held
			if c.Sent <= o.Counted {
				early += c.Held
			}
		case c.Status == 503:
			v.Unavailable++
		}
	}
	switch {
	case mode == config.OutageClosed:
		v.Bound = new(int64)
	case mode == config.OutageLease && o.Counted > 0:
		leased := int64(o.Leased) + early
		v.Bound = &leased
	}
	if v.Bound != nil && (v.Tokens > *v.Bound || mode == config.OutageClosed && v.Admitted > 0) {
		j.fail("while %s was away, %s of %s tokens admitted in mode %s, and %s is the bound", o.Part, Count(v.Admitted, "call"),
			Thousands(v.Tokens), mode, Thousands(*v.Bound))
	}
	return v
}

// printOutages writes what happened while parts were away.
func (v Verdict) printOutages(b *strings.Builder) {
	if len(v.Outages) == 0 {
		return
	}
	for _, o := range v.Outages {
		fmt.Fprintf(b, "%s was killed after %.1f s and ready again %.1f s later\n", o.Part, o.At, o.Down)
		if len(o.Modes) == 0 {
			continue
		}
		var t Table
		t.Add("  while it was away", "calls", "answered 503", "admitted", "tokens", "bound")
		for _, m := range o.Modes {
			bound := "none"
			switch {
			case m.Bound != nil:
				bound = Thousands(*m.Bound)
			case m.Mode == string(config.OutageLease):
				bound = "not asked"
			}
			t.Add("  "+m.Mode+" ("+strings.Join(m.Providers, ", ")+")", Thousands(int64(m.Calls)), Thousands(int64(m.Unavailable)),
				Thousands(int64(m.Admitted)),
				Thousands(m.Tokens), bound)
		}
		b.WriteString(t.String())
	}
	if a := v.Adopted; len(a) > 0 {
		fmt.Fprintf(b, "written down afterwards: %s out of leases, %s by force, %s known before, %s not\n", Thousands(int64(a["lease"])),
			Thousands(int64(a["forced"])),
			Thousands(int64(a["known"])), Thousands(int64(a["failed"])))
	}
	b.WriteString("\n")
}
