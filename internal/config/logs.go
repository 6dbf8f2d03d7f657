package config

import (
	"log/slog"
	"maps"
	"slices"

	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

// Logs is how much parts say. It is followed while they run, so that a call can be followed through
// all of them without a restart. At debug each part says one line for each call, with its id.
type Logs struct {
	Level string            `yaml:"level"` // debug, info, warn or error, default info
	Parts map[string]string `yaml:"parts"` // of single services, by name
}

func defaultLogs() Logs { return Logs{Level: slog.LevelInfo.String()} }

// Of is the level of a service.
func (l Logs) Of(service string) slog.Level {
	text, ok := l.Parts[service]
	if !ok {
		text = l.Level
	}
	var level slog.Level
	if level.UnmarshalText([]byte(text)) != nil { // validated before it is followed
		return slog.LevelInfo
	}
	return level
}

func (l Logs) validate(v *validator) {
	levels := []string{"debug", "info", "warn", "error", "DEBUG", "INFO", "WARN", "ERROR"}
	v.oneOf("logs.level", l.Level, levels...)
	for _, service := range slices.Sorted(maps.Keys(l.Parts)) {
		v.oneOf("logs.parts", service, topology.Names(topology.Of(topology.Service))...)
		v.oneOf("logs.parts."+service, l.Parts[service], levels...)
	}
}
