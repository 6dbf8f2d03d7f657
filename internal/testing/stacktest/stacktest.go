// Package stacktest is a whole stack of one's own on free ports, started as a user
// starts it (leaky up), for the end-to-end tests and the benchmarks. It is not part
// of the product.
package stacktest

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/leaky-tokens/leaky-tokens/client"
	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/ports"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

// configText has ${NAME} where an address goes and ${services} where each service's line does.
const configText = `
gateway: {listen: "${gateway}", first_byte_timeout: 8s}
envoy: {metrics: "${metrics}", concurrency: ${threads}}
services:
${services}
purchases: {payment: {url: "http://${stub-payment}"}, poll_every: 200ms, backoff: 50ms, price_per_million: {default: 1000, gemini: 100000}}
providers:
  # Stubs may take longer to answer than providers in production.
  openai: {protocol: openai, url: "http://${stub-openai}", tokens_per_byte: 0.25, fill_max_tokens: 256, egress: {timeout: 10s}}
  gemini: {protocol: gemini, url: "http://${stub-gemini}", tokens_per_byte: 0.25, fill_max_tokens: 256, egress: {timeout: 10s}}
  anthropic: {protocol: anthropic, url: "http://${stub-openai}", tokens_per_byte: 0.25, fill_max_tokens: 256,
    consume_path: /api/v1/openai/chat}
  qwen: {protocol: openai, url: "http://${stub-qwen}", tokens_per_byte: 0.25, fill_max_tokens: 256, egress: {timeout: 10s}}
  # Nobody serves these until a test does, to misbehave there without disturbing others.
  flaky: {url: "http://${flaky}", consume_path: /api/v1/openai/chat, egress: {timeout: 5s, backoff: 20ms, max_concurrent: 4}}
  # A test may serve this one with package rawprovider.
  raw: {url: "http://${raw}/v1", outlier: {off: true}}
  rawa: {protocol: anthropic, url: "http://${raw}", outlier: {off: true}}
  rawg: {protocol: gemini, url: "http://${raw}/v1beta", outlier: {off: true}}
  strict: {url: "http://${raw}/v1", stream_options: false, outlier: {off: true}}
  broken: {url: "http://${broken}", consume_path: /api/v1/openai/chat, egress: {timeout: 5s, backoff: 20ms}}
  # Only the test that counts exactly calls here, so that no other one teaches what inputs take.
  apart: {protocol: openai, url: "http://${stub-openai}", tokens_per_byte: 0.25, fill_max_tokens: 256}
  # Nobody is there unless a test of fallbacks is.
  away: {url: "http://${away}"}
models:
  - {name: gpt-4o, provider: openai}
  - {name: gpt-4o-mini, provider: openai}
  - {name: gpt-4.1, provider: openai}
  - {name: text-embedding-3-small, provider: openai, kind: embedding}
  - {name: text-embedding-3-large, provider: openai, kind: embedding}
  - {name: gemini-2.5-flash, provider: gemini}
  - {name: gemini-2.5-pro, provider: gemini}
  - {name: gemini-embedding-001, provider: gemini, kind: embedding}
  - {name: omni-moderation-latest, provider: openai, kind: moderation}
  - {name: gpt-image-1, provider: openai, kind: image}
  - {name: dall-e-3, provider: openai, kind: image, max_output: 4000}
  - {name: tts-1, provider: openai, kind: speech, max_output: 500}
  - {name: claude-haiku-4-5, provider: anthropic}
  - {name: "acme/haiku", provider: anthropic, model: claude-haiku-4-5}
  - {name: qwen-plus, provider: qwen}
  - {name: qwen-max, provider: qwen}
  - {name: apart1, provider: apart, model: gpt-4o-mini}
  - {name: raw1, provider: raw}
  # Nobody is there but who answers instead; the second has no room for anybody.
  - {name: away1, provider: away, fallback: [gpt-4o-mini]}
  - {name: away2, provider: away, model: away, fallback: [narrow]}
  - {name: narrow, provider: qwen, model: qwen-plus}
  - {name: rawe, provider: raw, kind: embedding}
  - {name: rawa1, provider: rawa}
  - {name: rawg1, provider: rawg}
  - {name: "acme/fast:1", provider: openai, model: gpt-4o-mini}
  - {name: "openai/odd", provider: qwen, model: qwen-plus}
  - {name: "Acme Best (preview), 2026", provider: qwen, model: qwen-max}
  - {name: gpt-5-raw, provider: raw}
  # What their streams took is learned from one test alone.
  - {name: shapes, provider: raw}
  - {name: shapes-a, provider: rawa}
  - {name: shapes-g, provider: rawg}
  - {name: strict1, provider: strict}
  # What the stub bills for a picture, so that a pool has room for some calls with eight.
  - {name: gpt-4o-cheap, provider: openai, parts: {image: 85}}
# The routes of whole answers have one policy each; the others have the default.
charge: {routes: {gemini-generate: hold, openai-embeddings: nothing}}
tiers:
  default: USER
  levels:
    USER: {priority: 10, quota_max_tokens: 100000}
    # TINY holds 1000 tokens and leaks practically none: room for ten calls of 100 tokens.
    TINY: {priority: 20, bucket_capacity_multiplier: 0.001, bucket_leak_rate_multiplier: 0.000001}
    SILVER: {priority: 30, bucket_capacity_multiplier: 2, bucket_leak_rate_multiplier: 2}
    GOLD: {priority: 40, bucket_capacity_multiplier: 4, bucket_leak_rate_multiplier: 4}
    # VAST never refuses: what a benchmark measures is the path, not the limit.
    VAST: {priority: 50, bucket_capacity_multiplier: 1000000, bucket_leak_rate_multiplier: 1000000}
    # CAPPED may own little, PREPAID calls only what they have bought.
    CAPPED: {priority: 60, quota_max_tokens: 5000}
    PREPAID: {priority: 70, balance: required}
    ADMIN: {priority: 100, bucket_capacity_multiplier: 2, quota_max_tokens: 500000}
# Decisions and Redis may take longer than in production: the machine may have much else to do.
limits: {file: limits.yaml, explain_last: 5000, outage: {dial_timeout: 2s, timeout: 5s}, timeout: 10s}
monitoring: {prometheus: "off", alertmanager: "off"}
# All accounts come from one address. A refresh token that is used twice ends its login at once.
auth: {throttle: {registers: 100000, addresses: 100000}, refresh_grace: 0s, check_timeout: 10s}
`

const limitsText = `
domain: leaky
descriptors:
  - key: count
    value: tokens
    descriptors:
      - key: user
        descriptors:
          - key: provider
            rate_limit: {name: user-tokens, unit: minute, requests_per_unit: 600000}
            metadata: {rate_limit_policy: {algorithm: leaky_bucket, burst: 1000000, unit: tokens, scale: tier}}
      - key: org
        descriptors:
          - key: provider
            value: gemini
            rate_limit: {name: org-day, unit: day, requests_per_unit: 1000}
            metadata: {rate_limit_policy: {algorithm: leaky_bucket, unit: tokens}}
          - key: team
            descriptors:
              - key: provider
                value: qwen
                rate_limit: {name: team-day, unit: day, requests_per_unit: 1000}
                metadata: {rate_limit_policy: {algorithm: fixed_window, unit: tokens}}
      - key: route
        value: consume
        descriptors:
          - key: user
            descriptors:
              - key: provider
                rate_limit: {name: token-bucket, unit: second, requests_per_unit: 10}
                metadata: {rate_limit_policy: {algorithm: leaky_bucket, burst: 1000, unit: tokens, scale: tier}}
              - key: provider
                value: gemini
                rate_limit: {name: consume-window, unit: day, requests_per_unit: 1000}
                metadata: {rate_limit_policy: {algorithm: fixed_window, unit: tokens}}
              - key: provider
                value: qwen
                rate_limit: {name: consume-balance, unit: second, requests_per_unit: 10}
                metadata: {rate_limit_policy: {algorithm: token_bucket, burst: 1000, unit: tokens}}
          - key: org
            descriptors:
              - key: provider
                rate_limit: {name: org-bucket, unit: day, requests_per_unit: 1500}
                metadata: {rate_limit_policy: {algorithm: leaky_bucket, burst: 1500, unit: tokens}}
  - key: count
    value: requests
    descriptors:
      - key: user
        rate_limit: {name: user-requests, unit: second, requests_per_unit: 100000}
        metadata: {rate_limit_policy: {algorithm: leaky_bucket, burst: 100000, unit: requests}}
      - key: route
        value: identity
        descriptors:
          - key: user
            rate_limit: {name: identity-requests, unit: day, requests_per_unit: 40000}
          - key: remote_address
            rate_limit: {name: identity-requests-per-address, unit: day, requests_per_unit: 50000}
      - key: route
        value: sign-in-keys
        descriptors:
          - key: remote_address
            rate_limit: {name: keys-per-address, unit: day, requests_per_unit: 50000}
      - key: route
        value: sign-in-client
        descriptors:
          - key: client
            rate_limit: {name: sign-in-requests-per-client, unit: day, requests_per_unit: 200}
      - key: route
        value: stub-qwen
        descriptors:
          - key: user
            rate_limit: {name: stub-qwen-requests, unit: day, requests_per_unit: 20}
      - key: route
        value: stub-gemini
        descriptors:
          - key: user
            rate_limit: {name: stub-gemini-requests, unit: day, requests_per_unit: 30}
`

// Stack is one product that is up.
type Stack struct {
	Bin     string            // the built binary
	Dir     string            // state folder
	Config  string            // path of leaky.yaml
	Env     []string          // environment of every command
	Gateway string            // http://host:port
	Stub    map[string]string // provider -> http://host:port of its stub
	Payment string            // http://host:port of the payment stub
	// Flaky, Broken, Away and Raw are host:port of the providers of these names, where nobody listens.
	Flaky, Broken, Away, Raw string
	admin                    func() (string, error)
	client                   *client.Client // of the gateway, as nobody
}

// New builds the binary below dir, which must be readable by other users since
// Postgres runs as one, and writes a configuration with free ports, changed by options.
// It starts nothing.
func New(ctx context.Context, dir string, envoyThreads int, options ...Option) (*Stack, error) {
	s := &Stack{Bin: filepath.Join(dir, "leaky"), Dir: filepath.Join(dir, "s"), Config: filepath.Join(dir, "leaky.yaml")}
	at, err := takeAddresses("gateway", "metrics", "flaky", "broken", "away", "raw")
	if err != nil {
		return nil, err
	}
	made := setup{text: os.Expand(configText, func(name string) string {
		switch name {
		case "services":
			return strings.Join(at.services(), "\n")
		case "threads":
			return strconv.Itoa(envoyThreads)
		}
		return at[name]
	})}
	for _, option := range options {
		if err := option(&made); err != nil {
			return nil, err
		}
	}
	if err := s.build(ctx, made.bin); err != nil {
		return nil, err
	}
	for path, text := range map[string]string{s.Config: made.text, filepath.Join(dir, "limits.yaml"): limitsText} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	s.Gateway, s.Stub = "http://"+at["gateway"], map[string]string{}
	for _, provider := range []string{"openai", "gemini", "qwen"} {
		s.Stub[provider] = "http://" + at["stub-"+provider]
	}
	s.Payment = "http://" + at[topology.StubPayment]
	s.Flaky, s.Broken, s.Away, s.Raw = at["flaky"], at["broken"], at["away"], at["raw"]
	s.Env = append(os.Environ(), "LEAKY_STATE_DIR="+s.Dir, "LEAKY_CONFIG="+s.Config)
	for _, store := range topology.Of(topology.Store) {
		s.Env = append(s.Env, store.Variable("LISTEN")+"="+at[store.Name])
	}
	s.Env = slices.Clip(s.Env) // tests that run at the same time append to it
	s.admin = sync.OnceValues(s.loginAdmin)
	return s, s.Through(http.DefaultTransport)
}

// build makes the binary, unless there is one.
func (s *Stack) build(ctx context.Context, built string) error {
	if built != "" {
		s.Bin = built
		return nil
	}
	args := []string{"build", "-o", s.Bin}
	if os.Getenv("GOCOVERDIR") != "" { // make test: what the processes of a stack reach counts too
		args = append(args, "-cover")
	}
	build := exec.CommandContext(ctx, "go", append(args, "github.com/leaky-tokens/leaky-tokens/cmd/leaky")...)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build leaky: %w\n%s", err, out)
	}
	return nil
}

// Loaded is the configuration as the services read it.
func (s *Stack) Loaded() (*config.Config, error) {
	return config.Load(s.Config, func(string) string { return "" })
}

// addresses are host:port of each part and of what else listens, by name. What only parts call is
// where the built-in configuration has it.
type addresses map[string]string

// takeAddresses finds a free one for each part and each of more.
func takeAddresses(more ...string) (addresses, error) {
	names := append(topology.Names(topology.Parts()), more...)
	free, err := ports.Free(len(names))
	if err != nil {
		return nil, err
	}
	at := addresses{}
	for i, name := range names {
		at[name] = free[i]
	}
	return at, nil
}

// services are the lines of leaky.yaml's section.
func (a addresses) services() []string {
	var lines []string
	for _, part := range topology.Having(topology.Part.Listens) {
		lines = append(lines, fmt.Sprintf("  %s: {http: %q}", part.Key(), a[part.Name]))
	}
	return lines
}

// Up starts the stack. It waits longer than a user would: the machine may have much else to do.
func (s *Stack) Up(ctx context.Context) (string, error) {
	return s.Leaky(ctx, "up", "--timeout", "4m")
}

// Leaky runs the binary as a user would and returns what it printed.
func (s *Stack) Leaky(ctx context.Context, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.Bin, args...)
	cmd.Env = s.Env
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("leaky %s: %w", strings.Join(args, " "), err)
	}
	return string(out), err
}
