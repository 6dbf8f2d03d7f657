package config_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/invopop/jsonschema"
	check "github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/leaky-tokens/leaky-tokens/deploy"
	"github.com/leaky-tokens/leaky-tokens/internal/config"
)

var update = flag.Bool("update", false, "write the schema of leaky.yaml anew")

// schemaFile is what `leaky schema` prints.
func schemaFile() string { return filepath.Join("..", "..", "deploy", "leaky.schema.json") }

// schema is made from the structs, their comments and their enumerations.
func schema(t *testing.T) []byte {
	t.Helper()
	choice := func(values ...any) *jsonschema.Schema { return &jsonschema.Schema{Type: "string", Enum: values} }
	r := jsonschema.Reflector{Anonymous: true, FieldNameTag: "yaml", RequiredFromJSONSchemaTags: true, ExpandedStruct: true,
		Mapper: func(of reflect.Type) *jsonschema.Schema {
			switch of {
			case reflect.TypeFor[time.Duration]():
				return &jsonschema.Schema{Type: "string", Pattern: `^([0-9]*(\.[0-9]*)?(ns|us|µs|ms|s|m|h))+$|^0$`, Examples: []any{"500ms", "30s", "10m", "1h"}}
			case reflect.TypeFor[config.Part]():
				return &jsonschema.Schema{OneOf: []*jsonschema.Schema{{Type: "integer", Minimum: "0"}, choice("refuse")}}
			case reflect.TypeFor[config.KubernetesService]():
				return &jsonschema.Schema{Type: "string", Pattern: `^[a-z0-9-]+/[a-z0-9-]+:[a-z0-9-]+$`, Examples: []any{"models/vllm:http"}}
			case reflect.TypeFor[config.Protocol]():
				return choice(config.ProtocolOpenAI, config.ProtocolAnthropic, config.ProtocolGemini)
			case reflect.TypeFor[config.KeyStrategy]():
				return choice(config.KeyAuto, config.KeyUser, config.KeyAPIKey, config.KeyIP)
			case reflect.TypeFor[config.MaxTokensMode]():
				return choice(config.MaxTokensFill, config.MaxTokensModel, config.MaxTokensReject)
			case reflect.TypeFor[config.OutageMode]():
				return choice(config.OutageClosed, config.OutageOpen, config.OutageLease)
			case reflect.TypeFor[config.TLSMode]():
				return choice(config.TLSOff, config.TLSMutual)
			case reflect.TypeFor[config.ChargeMode]():
				return choice(config.ChargeInput, config.ChargeHold, config.ChargeNothing)
			}
			return nil
		}}
	if err := r.AddGoComments("github.com/leaky-tokens/leaky-tokens/internal/config", "."); err != nil {
		t.Fatal(err)
	}
	for name, comment := range r.CommentMap {
		r.CommentMap[name] = strings.Join(strings.Fields(comment), " ")
	}
	s := r.Reflect(&config.Config{})
	s.Title = "leaky.yaml"
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return append(text, '\n')
}

func TestSchemaIsThatOfTheStructs(t *testing.T) {
	t.Parallel()
	want := schema(t)
	if *update {
		if err := os.WriteFile(schemaFile(), want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got := deploy.ConfigSchema; !*update && !bytes.Equal(got, want) {
		t.Error("deploy/leaky.schema.json is not that of the structs: go test ./internal/config -run TestSchema -update")
	}
}

// TestSchemaTakesWhatTheParserTakes, and finds the mistakes that an editor can show.
func TestSchemaTakesWhatTheParserTakes(t *testing.T) {
	t.Parallel()
	parsed, err := check.UnmarshalJSON(bytes.NewReader(schema(t)))
	if err != nil {
		t.Fatal(err)
	}
	compiler := check.NewCompiler()
	if err := compiler.AddResource("leaky.schema.json", parsed); err != nil {
		t.Fatal(err)
	}
	compiled, err := compiler.Compile("leaky.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		text string
		good bool
	}{
		"built in":         {string(deploy.DefaultConfig), true},
		"parts":            {"providers: {a: {url: 'http://a', parts: {image: 1000, tool: refuse}}}", true},
		"durations":        {"holds: {life: 1h30m, margin: 1.5s}", true},
		"unknown key":      {"gateway: {listn: '127.0.0.1:1'}", false},
		"unknown at depth": {"limits: {outage: {defalt: open}}", false},
		"wrong type":       {"gateway: {trusted_hops: many}", false},
		"no such mode":     {"tls: {mode: on-and-off}", false},
		"no such kind":     {"models: [{name: a, provider: openai, kind: chats}]", false},
		"a bare number":    {"holds: {life: 10 minutes}", false},
	} {
		var value any
		if err := yaml.Unmarshal([]byte(c.text), &value); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		asJSON, err := json.Marshal(value)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		instance, err := check.UnmarshalJSON(bytes.NewReader(asJSON))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := compiled.Validate(instance); (err == nil) != c.good {
			t.Errorf("%s: want good %v, got %v", name, c.good, err)
		}
		if _, err := config.Parse([]byte(c.text)); (err == nil) != c.good {
			t.Errorf("%s: want the parser to agree (good %v), got %v", name, c.good, err)
		}
	}
}
