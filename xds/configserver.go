package xds

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

// environment is the answer of Spring Cloud Config's server, whose clients come along:
// https://docs.spring.io/spring-cloud-config/reference/server.html, "Quick start".
type environment struct {
	Name            string           `json:"name"`
	Profiles        []string         `json:"profiles"`
	Label           *string          `json:"label"`
	Version         string           `json:"version"`
	PropertySources []propertySource `json:"propertySources"`
}

type propertySource struct {
	Name   string         `json:"name"`
	Source map[string]any `json:"source"` // value by key, e.g. gateway.listen or models[0].name
}

// apps are the names by which a configuration may be asked for: the parts, what the predecessor
// called them, and all of them. There is one configuration, the same for each.
func apps() []string {
	return append(topology.Names(topology.Parts()), "application", "gateway", "api-gateway", "auth-server", "token-service",
		"analytics-service", "qwen-stub", "gemini-stub", "openai-stub")
}

// serveConfig adds the config server: the live configuration as JSON, YAML and properties.
func (x *XDS) serveConfig(mux *httpapi.Mux) {
	mux.Handle("GET /{app}/{profile}", httpapi.Handle(x.log, x.configJSON))
	mux.Handle("GET /{app}/{profile}/{label}", httpapi.Handle(x.log, x.configJSON))
	mux.Handle("GET /{file}", httpapi.Handle(x.log, x.configFile))
}

func (x *XDS) configJSON(w http.ResponseWriter, r *http.Request) error {
	app := r.PathValue("app")
	if !slices.Contains(apps(), app) {
		return httpapi.Fail(http.StatusNotFound, "no such application")
	}
	flat, version, err := x.properties()
	if err != nil {
		return err
	}
	e := environment{Name: app, Profiles: strings.Split(r.PathValue("profile"), ","), Version: version,
		PropertySources: []propertySource{{Name: "leaky.yaml", Source: flat}}}
	if label := r.PathValue("label"); label != "" {
		e.Label = &label
	}
	httpapi.WriteJSON(w, http.StatusOK, e)
	return nil
}

// configFile answers APP-PROFILE.yml and APP-PROFILE.properties.
func (x *XDS) configFile(w http.ResponseWriter, r *http.Request) error {
	name, isYAML := strings.CutSuffix(r.PathValue("file"), ".yml")
	name, isProperties := strings.CutSuffix(name, ".properties")
	known := slices.ContainsFunc(apps(), func(app string) bool { return strings.HasPrefix(name, app+"-") })
	if !known || isYAML == isProperties {
		return httpapi.Fail(http.StatusNotFound, "no such path")
	}
	tree, _, err := x.shown()
	if err != nil {
		return err
	}
	text := propertiesText(tree)
	if isYAML {
		if text, err = yaml.Marshal(tree); err != nil {
			return fmt.Errorf("show configuration: %w", err)
		}
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write(text) // the client may be gone
	return nil
}

func (x *XDS) properties() (flat map[string]any, version string, err error) {
	tree, version, err := x.shown()
	flat = map[string]any{}
	flatten("", tree, func(key string, value any) { flat[key] = value })
	return flat, version, err
}

// shown is the live configuration with every default, without what is secret.
func (x *XDS) shown() (tree yaml.MapSlice, version string, err error) {
	x.mu.Lock()
	live := x.live
	x.mu.Unlock()
	if live.snapshot != nil {
		version = live.snapshot.Version
	}
	text, err := yaml.Marshal(withoutSecrets(*live.settings.Config))
	if err != nil {
		return nil, "", fmt.Errorf("show configuration: %w", err)
	}
	if err := yaml.UnmarshalWithOptions(text, &tree, yaml.UseOrderedMap()); err != nil {
		return nil, "", fmt.Errorf("show configuration: %w", err)
	}
	return tree, version, nil
}

// withoutSecrets takes passwords from the stores' URLs, the one place of leaky.yaml that may hold
// some: keys are named there by the variable or file that has them.
func withoutSecrets(c config.Config) config.Config {
	for _, store := range []*string{&c.Stores.Postgres, &c.Stores.Redis, &c.Stores.NATS, &c.Stores.ClickHouse} {
		*store = withoutPassword(*store)
	}
	return c
}

// withoutPassword shows where a URL leads. One that cannot be read may have a password anywhere.
func withoutPassword(text string) string {
	if text == "" {
		return ""
	}
	u, err := url.Parse(text)
	if err != nil {
		return "(not shown)"
	}
	u.User, u.RawQuery, u.Fragment = nil, "", ""
	return u.String()
}

// flatten tells each value with its key, as Spring writes them.
func flatten(key string, value any, tell func(key string, value any)) {
	switch v := value.(type) {
	case yaml.MapSlice:
		for _, item := range v {
			flatten(strings.TrimPrefix(key+"."+fmt.Sprint(item.Key), "."), item.Value, tell)
		}
	case []any:
		for i, item := range v {
			flatten(key+"["+strconv.Itoa(i)+"]", item, tell)
		}
	case nil:
		tell(key, "")
	default:
		tell(key, v)
	}
}

// propertiesText is the format of java.util.Properties, whose special characters are escaped.
func propertiesText(tree yaml.MapSlice) []byte {
	var text strings.Builder
	escape := strings.NewReplacer(`\`, `\\`, "\n", `\n`, "\r", `\r`)
	flatten("", tree, func(key string, value any) {
		fmt.Fprintf(&text, "%s: %s\n", escape.Replace(strings.NewReplacer(":", `\:`, "=", `\=`, " ", `\ `).Replace(key)),
			escape.Replace(fmt.Sprint(value)))
	})
	return []byte(text.String())
}
