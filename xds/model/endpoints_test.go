package model_test

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	diff "github.com/google/go-cmp/cmp"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/egress"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/openapi"
	"github.com/leaky-tokens/leaky-tokens/xds/model"
)

var update = flag.Bool("update", false, "rewrite docs/endpoints.md")

const endpointsIntro = `# Endpoints

Every path that somebody may call, with who may. It is written by
` + "`go test ./xds/model -run TestEndpoints -update`" + ` from the routes that Envoy is given and from
[openapi.yaml](../openapi.yaml), which has the bodies, the parameters and the refusals, and which
` + "`/docs`" + ` shows in a browser.

*Anyone* needs no credential. *Key* is an API key, as ` + "`Authorization: Bearer`" + ` or ` + "`X-Api-Key`" + `.
*Login* is the access token of a login; what an application was granted (OAuth2) must have the
scope that is named, and where none is, applications are refused. *ADMIN* is the role. What is on
a service's own port is not served by the gateway.
`

// TestEndpoints keeps docs/endpoints.md true: -update writes it.
func TestEndpoints(t *testing.T) {
	t.Parallel()
	g, _, err := build(t, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	spec, err := openapi3.NewLoader().LoadFromData(openapi.YAML())
	if err != nil {
		t.Fatal(err)
	}
	got := endpointsIntro + llmEndpoints(g) + described(g, spec) + fmt.Sprintf(`
## Egress

On a socket of its own (%s), for the token service alone.

| endpoint | who may | what it does |
|---|---|---|
| %s | the token service | call a provider with its deadline, retries, bulkhead and breaker |
`, "`gateway.egress`", "`POST "+egress.Path("{provider}")+"`")
	file := filepath.Join("..", "..", "docs", "endpoints.md")
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := diff.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); d != "" {
		t.Errorf("docs/endpoints.md (-it has +it should have; go test ./xds/model -run TestEndpoints -update):\n%s", d)
	}
}

// llmEndpoints are the routes that reach a model, each once and with {model} for the names.
func llmEndpoints(g *model.Gateway) string {
	does := map[string]string{
		"openai-chat":        "OpenAI chat completions, JSON or SSE",
		"openai-responses":   "OpenAI responses, JSON or SSE; none is stored for the caller",
		"openai-completions": "OpenAI legacy completions, JSON or SSE",
		"openai-embeddings":  "OpenAI embeddings",
		"openai-moderations": "OpenAI moderations, for no tokens",
		"openai-images":      "OpenAI, make pictures",
		"openai-speech":      "OpenAI, make sound of a text",
		"qwen-chat":          "Qwen, in the OpenAI protocol",
		"anthropic-messages": "Anthropic messages, JSON or SSE",
		"anthropic-count":    "Anthropic, count the tokens of messages, for no tokens",
		"gemini-generate":    "Gemini, one answer",
		"gemini-stream":      "Gemini, as a list of JSON, or as SSE with `?alt=sse`",
		"gemini-embed":       "Gemini, one embedding",
		"gemini-embed-batch": "Gemini, embeddings of many contents",
		"gemini-count":       "Gemini, count the tokens of a request, for no tokens",
	}
	var rows []string
	for _, r := range g.Routes {
		if r.LLM == nil {
			continue
		}
		path := r.Match.Path
		if r.LLM.Gemini {
			path = strings.Replace(path, "/"+r.LLM.Model+":", "/{model}:", 1)
			if r.LLM.Model == "" {
				continue // what a call meets before its body is read
			}
		}
		rows = append(rows, fmt.Sprintf("| `%s %s` | key; login, scope `%s` | %s |", r.Match.Method, path, strings.ReplaceAll(r.Scope, "|", "` or `"),
			cmp.Or(does[r.LLM.Route], "**describe "+r.LLM.Route+" in endpoints_test.go**")))
	}
	slices.Sort(rows)
	return section("LLM routes", "As the providers' SDKs call them, through the gateway.", slices.Compact(rows))
}

func section(title, text string, rows []string) string {
	return fmt.Sprintf("\n## %s\n\n%s\n\n| endpoint | who may | what it does |\n|---|---|---|\n%s\n", title, text, strings.Join(rows, "\n"))
}

// described are the operations of the document by tag.
func described(g *model.Gateway, spec *openapi3.T) string {
	rows := map[string][]string{}
	for path, item := range spec.Paths.Map() {
		for method, operation := range item.Operations() {
			rows[operation.Tags[0]] = append(rows[operation.Tags[0]], fmt.Sprintf("| `%s %s` | %s | %s |", method, path, who(g, method, path, operation),
				strings.ToLower(operation.Summary[:1])+operation.Summary[1:]))
		}
	}
	var all strings.Builder
	for _, tag := range spec.Tags {
		slices.SortFunc(rows[tag.Name], func(a, b string) int { return cmp.Compare(endpoint(a), endpoint(b)) })
		all.WriteString(section(tag.Name, tag.Description, rows[tag.Name]))
	}
	return all.String()
}

// endpoint is a row's path and method, to sort by.
func endpoint(row string) string {
	method, path, _ := strings.Cut(strings.Split(row, "`")[1], " ")
	return path + " " + method
}

// who says in words what an operation's security is.
func who(g *model.Gateway, method, path string, o *openapi3.Operation) string {
	service, _ := o.Extensions["x-service"].(string)
	if internal, _ := o.Extensions["x-internal"].(bool); internal {
		return "services, on the port of " + service
	}
	if o.Security == nil || len(*o.Security) == 0 {
		if service == "xds" {
			return "anyone on the port of xds"
		}
		if route := find(g.Routes, method, path); service == "common" && route.Name == "unknown" {
			return "anyone on a service's own port"
		}
		return "anyone"
	}
	var ways []string
	for _, way := range *o.Security {
		for scheme, scopes := range way {
			switch {
			case scheme == "apiKeyAuth":
				ways = append([]string{"key"}, ways...)
			case scheme == "basicAuth":
				ways = append(ways, "application, by its id and secret")
			case slices.Contains(scopes, attributes.ScopeAdmin):
				ways = append(ways, "ADMIN by login, scope `admin`")
			case len(scopes) > 0:
				ways = append(ways, "login, scope `"+strings.Join(scopes, "`, `")+"`")
			default:
				ways = append(ways, "login")
			}
		}
		if len(way) == 0 {
			ways = append(ways, "public application by its id")
		}
	}
	return strings.Join(ways, "; ")
}
