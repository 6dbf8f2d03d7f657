package stubs

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
)

const (
	maxInputs         = 2048
	defaultDimensions = 64 // the real models give 1536 and 3072; a stub need not
	maxDimensions     = 3072
)

// embeddings answers POST /v1/embeddings. A token array counts like a text: ceil of the
// bytes of its JSON by four, so that body bytes bound it too.
func (s *Server) embeddings(c *call) error {
	m, bad := object(c.body)
	if bad != nil {
		return bad
	}
	model, bad := s.model(m)
	if bad != nil {
		return bad
	}
	inputs, bad := embeddingInputs(m)
	if bad != nil {
		return bad
	}
	format, bad := m.text("encoding_format")
	if bad != nil || format != "" && format != "float" && format != "base64" {
		return invalid("encoding_format", "invalid_value", "Invalid value for 'encoding_format': expected 'float' or 'base64'")
	}
	dimensions, stated, bad := m.integer("dimensions", 1, maxDimensions)
	if bad != nil {
		return bad
	}
	if !stated {
		dimensions = defaultDimensions
	}
	tokens := 0
	for _, text := range inputs {
		tokens += countTokens(text)
	}
	c.got.Model, c.got.Input, c.got.NoUsage = model, tokens, c.faults.OmitUsage
	b := []byte(`{"object":"list","data":[`)
	for i, text := range inputs {
		if i > 0 {
			b = append(b, ',')
		}
		b = fmt.Appendf(b, `{"object":"embedding","index":%d,"embedding":`, i)
		b = append(appendVector(b, vector(text, dimensions), format == "base64"), '}')
	}
	b = fmt.Appendf(b, `],"model":%s`, quoted(model))
	if !c.faults.OmitUsage {
		b = fmt.Appendf(b, `,"usage":{"prompt_tokens":%d,"total_tokens":%d}`, tokens, tokens)
	}
	return c.whole(append(b, '}'))
}

// embeddingInputs reads a string, strings, a token array or token arrays.
func embeddingInputs(m members) ([]string, *apiError) {
	if !m.has("input") {
		return nil, invalid("input", "missing_required_parameter", "Missing required parameter: 'input'.")
	}
	raw := m["input"]
	wrong := invalid("input", "invalid_type", "Invalid type for 'input': expected a string, an array of strings, of tokens, or of token arrays")
	if raw[0] == '"' {
		var one string
		_ = json.Unmarshal(raw, &one)
		if one == "" {
			return nil, invalid("input", "invalid_value", "Invalid 'input': input cannot be an empty string.")
		}
		return []string{one}, nil
	}
	var items []json.RawMessage
	if json.Unmarshal(raw, &items) != nil {
		return nil, wrong
	}
	if len(items) == 0 || len(items) > maxInputs && items[0][0] != '0' && (items[0][0] < '1' || items[0][0] > '9') {
		return nil, invalid("input", "invalid_value", "Invalid 'input': expected 1 to %d items", maxInputs)
	}
	if _, err := strconv.ParseUint(string(items[0]), 10, 32); err == nil {
		return []string{string(raw)}, checkTokens(raw, wrong)
	}
	inputs := make([]string, 0, len(items))
	for _, item := range items {
		switch item[0] {
		case '"':
			var one string
			_ = json.Unmarshal(item, &one)
			inputs = append(inputs, one)
		case '[':
			if err := checkTokens(item, wrong); err != nil {
				return nil, err
			}
			inputs = append(inputs, string(item))
		default:
			return nil, wrong
		}
	}
	return inputs, nil
}

func checkTokens(raw []byte, wrong *apiError) *apiError {
	var tokens []uint32
	if json.Unmarshal(raw, &tokens) != nil || len(tokens) == 0 {
		return wrong
	}
	return nil
}

// vector is a deterministic unit vector.
func vector(text string, dimensions int) []float32 {
	h := uint64(newFingerprint().add(text))
	v := make([]float32, dimensions)
	var sum float64
	for i := range v {
		h = h*6364136223846793005 + 1442695040888963407
		v[i] = float32(int32(h>>32)) / math.MaxInt32
		sum += float64(v[i]) * float64(v[i])
	}
	norm := float32(math.Sqrt(sum))
	for i := range v {
		v[i] /= norm
	}
	return v
}

func appendVector(b []byte, v []float32, encoded bool) []byte {
	if encoded {
		raw := make([]byte, 0, 4*len(v))
		for _, x := range v {
			raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(x))
		}
		b = append(b, '"')
		b = base64.StdEncoding.AppendEncode(b, raw)
		return append(b, '"')
	}
	b = append(b, '[')
	for i, x := range v {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendFloat(b, float64(x), 'g', -1, 32)
	}
	return append(b, ']')
}

// defaultModels is what a stub lists when it takes any model name.
func (s *Server) defaultModels() []string {
	switch s.cfg.Flavour {
	case Gemini:
		return []string{"gemini-2.5-flash", "gemini-2.5-pro"}
	case Qwen:
		return []string{"qwen-plus", "qwen-max"}
	}
	return []string{"gpt-4o", "gpt-4o-mini", "gpt-4.1", "text-embedding-3-small", "text-embedding-3-large"}
}

func (s *Server) modelNames() []string {
	if len(s.cfg.Models) > 0 {
		return s.cfg.Models
	}
	return s.defaultModels()
}

// getModel answers GET /v1/models/{model}.
func (s *Server) getModel(c *call) error {
	name := c.r.PathValue("model")
	if !s.knows(name) {
		return &apiError{status: http.StatusNotFound, kind: "invalid_request_error", code: "model_not_found", param: "model",
			message: fmt.Sprintf("The model '%s' does not exist", name)}
	}
	return c.whole(fmt.Appendf(nil, `{"id":%s,"object":"model","created":1700000000,"owned_by":"leaky-stub"}`, quoted(name)))
}

// listModels answers GET /v1/models.
func (s *Server) listModels(c *call) error {
	items := make([]string, 0, 8)
	for _, name := range s.modelNames() {
		items = append(items, fmt.Sprintf(`{"id":%s,"object":"model","created":1700000000,"owned_by":"leaky-stub"}`, quoted(name)))
	}
	return c.whole([]byte(`{"object":"list","data":[` + strings.Join(items, ",") + `]}`))
}
