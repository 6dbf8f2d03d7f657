package e2e

import (
	"encoding/json"
	"testing"
)

// TestModelsHaveOtherNamesHere: slashes and colons, an alias, and a name that looks like another
// provider's prefix; the provider gets its own, and answers.
func TestModelsHaveOtherNamesHere(t *testing.T) {
	t.Parallel()
	who := newAccount(t)
	for body, served := range map[string]string{
		`{"model":"acme/fast:1"`:               "gpt-4o-mini",
		`{"model":"acme\/fast:1"`:              "gpt-4o-mini", // as PHP writes it
		`{"model":"openai/acme/fast:1"`:        "gpt-4o-mini",
		`{"model":"openai/gpt-4o"`:             "gpt-4o",
		`{"model":"openai/odd"`:                "qwen-plus",
		`{"model":"Acme Best (preview), 2026"`: "qwen-max",
	} {
		status, _, text, err := running.Send(t.Context(), "POST", "/v1/chat/completions", who.Key,
			json.RawMessage(body+`,"max_tokens":8,"messages":[{"role":"user","content":"hi"}]}`))
		var answer struct{ Model string }
		if err != nil || status != 200 || json.Unmarshal(text, &answer) != nil || answer.Model != served {
			t.Errorf("%s: want it served by %s, got %d %s %v", body, served, status, text, err)
		}
	}
	var list struct{ Data []struct{ ID string } }
	if _, err := running.Call(t.Context(), "GET", "/v1/models", who.Key, nil, &list); err != nil {
		t.Fatal(err)
	}
	ids := map[string]bool{}
	for _, m := range list.Data {
		ids[m.ID] = true
	}
	if !ids["acme/fast:1"] || !ids["openai/odd"] || !ids["Acme Best (preview), 2026"] {
		t.Errorf("want the names of this place listed, got %v", ids)
	}
	for _, path := range []string{"/v1/models/acme/fast:1", "/v1/models/openai/odd", "/v1/models/Acme%20Best%20(preview),%202026"} {
		if status, err := running.Call(t.Context(), "GET", path, who.Key, nil, nil); err != nil || status != 200 {
			t.Errorf("%s: want it found, got %d %v", path, status, err)
		}
	}
}
