// Package deploy holds what ships beside the binary: the default configuration,
// the default limits, the default prices and the pinned parts, each also embedded in the binary.
package deploy

import _ "embed"

// DefaultConfig is the leaky.yaml used when none is given.
//
//go:embed leaky.yaml
var DefaultConfig []byte

// DefaultLimits are the descriptors used when leaky.yaml names no file.
//
//go:embed limits.yaml
var DefaultLimits []byte

// Alerts are the rules that Prometheus evaluates.
//
//go:embed alerts.yml
var Alerts []byte

// PartsLock is parts.json: version, file and SHA-256 of every part that is fetched.
//
//go:embed parts.json
var PartsLock []byte

// ConfigSchema is the JSON Schema of leaky.yaml for editors, made from its structs.
//
//go:embed leaky.schema.json
var ConfigSchema []byte

// DefaultPrices is the list of prices used when leaky.yaml names none.
//
//go:embed prices.yaml
var DefaultPrices []byte
