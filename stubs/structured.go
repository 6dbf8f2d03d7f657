package stubs

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
)

// maxSchemaDepth bounds a schema that refers to itself.
const maxSchemaDepth = 12

// schema is what a stub reads of a JSON Schema. Gemini writes the types in capitals.
type schema struct {
	Type       any                `json:"type"`
	Properties map[string]*schema `json:"properties"`
	Required   []string           `json:"required"`
	Items      *schema            `json:"items"`
	Enum       []json.RawMessage  `json:"enum"`
	Const      json.RawMessage    `json:"const"`
	AnyOf      []*schema          `json:"anyOf"`
	Ref        string             `json:"$ref"`
	Defs       map[string]*schema `json:"$defs"`
	Min        *float64           `json:"minimum"`
	MinItems   int                `json:"minItems"`
}

// structured is an answer of the form that a caller asks for: raw is its JSON Schema, empty where any
// object will do. param blames a schema that is none.
func structured(raw json.RawMessage, print fingerprint, param string) (string, *apiError) {
	if len(raw) == 0 || string(raw) == "null" {
		return `{"answer":` + quoted(strings.TrimSpace(generateText(uint64(print), 4))) + `}`, nil
	}
	var root schema
	if json.Unmarshal(raw, &root) != nil {
		return "", invalid(param, "invalid_value", "Invalid schema for '%s': expected a JSON Schema object", param)
	}
	return root.instance(root.Defs, print, 0), nil
}

// form is an answer as a member asks for it, which has the schema in it; empty for a text.
func (m members) form(print fingerprint, name string) (string, *apiError) {
	format, err := m.object(name)
	if err != nil {
		return "", err
	}
	kind, err := format.text("type")
	if err != nil || kind == "" || kind == "text" {
		return "", err
	}
	return structured(format["schema"], print, name)
}

// instance is the smallest JSON that is as the schema says: the properties that are required, or all
// where none is.
func (s *schema) instance(defs map[string]*schema, print fingerprint, depth int) string {
	switch {
	case s == nil || depth > maxSchemaDepth:
		return "null"
	case s.Ref != "":
		return defs[s.Ref[strings.LastIndexByte(s.Ref, '/')+1:]].instance(defs, print, depth+1)
	case len(s.Const) > 0:
		return string(s.Const)
	case len(s.Enum) > 0:
		return string(s.Enum[uint64(print)%uint64(len(s.Enum))])
	case len(s.AnyOf) > 0:
		return s.AnyOf[0].instance(defs, print, depth+1)
	}
	switch s.kind() {
	case "string":
		return quoted(strings.TrimSpace(generateText(uint64(print)+uint64(depth), 2)))
	case "integer", "number":
		if s.Min != nil {
			return strconv.FormatFloat(*s.Min, 'f', -1, 64)
		}
		return strconv.Itoa(int(print % 100))
	case "boolean":
		return "true"
	case "array":
		items := make([]string, max(1, min(s.MinItems, 16)))
		for i := range items {
			items[i] = s.Items.instance(defs, print, depth+1)
		}
		return "[" + strings.Join(items, ",") + "]"
	case "object":
		return s.object(defs, print, depth)
	}
	return "null"
}

func (s *schema) object(defs map[string]*schema, print fingerprint, depth int) string {
	names := s.Required
	if len(names) == 0 {
		for name := range s.Properties {
			names = append(names, name)
		}
		slices.Sort(names)
	}
	members := make([]string, len(names))
	for i, name := range names {
		members[i] = quoted(name) + ":" + s.Properties[name].instance(defs, print, depth+1)
	}
	return "{" + strings.Join(members, ",") + "}"
}

// kind is the type, or the first that is not null of several.
func (s *schema) kind() string {
	switch t := s.Type.(type) {
	case string:
		return strings.ToLower(t)
	case []any:
		for _, one := range t {
			if name, ok := one.(string); ok && !strings.EqualFold(name, "null") {
				return strings.ToLower(name)
			}
		}
	}
	if s.Properties != nil {
		return "object"
	}
	return ""
}
