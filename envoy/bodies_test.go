package envoy_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	lua "github.com/yuin/gopher-lua"

	"github.com/leaky-tokens/leaky-tokens/envoy"
)

// dialects are the readers of bodies, with the member that states the maximum to each.
func dialects() map[string]string {
	return map[string]string{"chat": "max_tokens", "completions": "max_tokens", "responses": "max_output_tokens", "messages": "max_tokens",
		"count": "", "moderations": "", "gemini": "", "gemini-embed": "", "gemini-batch": "", "gemini-count": ""}
}

// readBody has a reader of the guard read a body; refused is its message.
func readBody(t testing.TB, state *lua.LState, dialect, body string) (facts map[string]string, refused string) {
	t.Helper()
	told := state.NewTable()
	reader := state.GetGlobal("readers").(*lua.LTable).RawGetString(dialect)
	if err := state.CallByParam(lua.P{Fn: reader, NRet: 1, Protect: true}, lua.LString(body), told, state.NewTable(), state.NewTable(),
		lua.LString("m"), lua.LString("usual")); err != nil {
		t.Fatalf("%s of %q: %v", dialect, body, err)
	}
	defer state.Pop(1)
	if message := state.Get(-1); message != lua.LNil {
		return nil, message.String()
	}
	facts = map[string]string{}
	told.ForEach(func(k, v lua.LValue) { facts[k.String()] = v.String() })
	return facts, ""
}

// FuzzBodies holds what the guard states of a body that it lets pass to what encoding/json reads:
// the same model and maximum, and no name that stands there twice.
func FuzzBodies(f *testing.F) {
	for _, seed := range []string{`{"model":"m","max_tokens":5,"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,AA"}}]}]}`,
		`{"model":"m","prompt":["a",[1,2],"b"],"n":2,"best_of":3}`, `{"model":"m","input":[{"type":"item_reference","id":"x"}],"max_output_tokens":7,"background":false}`,
		`{"requests":[{"model":"models/m","content":{}},{}]}`, `{"generateContentRequest":{"model":"m","contents":[]}}`, `{"input":["a"]}`,
		`{"model":"m","max_tokens":1,"tools":[{"type":"bash_20250124"},{"name":"f"}],"container":{}}`, `{"model":"m","Model":"n"}`, `{"model":null}`,
		`{"generationConfig":{"maxOutputTokens":5,"candidateCount":2}}`, `{"model":"m","prompt":[]}`, `{"requests":[]} `, "{\"a\":\"\x00\"}", `{"requests":[1,]}`} {
		f.Add(seed)
	}
	state := lua.NewState()
	f.Cleanup(state.Close)
	if err := state.DoString(envoy.GuardLua() + "\nreaders = READERS"); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, body string) {
		for dialect, maximum := range dialects() {
			facts, refused := readBody(t, state, dialect, body)
			members := map[string]json.RawMessage{}
			if refused != "" || json.Unmarshal([]byte(body), &members) != nil {
				continue // what is inside a string is not the guard's
			}
			if names := topNames(body); len(names) != len(members) {
				t.Errorf("%s let pass a name that stands there twice: %q", dialect, body)
			}
			var model string
			if raw := members["model"]; raw != nil && json.Unmarshal(raw, &model) == nil && model != "" && facts["model"] != "" && facts["model"] != model {
				t.Errorf("%s: want the model %q, got %q", dialect, model, facts["model"])
			}
			if raw := string(members[maximum]); maximum != "" && raw != "" && raw != "null" && facts["max_tokens"] != raw {
				t.Errorf("%s: want a maximum of %s, got %q of %q", dialect, raw, facts["max_tokens"], body)
			}
		}
	})
}

// topNames are the names of a document's members, each once without regard to case.
func topNames(body string) map[string]bool {
	names, dec := map[string]bool{}, json.NewDecoder(bytes.NewReader([]byte(body)))
	_, _ = dec.Token()
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			break
		}
		names[strings.ToLower(name.(string))] = true
		var skipped json.RawMessage
		if dec.Decode(&skipped) != nil {
			break
		}
	}
	return names
}

// TestBodiesOfEachAPI looks at what the readers state and refuse beyond what the gateway's own tests do.
func TestBodiesOfEachAPI(t *testing.T) {
	t.Parallel()
	state := lua.NewState()
	t.Cleanup(state.Close)
	if err := state.DoString(envoy.GuardLua() + "\nreaders = READERS"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ dialect, body, fact, want, refused string }{
		{"completions", `{"model":"m","prompt":["a",[1,2],"b"],"best_of":3}`, "n", "9", ""},
		{"completions", `{"model":"m","prompt":[]}`, "n", "", ""},
		{"moderations", `{"input":"x"}`, "model", "usual", ""},
		{"responses", `{"model":"m","max_output_tokens":7,"max_tokens":9}`, "max_tokens", "7", ""},
		{"responses", `{"model":"m","background":true}`, "", "", "background is not served"},
		{"gemini-batch", `{"requests":[{"model":"models/m"},{"model":"x"}]}`, "", "", "another than the path"},
		{"gemini-count", `{"generate_content_request":{"model":"models/m","model":"x"}}`, "", "", "duplicate member"},
	} {
		facts, refused := readBody(t, state, c.dialect, c.body)
		if facts[c.fact] != c.want || !strings.Contains(refused, c.refused) || c.refused == "" && refused != "" {
			t.Errorf("%s of %s: want %s=%q and %q, got %v and %q", c.dialect, c.body, c.fact, c.want, c.refused, facts, refused)
		}
	}
}
