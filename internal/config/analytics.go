package config

import "time"

// Analytics is how long the books of calls are kept, and how often they are held against the others.
type Analytics struct {
	KeepDays       int           `yaml:"keep_days"`       // days after a call began, 0: for ever; default 90
	RollupDays     int           `yaml:"rollup_days"`     // of sums by minute, hour and day, 0: for ever; default 730
	ReconcileEvery time.Duration `yaml:"reconcile_every"` // how often the books of all stores are compared, 0: never; default 10 min
}

func defaultAnalytics() Analytics {
	return Analytics{KeepDays: 90, RollupDays: 730, ReconcileEvery: 10 * time.Minute}
}

func (a Analytics) validate(v *validator) {
	between(v, "analytics.keep_days", a.KeepDays, 0, 36500)
	between(v, "analytics.rollup_days", a.RollupDays, 0, 36500)
	if a.RollupDays > 0 && (a.KeepDays == 0 || a.KeepDays > a.RollupDays) {
		v.fail("analytics.rollup_days", "sums of %d days would be gone before their calls; it must be keep_days or more, or 0", a.RollupDays)
	}
	if a.ReconcileEvery != 0 {
		between(v, "analytics.reconcile_every", a.ReconcileEvery, time.Minute, 24*time.Hour)
	}
}
