package stubs

import (
	"encoding/json"
	"fmt"
	"net/http"
)

// apiError is a refusal in the words of a provider.
type apiError struct {
	status                     int
	kind, code, param, message string
}

func (e *apiError) Error() string { return fmt.Sprintf("%d %s", e.status, e.message) }

func invalid(param, code, format string, args ...any) *apiError {
	return &apiError{status: http.StatusBadRequest, kind: "invalid_request_error", code: code, param: param, message: fmt.Sprintf(format,
		args...)}
}

// forced is the error of a fault.
func forced(status int) *apiError {
	switch {
	case status == http.StatusTooManyRequests:
		return &apiError{status: status, kind: "requests", code: "rate_limit_exceeded", message: "Rate limit reached"}
	case status == http.StatusUnauthorized:
		return &apiError{status: status, kind: "invalid_request_error", code: "invalid_api_key", message: "Incorrect API key provided"}
	case status < http.StatusInternalServerError:
		return &apiError{status: status, kind: "invalid_request_error", message: "The request was refused by a fault of the stub"}
	}
	return &apiError{status: status, kind: "server_error", message: "The server had an error while processing your request"}
}

// renderer writes an error in one provider's shape.
type renderer func(w http.ResponseWriter, e *apiError)

type nullable string

// MarshalJSON writes an empty text as null, as OpenAI does for param and code.
func (n nullable) MarshalJSON() ([]byte, error) {
	if n == "" {
		return []byte("null"), nil
	}
	return json.Marshal(string(n))
}

// openaiError writes {"error":{message,type,param,code}}; Qwen adds request_id.
func (s *Server) openaiError(w http.ResponseWriter, e *apiError) {
	body := map[string]any{"error": map[string]any{"message": e.message, "type": e.kind, "param": nullable(e.param), "code": nullable(e.code)}}
	if s.cfg.Flavour == Qwen {
		body["request_id"] = w.Header().Get("X-Request-Id")
	}
	writeError(w, e.status, body)
}

// geminiError writes google.rpc.Status in JSON, {"error":{code,message,status,details}}.
func geminiError(w http.ResponseWriter, e *apiError) {
	status := googleStatus(e.status)
	if e.code == "invalid_api_key" {
		status = "UNAUTHENTICATED"
	}
	body := map[string]any{"code": e.status, "message": e.message, "status": status}
	if e.param != "" {
		body["details"] = []any{map[string]any{"@type": "type.googleapis.com/google.rpc.BadRequest",
			"fieldViolations": []any{map[string]string{"field": e.param, "description": e.message}}}}
	}
	writeError(w, e.status, map[string]any{"error": body})
}

func googleStatus(status int) string {
	switch status {
	case http.StatusBadRequest:
		return "INVALID_ARGUMENT"
	case http.StatusUnauthorized:
		return "UNAUTHENTICATED"
	case http.StatusForbidden:
		return "PERMISSION_DENIED"
	case http.StatusNotFound, http.StatusMethodNotAllowed:
		return "NOT_FOUND"
	case http.StatusTooManyRequests:
		return "RESOURCE_EXHAUSTED"
	case http.StatusServiceUnavailable:
		return "UNAVAILABLE"
	case http.StatusGatewayTimeout:
		return "DEADLINE_EXCEEDED"
	}
	return "INTERNAL"
}

func writeError(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}
