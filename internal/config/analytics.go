package config

// Analytics is how long the books of single calls are kept.
type Analytics struct {
	KeepDays int `yaml:"keep_days"` // days after a call began, 0: for ever; default 730
}

func defaultAnalytics() Analytics { return Analytics{KeepDays: 730} }

func (a Analytics) validate(v *validator) { between(v, "analytics.keep_days", a.KeepDays, 0, 36500) }
