package config_test

import (
	"strings"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
)

func TestTracing(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		text, mistake string
		want          config.Tracing
	}{
		"nothing":        {"{}", "", config.Tracing{Sample: 0.01, Slow: 10 * time.Second}},
		"a collector":    {"tracing: {otlp: 'http://127.0.0.1:4317'}", "", config.Tracing{OTLP: "http://127.0.0.1:4317", Sample: 0.01, Slow: 10 * time.Second}},
		"every call":     {"tracing: {otlp: 'https://otel.example', sample: 1, slow: 1s}", "", config.Tracing{OTLP: "https://otel.example", Sample: 1, Slow: time.Second}},
		"no call":        {"tracing: {sample: 0}", "", config.Tracing{Slow: 10 * time.Second}},
		"percent":        {"tracing: {sample: 5}", "tracing.sample: 5 is out of range", config.Tracing{}},
		"negative":       {"tracing: {sample: -0.1}", "tracing.sample", config.Tracing{}},
		"not a number":   {"tracing: {sample: .nan}", "tracing.sample", config.Tracing{}},
		"no scheme":      {"tracing: {otlp: '127.0.0.1:4317'}", "tracing.otlp: write http(s)://", config.Tracing{}},
		"OTLP over HTTP": {"tracing: {otlp: 'http://127.0.0.1:4318/v1/traces'}", "tracing.otlp: write http(s)://", config.Tracing{}},
		"a credential":   {"tracing: {otlp: 'http://me:secret@otel'}", "without path, credentials", config.Tracing{}},
		"a cloud's own":  {"tracing: {otlp: 'http://169.254.169.254'}", "link-local", config.Tracing{}},
		"port":           {"tracing: {otlp: 'http://otel:70000'}", "leaky.yaml:1:17: tracing.otlp: port 70000 is out of range; it must be 1 to 65535", config.Tracing{}},
		"port 0":         {"tracing: {otlp: 'http://otel:0'}", "tracing.otlp: port 0 is out of range", config.Tracing{}},
		"never slow":     {"tracing: {slow: 0s}", "tracing.slow: 0s is out of range", config.Tracing{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := config.Parse([]byte(c.text))
			switch {
			case c.mistake == "" && err != nil:
				t.Fatal(err)
			case c.mistake != "" && (err == nil || !strings.Contains(err.Error(), c.mistake)):
				t.Fatalf("want a mistake with %q, got %v", c.mistake, err)
			case c.mistake != "" && strings.Contains(err.Error(), "secret"):
				t.Fatalf("a credential in the error: %v", err)
			case c.mistake == "" && got.Tracing != c.want:
				t.Fatalf("want %+v, got %+v", c.want, got.Tracing)
			}
		})
	}
}
