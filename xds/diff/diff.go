// Package diff is beside the request path: it says what a configuration would change in Envoy,
// resource by resource, for people who are about to push it.
package diff

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/aymanbagabas/go-udiff"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/goccy/go-yaml"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/leaky-tokens/leaky-tokens/xds/protos"
	"github.com/leaky-tokens/leaky-tokens/xds/snapshot"
)

// Change is one resource that is not as before. Routes are told one by one though Envoy gets
// them as one table.
type Change struct {
	Type string `json:"type"` // of the resource, e.g. Cluster or Route
	Name string `json:"name"`
	From string `json:"from,omitempty"` // YAML; empty: it is new
	To   string `json:"to,omitempty"`   // YAML; empty: it goes
}

// Sign is + for what is new, - for what goes and ~ for what becomes another.
func (c Change) Sign() string {
	switch {
	case c.From == "":
		return "+"
	case c.To == "":
		return "-"
	}
	return "~"
}

// Unified is the change as diff -u shows it.
func (c Change) Unified() string {
	return udiff.Unified("live/"+c.Type+"/"+c.Name, "next/"+c.Type+"/"+c.Name, c.From, c.To)
}

// Between are the changes from one configuration to another, in the order in which Envoy gets
// resources. What secrets hold is not told.
func Between(from, to *snapshot.Snapshot) ([]Change, error) {
	var changes []Change
	for _, t := range snapshot.Types() {
		before, err := texts(from, t)
		if err != nil {
			return nil, err
		}
		after, err := texts(to, t)
		if err != nil {
			return nil, err
		}
		all := maps.Clone(before)
		maps.Copy(all, after)
		for _, id := range slices.SortedFunc(maps.Keys(all), resource.compare) {
			if before[id] != after[id] {
				changes = append(changes, Change{Type: id.kind, Name: id.name, From: before[id], To: after[id]})
			}
		}
	}
	return changes, nil
}

type resource struct{ kind, name string }

func (r resource) compare(other resource) int {
	return strings.Compare(r.kind+" "+r.name, other.kind+" "+other.name)
}

// texts are the resources of one type as YAML.
func texts(s *snapshot.Snapshot, typeURL string) (map[resource]string, error) {
	steady := steadyNames(s)
	found := map[resource]string{}
	add := func(kind, name string, m types.Resource) error {
		text, err := asYAML(m)
		if err != nil {
			return fmt.Errorf("print %s: %w", name, err)
		}
		id := resource{kind, steady.Replace(name)}
		for n := 2; found[id] != ""; n++ { // routes of one name that differ in what they match
			id.name = fmt.Sprintf("%s#%d", steady.Replace(name), n)
		}
		found[id] = steady.Replace(text)
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(s.Resources[typeURL])) {
		m := s.Resources[typeURL][name]
		kind := snapshot.ShortType(typeURL)
		if typeURL == resourcev3.SecretType {
			found[resource{kind, name}] = "version: " + s.ResourceVersions(typeURL)[name] + "\n"
			continue
		}
		table, ok := m.(*routev3.RouteConfiguration)
		if !ok {
			if err := add(kind, name, m); err != nil {
				return nil, err
			}
			continue
		}
		for _, host := range table.GetVirtualHosts() {
			for _, r := range host.GetRoutes() {
				route := r.GetName()
				if name != protos.RoutesName {
					route = name + "/" + route
				}
				if err := add("Route", route, r); err != nil {
					return nil, err
				}
			}
		}
	}
	return found, nil
}

// steadyNames takes the hash of its content from a cluster's name wherever it stands: that a
// cluster changed is told once, and not again by each route to it.
func steadyNames(s *snapshot.Snapshot) *strings.Replacer {
	var pairs []string
	for _, m := range s.Resources[resourcev3.ClusterType] {
		if c, ok := m.(*clusterv3.Cluster); ok && c.GetAltStatName() != "" {
			pairs = append(pairs, c.GetName(), c.GetAltStatName())
		}
	}
	return strings.NewReplacer(pairs...)
}

// asYAML is a message as people read it. Its members are sorted: protojson gives no stable text.
func asYAML(m types.Resource) (string, error) {
	text, err := protojson.Marshal(m)
	if err != nil {
		return "", err
	}
	var value any
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	if err := decoder.Decode(&value); err != nil {
		return "", err
	}
	sorted, err := json.Marshal(value)
	if err != nil {
		return "", err
	}
	yamlText, err := yaml.JSONToYAML(sorted)
	return string(yamlText), err
}
