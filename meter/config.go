package meter

import (
	"log/slog"
	"net/http"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
)

// Prices writes into an event what the call cost.
type Prices interface{ Freeze(*usage.Event) }

// Config is what the meter needs.
type Config struct {
	Spool       string                // path of Envoy's usage log
	StateDir    string                // whose Envoy writes it, default the spool's folder
	Limiter     Limiter               //
	Name        string                // of this meter among others, default "meter"
	Publisher   Publisher             //
	Providers   func(string) Ratio    // of a provider: what to assume before anything was learned
	Prices      Prices                // what calls cost; nil: every event is unpriced
	Aborted     Policy                // what a call is charged that ended early, default its input and what passed
	ReopenURL   string                // Envoy admin's /reopen_logs; empty: never rotate
	StatsURL    string                // Envoy admin's counters of files; empty: only the disk tells whether it can write
	Admin       http.RoundTripper     // how those are called; nil: Go's default
	RotateBytes int64                 // default 64 MiB
	Poll        time.Duration         // pause when the spool gave less than a batch, default 40 ms
	BatchLines  int                   // most lines of one settlement, default 500
	MaxWaiting  int                   // events kept in memory while NATS is down, default 20000
	MaxAway     int                   // settlements kept in memory while a server of Redis is away, default 10000
	SaveEvery   time.Duration         // the checkpoint is synced so often at most, default 500 ms
	Trail       time.Duration         // within which NATS syncs what it acknowledged, default 2 s
	HoldLife    time.Duration         // how long a hold lives that nobody settles, default 1 minute
	Log         *slog.Logger          //
	Metrics     prometheus.Registerer // may be nil
	Traces      Traces                // of calls
}

func (c *Config) checkpoint() string { return filepath.Join(filepath.Dir(c.Spool), "meter.checkpoint") }
func (c *Config) estimates() string {
	return filepath.Join(filepath.Dir(c.Spool), "meter.estimates.json")
}
func (c *Config) damaged() string { return filepath.Join(filepath.Dir(c.Spool), "damaged.jsonl") }

func positive[T int | int64 | time.Duration](v, fallback T) T {
	if v > 0 {
		return v
	}
	return fallback
}
