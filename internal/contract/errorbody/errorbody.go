// Package errorbody writes the body of an answer that ends a request before it reaches
// a provider or a service: extauthz (who are you), ratelimit (not now) and whatever
// else says no use the same shapes, so that no route mixes them.
package errorbody

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
)

// Error types and codes of OpenAI's error object, as its SDKs know them.
const (
	TypeRateLimit       = "rate_limit_error"
	TypeInvalidRequest  = "invalid_request_error"
	TypeQuota           = "insufficient_quota"
	TypeServer          = "server_error"
	CodeRateLimit       = "rate_limit_exceeded"
	CodeInvalidKey      = "invalid_api_key"
	CodeModelNotFound   = "model_not_found"
	CodeUnavailable     = "gateway_unavailable"
	CodeBalanceEmpty    = "credit_balance_exhausted"
	CodePart            = "part_not_accepted"
	CodeProjectCap      = "project_spend_limit_exceeded"
	CodeOrganizationCap = "organization_spend_limit_exceeded"
)

// Content types of the bodies.
const (
	ContentJSON    = "application/json"
	ContentProblem = "application/problem+json"
	ContentPage    = "text/html; charset=utf-8"
)

// Refusal is what the caller is told. Empty fields are left out or null, as the shape has it.
type Refusal struct {
	Status            int       // HTTP status
	Message           string    // one sentence for a person
	Type              string    // OpenAI only: error.type
	Code              string    // OpenAI: error.code; Gemini: the reason of its ErrorInfo
	Param             string    // OpenAI only: the body's member at fault
	RequestID         string    // x-request-id; part of the message, in a problem a member
	Path              string    // problem only: the request's path
	RetryAfterSeconds int       // problem: a member, Gemini: RetryInfo; 0: not stated
	Now               time.Time // problem only: timestamp; zero: the present
}

// Body renders r in the shape of a route's family (attributes.FamilyOpenAI, FamilyAnthropic,
// FamilyGemini, FamilyOAuth or FamilyPage; anything else is RFC 9457) and names its content type.
func Body(family string, r Refusal) (body []byte, contentType string) {
	b := make([]byte, 0, 384)
	switch family {
	case attributes.FamilyOpenAI:
		return r.openAI(b), ContentJSON
	case attributes.FamilyAnthropic:
		return r.anthropic(b), ContentJSON
	case attributes.FamilyGemini:
		return r.gemini(b), ContentJSON
	case attributes.FamilyOAuth:
		return r.oauth(b), ContentJSON
	case attributes.FamilyPage:
		return r.page(b), ContentPage
	}
	return r.problem(b), ContentProblem
}

// openAI is {"error":{"message","type","param","code"}}, absent ones null.
func (r Refusal) openAI(b []byte) []byte {
	b = append(b, `{"error":{"message":`...)
	b = r.message(b)
	b = append(b, `,"type":`...)
	b = orNull(b, r.Type)
	b = append(b, `,"param":`...)
	b = orNull(b, r.Param)
	b = append(b, `,"code":`...)
	b = orNull(b, r.Code)
	return append(b, `}}`...)
}

// anthropic is {"type":"error","error":{"type","message"},"request_id"}
// (docs.anthropic.com/en/api/errors).
func (r Refusal) anthropic(b []byte) []byte {
	b = append(b, `{"type":"error","error":{"type":"`...)
	b = append(b, AnthropicType(r.Status)...)
	b = append(b, `","message":`...)
	b = r.message(b)
	b = append(b, `},"request_id":`...)
	return append(orNull(b, r.RequestID), '}')
}

// AnthropicType is Anthropic's error type for an HTTP status.
func AnthropicType(status int) string {
	switch status {
	case http.StatusUnauthorized:
		return "authentication_error"
	case http.StatusForbidden:
		return "permission_error"
	case http.StatusNotFound:
		return "not_found_error"
	case http.StatusRequestEntityTooLarge:
		return "request_too_large"
	case http.StatusTooManyRequests:
		return "rate_limit_error"
	case http.StatusGatewayTimeout:
		return "timeout_error"
	}
	if status >= http.StatusInternalServerError {
		return "api_error"
	}
	return "invalid_request_error"
}

// gemini is Google's {"error":{code,message,status,details}} (google.rpc.Status).
func (r Refusal) gemini(b []byte) []byte {
	b = append(b, `{"error":{"code":`...)
	b = strconv.AppendInt(b, int64(r.Status), 10)
	b = append(b, `,"message":`...)
	b = r.message(b)
	b = append(b, `,"status":"`...)
	b = append(b, googleStatus(r.Status)...)
	b = append(b, `","details":[`...)
	if r.Code != "" {
		b = append(b, `{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":`...)
		b = quote(b, r.Code)
		b = append(b, `,"domain":"leaky-tokens"}`...)
	}
	if r.RetryAfterSeconds > 0 {
		if r.Code != "" {
			b = append(b, ',')
		}
		b = append(b, `{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"`...)
		b = strconv.AppendInt(b, int64(r.RetryAfterSeconds), 10)
		b = append(b, `s"}`...)
	}
	return append(b, `]}}`...)
}

// problem is application/problem+json with the contract's extra members.
func (r Refusal) problem(b []byte) []byte {
	now := r.Now
	if now.IsZero() {
		now = time.Now()
	}
	b = append(b, `{"type":"about:blank","title":`...)
	b = quote(b, http.StatusText(r.Status))
	b = append(b, `,"status":`...)
	b = strconv.AppendInt(b, int64(r.Status), 10)
	b = append(b, `,"detail":`...)
	b = quote(b, r.Message)
	b = append(b, `,"instance":`...)
	b = quote(b, r.Path)
	b = append(b, `,"message":`...)
	b = quote(b, r.Message)
	b = append(b, `,"timestamp":"`...)
	b = now.UTC().AppendFormat(b, time.RFC3339Nano)
	b = append(b, `","path":`...)
	b = quote(b, r.Path)
	if r.RequestID != "" {
		b = append(b, `,"requestId":`...)
		b = quote(b, r.RequestID)
	}
	if r.RetryAfterSeconds > 0 {
		b = append(b, `,"retryAfterSeconds":`...)
		b = strconv.AppendInt(b, int64(r.RetryAfterSeconds), 10)
	}
	return append(b, '}')
}

// message quotes the message with the request id, by which support finds the call.
func (r Refusal) message(b []byte) []byte {
	if r.RequestID == "" {
		return quote(b, r.Message)
	}
	return quote(b, r.Message+" (request id "+r.RequestID+")")
}

func orNull(b []byte, s string) []byte {
	if s == "" {
		return append(b, "null"...)
	}
	return quote(b, s)
}

// quote appends s as a JSON string. Plain ASCII, which nearly every message is, is copied.
func quote(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || c >= 0x7f || c == '<' || c == '>' || c == '&' {
			quoted, err := json.Marshal(s)
			if err != nil { // a string always marshals
				return append(b, `""`...)
			}
			return append(b, quoted...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}

// googleStatus is google.rpc.Code's name for an HTTP status.
func googleStatus(status int) string {
	switch status {
	case http.StatusUnauthorized:
		return "UNAUTHENTICATED"
	case http.StatusForbidden:
		return "PERMISSION_DENIED"
	case http.StatusNotFound:
		return "NOT_FOUND"
	case http.StatusTooManyRequests:
		return "RESOURCE_EXHAUSTED"
	case http.StatusServiceUnavailable:
		return "UNAVAILABLE"
	case http.StatusGatewayTimeout:
		return "DEADLINE_EXCEEDED"
	}
	if status >= 500 {
		return "INTERNAL"
	}
	return "INVALID_ARGUMENT"
}
