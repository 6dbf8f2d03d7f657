package errorbody_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/errorbody"
)

func TestBody(t *testing.T) {
	t.Parallel()
	limited := errorbody.Refusal{Status: 429, Message: "slow down", Type: errorbody.TypeRateLimit, Code: errorbody.CodeRateLimit,
		RequestID: "id-1",
		Path:      "/api/v1/tokens", RetryAfterSeconds: 3, Now: time.Unix(0, 0)}
	for name, tc := range map[string]struct {
		family, contentType, want string
		give                      errorbody.Refusal
	}{
		"openai": {attributes.FamilyOpenAI, errorbody.ContentJSON,
			`{"error":{"message":"slow down (request id id-1)","type":"rate_limit_error","param":null,"code":"rate_limit_exceeded"}}`, limited},
		"openai with a member at fault": {attributes.FamilyOpenAI, errorbody.ContentJSON,
			`{"error":{"message":"no","type":"invalid_request_error","param":"max_tokens","code":null}}`,
			errorbody.Refusal{Status: 400, Message: "no", Type: errorbody.TypeInvalidRequest, Param: "max_tokens"}},
		"gemini": {attributes.FamilyGemini, errorbody.ContentJSON,
			`{"error":{"code":429,"message":"slow down (request id id-1)","status":"RESOURCE_EXHAUSTED","details":[` +
				`{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"rate_limit_exceeded","domain":"leaky-tokens"},` +
				`{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"3s"}]}}`, limited},
		"gemini without details": {attributes.FamilyGemini, errorbody.ContentJSON,
			`{"error":{"code":401,"message":"who?","status":"UNAUTHENTICATED","details":[]}}`, errorbody.Refusal{Status: 401, Message: "who?"}},
		"anthropic": {attributes.FamilyAnthropic, errorbody.ContentJSON,
			`{"type":"error","error":{"type":"rate_limit_error","message":"slow down (request id id-1)"},"request_id":"id-1"}`, limited},
		"anthropic without a request": {attributes.FamilyAnthropic, errorbody.ContentJSON,
			`{"type":"error","error":{"type":"authentication_error","message":"who?"},"request_id":null}`,
			errorbody.Refusal{Status: 401, Message: "who?"}},
		"problem": {attributes.FamilyProblem, errorbody.ContentProblem,
			`{"type":"about:blank","title":"Too Many Requests","status":429,"detail":"slow down","instance":"/api/v1/tokens","message":"slow down",` +
				`"timestamp":"1970-01-01T00:00:00Z","path":"/api/v1/tokens","requestId":"id-1","retryAfterSeconds":3}`, limited},
		"oauth": {attributes.FamilyOAuth, errorbody.ContentJSON,
			`{"error":"temporarily_unavailable","error_description":"slow down","type":"about:blank","title":"Too Many Requests","status":429,` +
				`"detail":"slow down","instance":"/api/v1/tokens","message":"slow down","timestamp":"1970-01-01T00:00:00Z","path":"/api/v1/tokens",` +
				`"requestId":"id-1","retryAfterSeconds":3}`, limited},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			body, contentType := errorbody.Body(tc.family, tc.give)
			if diff := cmp.Diff(tc.want, string(body)); diff != "" {
				t.Errorf("body differs (-want +got):\n%s", diff)
			}
			if contentType != tc.contentType {
				t.Errorf("content type: want %q, got %q", tc.contentType, contentType)
			}
		})
	}
}

func TestAPageIsForPeople(t *testing.T) {
	t.Parallel()
	body, contentType := errorbody.Body(attributes.FamilyPage, errorbody.Refusal{Status: 503, Message: "later <b>", RequestID: "<id>"})
	for _, part := range []string{"<h1>Service Unavailable</h1>", "<p>later &lt;b&gt;.</p>", "Request &lt;id&gt;", `<html lang="en">`} {
		if !strings.Contains(string(body), part) {
			t.Errorf("want %s in %s", part, body)
		}
	}
	if contentType != errorbody.ContentPage {
		t.Errorf("content type %s", contentType)
	}
}

func TestErrorsOfOAuthByStatus(t *testing.T) {
	t.Parallel()
	for status, want := range map[int]string{400: "invalid_request", 404: "invalid_request", 405: "invalid_request", 413: "invalid_request",
		401: "invalid_token", 403: "insufficient_scope", 429: "temporarily_unavailable", 503: "temporarily_unavailable",
		504: "temporarily_unavailable", 500: "server_error"} {
		if got := errorbody.OAuthCode(status); got != want {
			t.Errorf("%d: want %s, got %s", status, want, got)
		}
	}
}

func FuzzBody(f *testing.F) {
	f.Add("openai", "plain", "id")
	f.Add("gemini", "quote \" back \\ line\n\x00\xff", "id")
	f.Add("problem", "<script>", "\u2028")
	f.Add("oauth", "\"", "id")
	f.Fuzz(func(t *testing.T, family, message, id string) {
		body, _ := errorbody.Body(family, errorbody.Refusal{Status: 429, Message: message, Code: message, Param: message, Type: message,
			RequestID: id, Path: message})
		if family == attributes.FamilyPage {
			if strings.Contains(string(body), "<script") {
				t.Fatalf("not escaped: %q", body)
			}
			return
		}
		if !json.Valid(body) {
			t.Fatalf("not JSON: %q", body)
		}
	})
}
