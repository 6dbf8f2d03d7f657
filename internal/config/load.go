package config

import (
	"fmt"
	"os"
	"strings"

	"github.com/goccy/go-yaml"

	"github.com/leaky-tokens/leaky-tokens/deploy"
)

// Load reads leaky.yaml at path (empty: the built-in one) and folds in the
// environment. Errors name the line, the column and the key.
func Load(path string, getenv func(string) string) (*Config, error) {
	text := deploy.DefaultConfig
	if path != "" {
		var err error
		if text, err = os.ReadFile(path); err != nil {
			return nil, fmt.Errorf("read configuration: %w", err)
		}
	}
	c, err := Parse(text)
	if err != nil {
		return nil, err
	}
	c.environment(getenv)
	return c, nil
}

// Parse decodes the text of a leaky.yaml strictly over the defaults.
func Parse(text []byte) (*Config, error) {
	c := &Config{}
	if err := yaml.UnmarshalWithOptions(deploy.DefaultConfig, c, yaml.Strict()); err != nil {
		return nil, fmt.Errorf("built-in configuration: %w", err)
	}
	if err := yaml.UnmarshalWithOptions(text, c, yaml.Strict()); err != nil {
		return nil, err
	}
	return c, nil
}

// environment lets URLs from the environment win over the file.
func (c *Config) environment(getenv func(string) string) {
	for name, field := range map[string]*string{
		"LEAKY_POSTGRES_URL": &c.Stores.Postgres, "LEAKY_REDIS_URL": &c.Stores.Redis,
		"LEAKY_NATS_URL": &c.Stores.NATS, "LEAKY_CLICKHOUSE_URL": &c.Stores.ClickHouse,
	} {
		if value := getenv(name); value != "" {
			*field = value
		}
	}
	for name, p := range c.Providers {
		if value := getenv("LEAKY_PROVIDER_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_")) + "_URL"); value != "" {
			p.URL = value
			c.Providers[name] = p
		}
	}
}
