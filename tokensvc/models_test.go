package tokensvc_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
	"github.com/leaky-tokens/leaky-tokens/tokensvc"
)

// onlyOpenAI is a policy that hides the models of other providers.
func onlyOpenAI(_ principal.Principal, m config.Model) bool { return m.Provider == "openai" }

func TestModels(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		policy tokensvc.Policy
		want   []string
	}{
		"all": {nil, []string{"gpt-4o", "gpt-4o-mini", "gpt-4.1", "text-embedding-3-small", "text-embedding-3-large",
			"omni-moderation-latest", "qwen-plus", "qwen-max"}},
		"policy": {onlyOpenAI, []string{"gpt-4o", "gpt-4o-mini", "gpt-4.1", "text-embedding-3-small", "text-embedding-3-large",
			"omni-moderation-latest"}},
		"none": {func(principal.Principal, config.Model) bool { return false }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := newWorld(t, lazyPool(t), tc.policy).call("GET", "/v1/models", user(alice))
			if got.status != 200 || got.body["object"] != "list" {
				t.Fatalf("want a list, got %d %v", got.status, got.body)
			}
			var ids []string
			for _, m := range got.body["data"].([]any) {
				ids = append(ids, m.(map[string]any)["id"].(string))
			}
			if diff := cmp.Diff(tc.want, ids); diff != "" {
				t.Errorf("want, got: %s", diff)
			}
		})
	}
}

func TestModel(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lazyPool(t), onlyOpenAI)
	for path, id := range map[string]string{"/v1/models/gpt-4o": "gpt-4o", "/v1/models/openai/gpt-4o": "gpt-4o",
		"/v1/models/openai%2Fgpt-4o": "gpt-4o"} {
		got := w.call("GET", path, user(alice))
		want := map[string]any{"id": id, "object": "model", "created": 0., "owned_by": "openai"}
		if diff := cmp.Diff(want, got.body); got.status != 200 || diff != "" {
			t.Errorf("%s: %d: want, got: %s", path, got.status, diff)
		}
	}
}

func TestModelErrorsHaveOpenAIsShape(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lazyPool(t), onlyOpenAI)
	for name, tc := range map[string]struct {
		method, path string
		who          *principal.Principal
		status       int
		code         string
	}{
		"no identity":      {"GET", "/v1/models", nil, 401, "invalid_api_key"},
		"one, no identity": {"GET", "/v1/models/gpt-4o", nil, 401, "invalid_api_key"},
		"no role":          {"GET", "/v1/models", &principal.Principal{UserID: alice, Roles: []string{}}, 403, "insufficient_permissions"},
		"unknown":          {"GET", "/v1/models/nosuch", user(alice), 404, "model_not_found"},
		"not allowed":      {"GET", "/v1/models/qwen-max", user(alice), 404, "model_not_found"},
		"wrong provider":   {"GET", "/v1/models/qwen/gpt-4o", user(alice), 404, "model_not_found"},
		"empty name":       {"GET", "/v1/models/", user(alice), 404, "model_not_found"},
		"long name":        {"GET", "/v1/models/" + strings.Repeat("x", 5000), user(alice), 404, "model_not_found"},
		"other method":     {"DELETE", "/v1/models/gpt-4o", user(alice), 405, "method_not_allowed"},
		"other route":      {"GET", "/v1/files", user(alice), 404, "unknown_url"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := w.with(t).call(tc.method, tc.path, tc.who)
			said, _ := got.body["error"].(map[string]any)
			if got.status != tc.status || said["code"] != tc.code || said["type"] != "invalid_request_error" {
				t.Fatalf("want %d %s, got %d %v", tc.status, tc.code, got.status, got.body)
			}
			if message, _ := said["message"].(string); !strings.Contains(message, "req-1") {
				t.Errorf("want the request id in the message, got %q", message)
			}
			if _, there := said["param"]; !there {
				t.Error("want a param member, got none")
			}
		})
	}
}
