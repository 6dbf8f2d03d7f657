package config

import (
	"bytes"
	"cmp"
	"fmt"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"github.com/leaky-tokens/leaky-tokens/deploy"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
	"github.com/leaky-tokens/leaky-tokens/internal/yamlbound"
)

// Load reads leaky.yaml at path (empty: the built-in one), folds in the environment
// and checks the whole. An error lists every mistake as file:line:column: key: what
// is wrong and what would be right.
func Load(path string, getenv func(string) string) (*Config, error) {
	if path == "" {
		return parse("built-in leaky.yaml", deploy.DefaultConfig, getenv)
	}
	text, err := ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	return Read(path, text, getenv)
}

// Read is Load of a text that was read from path. An empty one is what a full disk or a cut copy
// leaves of a file, and so a mistake.
func Read(path string, text []byte, getenv func(string) string) (*Config, error) {
	text = bytes.TrimPrefix(text, []byte("\ufeff")) // some editors begin a file with it
	if message, line := yamlbound.Unparseable(text); message != "" {
		return nil, &Error{Mistakes: []Mistake{{file: path, line: line, column: 1, Message: message}}}
	}
	if file, err := parser.ParseBytes(text, 0); err == nil && isEmpty(file) {
		return nil, &Error{Mistakes: []Mistake{{file: path, line: 1, column: 1, Message: "the file says nothing; write {} if the defaults alone are meant"}}}
	}
	return parse(path, text, getenv)
}

// Parse reads the text of a leaky.yaml as Load does, without an environment.
func Parse(text []byte) (*Config, error) {
	return parse("leaky.yaml", text, func(string) string { return "" })
}

func parse(name string, text []byte, getenv func(string) string) (*Config, error) {
	file, err := parser.ParseBytes(text, 0)
	if err != nil {
		return nil, &Error{Mistakes: []Mistake{syntaxMistake(name, err)}}
	}
	if mistake, several := secondDocument(name, file); several {
		return nil, &Error{Mistakes: []Mistake{mistake}}
	}
	c := defaults()
	if err := yaml.UnmarshalWithOptions(deploy.DefaultConfig, c, yaml.Strict()); err != nil {
		return nil, fmt.Errorf("built-in configuration: %w", err)
	}
	builtin := *c
	// A file that states providers or models states all of them: merging entry by entry
	// would leave a stub's settings under a real provider's address.
	c.Providers, c.Models = nil, nil
	if mistakes := durationMistakes(name, file); len(mistakes) > 0 {
		return nil, &Error{Mistakes: mistakes}
	}
	if !isEmpty(file) {
		if err := yaml.UnmarshalWithOptions(text, c, yaml.Strict()); err != nil {
			return nil, &Error{Mistakes: []Mistake{syntaxMistake(name, err)}}
		}
	}
	c.fill(builtin)
	c.environment(getenv)
	if mistakes := c.validate(); len(mistakes) > 0 {
		for i := range mistakes {
			mistakes[i].locate(name, file)
		}
		return nil, &Error{Mistakes: mistakes}
	}
	for i, m := range c.Models { // not before, lest a provider's mistakes be told of each of its models
		if _, wild := m.Wildcard(); wild {
			continue // what it leaves open depends on the model
		}
		c.Models[i] = c.Providers[m.Provider].Complete(m)
	}
	return c, nil
}

// defaults are what the built-in file leaves to the code; each section has its own.
func defaults() *Config {
	return &Config{
		Gateway:   defaultGateway(),
		Flags:     defaultFlags(),
		Auth:      defaultAuth(),
		TLS:       defaultTLS(),
		Purchases: defaultPurchases(),
		Pools:     defaultPools(),
		Holds:     Holds{Life: defaultHoldLife},
		Charge:    Charge{Aborted: ChargeInput},
		Limits: Limits{Envoys: OtherEnvoys{Headers: true, Local: true}, Idle: defaultIdle, Explain: defaultExplain,
			MaxTokens: MaxTokens{Default: MaxTokensFill}, Outage: defaultOutage()},

		Discovery:  defaultDiscovery(),
		Analytics:  defaultAnalytics(),
		Dimensions: defaultDimensions(),
		Monitoring: defaultMonitoring(),
		Logs:       defaultLogs(),
		Tracing:    defaultTracing(),
	}
}

func isEmpty(file *ast.File) bool {
	for _, doc := range file.Docs {
		if doc.Body != nil && doc.Body.Type() != ast.NullType && doc.Body.Type() != ast.CommentType {
			return false
		}
	}
	return true
}

// secondDocument is a document after the first: the library would read one and leave the other.
func secondDocument(name string, file *ast.File) (m Mistake, found bool) {
	bodies := 0
	for _, doc := range file.Docs {
		if doc.Body == nil || doc.Body.Type() == ast.CommentType {
			continue
		}
		if bodies++; bodies == 2 {
			m = Mistake{file: name, Message: "the file holds more than one YAML document; take the line --- away"}
			m.at(doc.Body.GetToken())
			return m, true
		}
	}
	return m, false
}

// fill puts defaults where the file says nothing.
func (c *Config) fill(builtin Config) {
	c.fillOAuth()
	c.Auth.fillUpstreams()
	c.fillInner()
	if c.Providers == nil {
		c.Providers = builtin.Providers
	}
	if c.Models == nil {
		for _, m := range builtin.Models {
			if _, ok := c.Providers[m.Provider]; ok {
				c.Models = append(c.Models, m)
			}
		}
	}
	for name, p := range c.Providers {
		p.fillPreset()
		setDefault(&p.Protocol, ProtocolOpenAI)
		setDefault(&p.ConnectTimeout, defaultConnectTimeout)
		setDefault(&p.MaxRequests, 1024)
		setDefault(&p.MaxPending, 256)
		setDefault(&p.TokensPerByte, 1)
		setDefault(&p.BytesPerToken, 200)
		p.fillEgress(name)
		p.fillUpstream()
		c.Providers[name] = p
	}
	for i := range c.Models {
		setDefault(&c.Models[i].Kind, KindChat)
	}
	for name, t := range c.Tiers.Levels {
		setDefault(&t.Capacity, 1)
		setDefault(&t.LeakRate, 1)
		setDefault(&t.Balance, BalanceIfPresent)
		c.Tiers.Levels[name] = t
	}
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// environment lets URLs from the environment win over the file.
func (c *Config) environment(getenv func(string) string) {
	for _, store := range topology.Of(topology.Store) {
		if field := fieldOf[string](&c.Stores, store.Key()); field != nil {
			*field = cmp.Or(getenv(store.Variable("URL")), *field)
		}
	}
	for name, p := range c.Providers {
		if value := getenv(providerVariable(name)); value != "" {
			p.URL = value
			c.Providers[name] = p
		}
	}
}

func providerVariable(name string) string {
	return "LEAKY_PROVIDER_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_")) + "_URL"
}
