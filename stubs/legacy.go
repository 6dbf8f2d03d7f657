package stubs

import (
	"encoding/json"
	"mime"
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
)

// maxLegacyBody bounds the body of the echo, in bytes.
const maxLegacyBody = 4 << 20

// legacyChat answers POST /api/v1/{provider}/chat: the predecessor's echo, with the usage
// in the answer. Faults apply here too.
func (s *Server) legacyChat(w http.ResponseWriter, r *http.Request) error {
	var err error
	answered := false
	s.get(func(w http.ResponseWriter, e *apiError) {
		err, answered = httpapi.Fail(e.status, "%s", e.message), true
	}, func(c *call) error {
		if media, _, bad := mime.ParseMediaType(r.Header.Get("Content-Type")); bad != nil || media != "application/json" {
			return &apiError{status: http.StatusUnsupportedMediaType, message: "content type must be application/json"}
		}
		m, bad := object(c.body)
		if bad != nil || len(c.body) > maxLegacyBody {
			return invalid("", "", "body must be a JSON object")
		}
		if err := s.misbehave(c); err != nil {
			return err
		}
		return s.echo(c, m)
	}).ServeHTTP(w, r)
	if answered {
		return err
	}
	return nil
}

// echo counts the body as input and the fixed message as output.
func (s *Server) echo(c *call, m members) error {
	names := map[Flavour]string{Qwen: "Qwen", Gemini: "Gemini", OpenAI: "OpenAI"}
	message := "Stubbed " + names[s.cfg.Flavour] + " response"
	model, _ := m.text("model")
	c.got.Model, c.got.Input, c.got.Generated, c.got.NoUsage = model, countTokens(string(c.body)), countTokens(message), c.faults.OmitUsage
	answer := map[string]any{"id": uuid.NewString(), "provider": s.cfg.Flavour, "received": json.RawMessage(c.body),
		"created": time.Now().UTC().Format(time.RFC3339), "message": message}
	if !c.faults.OmitUsage {
		answer["usage"] = map[string]int{"prompt_tokens": c.got.Input, "completion_tokens": c.got.Generated, "total_tokens": c.got.Input +
			c.got.Generated}
	}
	body, err := json.Marshal(answer)
	if err != nil {
		return err
	}
	return c.whole(body)
}

func (s *Server) legacyOther(w http.ResponseWriter, r *http.Request) error {
	if r.URL.Path != "/api/v1/"+string(s.cfg.Flavour)+"/chat" {
		return httpapi.Fail(http.StatusNotFound, "no such path")
	}
	refusal := httpapi.Fail(http.StatusMethodNotAllowed, "method %s is not allowed here", r.Method)
	refusal.Header = http.Header{"Allow": {http.MethodPost}}
	return refusal
}
