package config

// Prices is what tokens cost.
type Prices struct {
	File string `yaml:"file"` // prices.yaml, relative to leaky.yaml; empty: the built-in deploy/prices.yaml
}
