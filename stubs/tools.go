package stubs

import (
	"encoding/json"
	"slices"
	"strings"
)

// maxInvocations bounds how many functions one answer calls.
const maxInvocations = 8

// invocation is a function's call within an answer. arguments are a JSON object, unless the answer
// was cut in the middle of them.
type invocation struct{ name, arguments string }

// object is the arguments where the wire has them as JSON, and nothing of what was cut.
func (v invocation) object() string {
	if !json.Valid([]byte(v.arguments)) {
		return "{}"
	}
	return v.arguments
}

// insisted are the functions to call where any call is required: each that is offered, as a model
// does that is asked several things at once, or the first alone.
func insisted(offered []string, parallel bool) []string {
	if parallel {
		return offered[:min(len(offered), maxInvocations)]
	}
	return offered[:min(len(offered), 1)]
}

// parallel says whether an answer may call several functions; it may unless a member says no.
func (m members) parallel() (bool, *apiError) {
	if !m.has("parallel_tool_calls") {
		return true, nil
	}
	return m.flag("parallel_tool_calls")
}

// chatTools are the functions that the caller of a chat insists on: all by tool_choice "required", or
// the one that {"function":{"name"}} names. With none the answer is a text.
func chatTools(m members) ([]string, *apiError) {
	if !m.has("tools") {
		return nil, nil
	}
	var tools []struct {
		Function struct {
			Name string `json:"name"`
		} `json:"function"`
	}
	if json.Unmarshal(m["tools"], &tools) != nil {
		return nil, invalid("tools", "invalid_type", "Invalid type for 'tools': expected an array of objects")
	}
	if len(tools) == 0 {
		return nil, invalid("tools", "empty_array", "Invalid 'tools': empty array. Expected an array with minimum length 1")
	}
	offered := make([]string, len(tools))
	for i, t := range tools {
		offered[i] = t.Function.Name
	}
	var named struct {
		Function struct {
			Name string `json:"name"`
		} `json:"function"`
	}
	_ = json.Unmarshal(m["tool_choice"], &named) // or it is a word
	return choose(m, offered, strings.Trim(string(m["tool_choice"]), `"`), named.Function.Name)
}

// flatTools is chatTools for tools whose members are not in a function of their own, as those of
// Responses and Messages.
func flatTools(m members) ([]string, *apiError) {
	if !m.has("tools") {
		return nil, nil
	}
	var tools []struct {
		Name string `json:"name"`
	}
	if json.Unmarshal(m["tools"], &tools) != nil {
		return nil, invalid("tools", "invalid_type", "Invalid type for 'tools': expected an array of objects")
	}
	var offered []string
	for _, t := range tools {
		if t.Name != "" { // else the provider runs it
			offered = append(offered, t.Name)
		}
	}
	var choice struct {
		Type  string `json:"type"`
		Name  string `json:"name"`
		Alone bool   `json:"disable_parallel_tool_use"`
	}
	if json.Unmarshal(m["tool_choice"], &choice) != nil {
		choice.Type = strings.Trim(string(m["tool_choice"]), `"`)
	}
	if choice.Alone {
		offered = insisted(offered, choice.Name != "")
	}
	return choose(m, offered, choice.Type, choice.Name)
}

// choose are those of the functions on offer that a choice insists on.
func choose(m members, offered []string, word, name string) ([]string, *apiError) {
	parallel, err := m.parallel()
	if err != nil {
		return nil, err
	}
	switch {
	case slices.Contains(offered, name) && name != "":
		return []string{name}, nil
	case name != "" || strings.HasPrefix(word, "{"):
		return nil, invalid("tool_choice", "invalid_value", "Tool choice '%s' not found in 'tools' parameter.", name)
	case word == "required" || word == "any":
		return insisted(offered, parallel), nil
	}
	return nil, nil
}

// geminiTools are the functions that the caller insists on, by the mode ANY.
func geminiTools(m members) ([]string, *apiError) {
	if !m.has("tools") {
		return nil, nil
	}
	var tools []struct {
		Functions []struct {
			Name string `json:"name"`
		} `json:"functionDeclarations"`
	}
	if json.Unmarshal(m["tools"], &tools) != nil {
		return nil, invalid("tools", "", "Invalid JSON payload received. Invalid value at 'tools'")
	}
	config, bad := m.firstObject("toolConfig", "tool_config")
	if bad != nil {
		return nil, bad
	}
	calling, bad := config.firstObject("functionCallingConfig", "function_calling_config")
	if bad != nil {
		return nil, bad
	}
	mode, bad := calling.text("mode")
	if bad != nil || mode != "ANY" {
		return nil, bad
	}
	var offered []string
	for _, tool := range tools {
		for _, function := range tool.Functions {
			offered = append(offered, function.Name)
		}
	}
	return insisted(offered, true), nil
}

// invoke writes the calls of an answer: its tokens are shared by the functions, and what is above the
// tokens that the caller takes is cut from the end.
func (p *plan) invoke(print fingerprint, total int) {
	room := p.length * bytesPerToken
	for i, name := range p.tools {
		share := total / len(p.tools)
		if i == 0 {
			share += total % len(p.tools)
		}
		arguments := `{"q":"` + generateText(uint64(print)+uint64(i), max(share-2, 0)) + `"}`
		arguments = arguments[:min(len(arguments), room)]
		if room -= len(arguments); arguments != "" || i == 0 {
			p.calls = append(p.calls, invocation{name, arguments})
		}
	}
}
