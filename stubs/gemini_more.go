package stubs

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
)

// geminiCount answers :countTokens, for which nothing is billed.
func (s *Server) geminiCount(c *call, model string) error {
	m, bad := object(c.body)
	if bad != nil {
		return invalid("", "", "Invalid JSON payload received.")
	}
	inner, bad := m.firstObject("generateContentRequest", "generate_content_request")
	if bad != nil {
		return bad
	}
	if inner != nil {
		if bad := sameModel(inner, model); bad != nil {
			return bad
		}
		m = inner
	}
	tokens := 0
	for _, field := range []string{"contents", "systemInstruction", "system_instruction"} {
		texts, ok := geminiTexts(m[field])
		if !ok {
			return invalid(field, "", "Invalid JSON payload received. Invalid value at '%s'", field)
		}
		for _, text := range texts {
			tokens += countTokens(text)
		}
	}
	c.got.Model, c.got.NoUsage = model, true
	return c.whole(fmt.Appendf(nil, `{"totalTokens":%d,"promptTokensDetails":[{"modality":"TEXT","tokenCount":%d}]}`, tokens, tokens))
}

// sameModel refuses a body that names another model than its path, as Gemini does.
func sameModel(m members, model string) *apiError {
	name, bad := m.text("model")
	if bad == nil && name != "" && name != "models/"+model {
		return invalid("model", "", "The model %s does not match the one of the path, models/%s.", name, model)
	}
	return bad
}

// embedOne reads one request for an embedding.
func embedOne(m members, model string) (text string, dimensions int, bad *apiError) {
	if bad = sameModel(m, model); bad != nil {
		return "", 0, bad
	}
	texts, ok := geminiTexts(m["content"])
	if !ok || len(texts) == 0 {
		return "", 0, invalid("content", "", "* EmbedContentRequest.content: contents is not specified")
	}
	dimensions, stated, bad := m.firstInteger(1, maxDimensions, "outputDimensionality", "output_dimensionality")
	if !stated {
		dimensions = defaultDimensions
	}
	return strings.Join(texts, " "), dimensions, bad
}

// geminiEmbed answers :embedContent.
func (s *Server) geminiEmbed(c *call, model string) error {
	m, bad := object(c.body)
	if bad != nil {
		return invalid("", "", "Invalid JSON payload received.")
	}
	return s.embedAll(c, model, []members{m}, `{"embedding":%s%s}`)
}

// geminiEmbedBatch answers :batchEmbedContents.
func (s *Server) geminiEmbedBatch(c *call, model string) error {
	m, bad := object(c.body)
	if bad != nil {
		return invalid("", "", "Invalid JSON payload received.")
	}
	var requests []members
	if json.Unmarshal(m["requests"], &requests) != nil || len(requests) == 0 || len(requests) > 100 {
		return invalid("requests", "", "* BatchEmbedContentsRequest.requests: at least one and at most 100 requests can be in one batch")
	}
	return s.embedAll(c, model, requests, `{"embeddings":[%s]%s}`)
}

// embedAll answers with a vector for each request; format has them and the usage.
func (s *Server) embedAll(c *call, model string, requests []members, format string) error {
	tokens := 0
	var vectors []byte
	for i, request := range requests {
		text, dimensions, bad := embedOne(request, model)
		if bad != nil {
			return bad
		}
		tokens += countTokens(text)
		if i > 0 {
			vectors = append(vectors, ',')
		}
		vectors = append(appendVector(append(vectors, `{"values":`...), vector(text, dimensions), false), '}')
	}
	c.got.Model, c.got.Input, c.got.NoUsage = model, tokens, c.faults.OmitUsage
	usage := ""
	if !c.faults.OmitUsage {
		usage = fmt.Sprintf(`,"usageMetadata":{"promptTokenCount":%d,"totalTokenCount":%d}`, tokens, tokens)
	}
	return c.whole(fmt.Appendf(nil, format, vectors, usage))
}

// geminiModelBody is one model of GET /v1beta/models.
func geminiModelBody(name string) string {
	return fmt.Sprintf(`{"name":%s,"displayName":%s,"supportedGenerationMethods":["generateContent","streamGenerateContent","countTokens"]}`,
		quoted("models/"+name), quoted(name))
}

// geminiModels answers GET /v1beta/models.
func (s *Server) geminiModels(c *call) error {
	items := make([]string, 0, 4)
	for _, name := range s.modelNames() {
		items = append(items, geminiModelBody(name))
	}
	return c.whole([]byte(`{"models":[` + strings.Join(items, ",") + `]}`))
}

// geminiModel answers GET /v1beta/models/{model}.
func (s *Server) geminiModel(c *call) error {
	name := c.r.PathValue("model")
	if !s.knows(name) {
		return &apiError{status: http.StatusNotFound, message: fmt.Sprintf("models/%s is not found for API version v1beta", name)}
	}
	return c.whole([]byte(geminiModelBody(name)))
}
