package config

import (
	"slices"
	"strconv"
	"time"
)

// defaultIdle is limits.idle_after.
const defaultIdle = time.Hour

func (l Limits) validateRules(v *validator) {
	between(v, "limits.idle_after", l.Idle, time.Minute, 366*24*time.Hour)
	for i, file := range l.Domains {
		key := "limits.domains." + strconv.Itoa(i)
		switch {
		case file == "":
			v.fail(key, "is empty; name a file of limits")
		case slices.Index(l.Domains, file) != i:
			v.fail(key, "names a file that is there already; name each once")
		}
	}
}
