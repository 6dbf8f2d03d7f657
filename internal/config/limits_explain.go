package config

// defaultExplain is limits.explain_last: some megabytes of memory.
const defaultExplain = 2000

func (l Limits) validateExplain(v *validator) {
	between(v, "limits.explain_last", l.Explain, 0, 1_000_000)
}
