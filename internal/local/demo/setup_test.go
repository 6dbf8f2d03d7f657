package demo

import (
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
)

// TestOneProviderOfAStubIsDriven: what a stub counts is then one provider's.
func TestOneProviderOfAStubIsDriven(t *testing.T) {
	t.Parallel()
	const file = `
gateway: {listen: "127.0.0.1:8080"}
services: {stub_openai: {http: "127.0.0.1:7001"}, stub_qwen: {http: "127.0.0.1:7003"}}
providers:
  apart: {protocol: openai, url: "http://127.0.0.1:7001"}
  claude: {protocol: anthropic, url: "http://127.0.0.1:7001"}
  elsewhere: {protocol: openai, url: "http://127.0.0.1:7009"}
  first: {protocol: openai, url: "http://127.0.0.1:7003"}
  openai: {protocol: openai, url: "http://127.0.0.1:7001"}
  second: {protocol: openai, url: "http://127.0.0.1:7003"}
models:
  - {name: a, provider: apart}
  - {name: c, provider: claude}
  - {name: e, provider: elsewhere}
  - {name: f, provider: first}
  - {name: o, provider: openai}
  - {name: s, provider: second}
`
	cfg, err := config.Parse([]byte(file))
	if err != nil {
		t.Fatal(err)
	}
	found := targets(cfg)
	if len(found) != 2 || found[0].Provider != "first" || found[0].Part != "stub-qwen" || found[1].Provider != "openai" ||
		found[1].Part != "stub-openai" {
		t.Errorf("want first and openai, got %+v", found)
	}
}
