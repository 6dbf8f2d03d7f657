// Package envoy is Envoy as data: the pinned version, the bootstrap that knows only
// the xds server, the command line, and the Lua scripts of the filter chain.
// xds puts the scripts into the listener; the supervisor and the tests start the binary.
package envoy

import (
	"cmp"
	_ "embed"
	"strconv"
	"time"
)

// Version is the one Envoy release this product is built on and tested with.
// The scripts rely on how its Lua filter hands out a body, so no other is assumed to do.
const Version = "1.40.0"

// NodeCluster is the node.cluster of every gateway; the xds server serves all nodes alike.
const NodeCluster = "leaky-gateway"

// The guard is one script of four files.
var (
	//go:embed json.lua
	jsonLua string
	//go:embed parts.lua
	partsLua string
	//go:embed bodies.lua
	bodiesLua string
	//go:embed guard.lua
	guardLua string
)

// GuardLua refuses LLM requests whose body two JSON parsers could read differently,
// and states the facts that limits are computed from.
func GuardLua() string { return jsonLua + partsLua + bodiesLua + guardLua }

// SpliceLua puts what ratelimit decided into the body.
//
//go:embed splice.lua
var SpliceLua string

// InflightLua bounds the request bodies that one caller has under way.
//
//go:embed inflight.lua
var InflightLua string

//go:embed usage_scan.lua
var usageScanLua string

//go:embed usage_text.lua
var usageTextLua string

//go:embed usage.lua
var usageLua string

// UsageLua reads a provider's token usage while the answer passes, and takes out the usage
// event that only the gateway asked for. Lua knows no inclusion here, so its scanner of JSON and
// what counts the text of lines stand before the part that reads lines and talks to Envoy.
func UsageLua() string { return usageScanLua + usageTextLua + usageLua }

// ArgsConfig is what the command line of one Envoy process depends on.
type ArgsConfig struct {
	Bootstrap   string // path of the bootstrap file, .json
	Concurrency int    // worker threads; 0: one per core
	AdminPath   string // file Envoy writes the admin address to; empty: none
	LogLevel    string // default warning
	// Drain is how long a listener that was changed lets what it has begun come to its end, in whole
	// seconds: the longest answer that is not to be cut. Default 10m, as gateway.max_stream_duration.
	Drain time.Duration
}

// Args are the arguments (without the program's name) that Envoy is started with. The
// working folder must be the state folder: relative socket paths are resolved against it.
func Args(c ArgsConfig) []string {
	if c.LogLevel == "" {
		c.LogLevel = "warning"
	}
	args := []string{
		"--config-path", c.Bootstrap,
		"--log-level", c.LogLevel,
		// A crash loses at most so many milliseconds of the usage spool; the default is 10 s.
		"--file-flush-interval-msec", "100",
		// Hot restart shares memory by base id: two Envoys on one machine would clash.
		"--disable-hot-restart",
		// Clients go over to a listener's successor with their next call, not by and by.
		"--drain-time-s", strconv.Itoa(int(cmp.Or(c.Drain, 10*time.Minute).Seconds())), "--drain-strategy", "immediate",
	}
	if c.Concurrency > 0 {
		args = append(args, "--concurrency", strconv.Itoa(c.Concurrency))
	}
	if c.AdminPath != "" {
		args = append(args, "--admin-address-path", c.AdminPath)
	}
	return args
}
