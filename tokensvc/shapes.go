package tokensvc

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/errorbody"
)

// shape is how the SDKs of a protocol read models.
type shape struct {
	protocol config.Protocol
	path     string // that callers know
	one      func(config.Model) any
	list     func([]config.Model, url.Values) (any, *errorbody.Refusal)
}

// shapes are those of the protocols, by the path under which the gateway asks for them.
func shapes() map[string]shape {
	return map[string]shape{
		"/v1/models":           {config.ProtocolOpenAI, "/v1/models", openAIModel, openAIList},
		"/anthropic/v1/models": {config.ProtocolAnthropic, "/v1/models", anthropicModel, anthropicList},
		"/v1beta/models":       {config.ProtocolGemini, "/v1beta/models", geminiModel, geminiList},
	}
}

// model is OpenAI's model object. Created is Unix seconds; the configuration does not
// date its models, and clients need a number.
type model struct {
	ID      string `json:"id"`
	Object  string `json:"object"`
	Created int64  `json:"created"`
	OwnedBy string `json:"owned_by"`
}

func openAIModel(m config.Model) any { return model{ID: m.Name, Object: "model", OwnedBy: m.Provider} }

// openAIList is all of them: OpenAI has no pages here.
func openAIList(models []config.Model, _ url.Values) (any, *errorbody.Refusal) {
	return struct {
		Object string `json:"object"`
		Data   []any  `json:"data"`
	}{"list", each(models, openAIModel)}, nil
}

func each(models []config.Model, one func(config.Model) any) []any {
	all := make([]any, len(models))
	for i, m := range models {
		all[i] = one(m)
	}
	return all
}

// anthropicModel is Anthropic's model object (docs.anthropic.com/en/api/models-list). A model whose
// date is not known has the epoch's.
func anthropicModel(m config.Model) any {
	return struct {
		Type        string `json:"type"`
		ID          string `json:"id"`
		DisplayName string `json:"display_name"`
		CreatedAt   string `json:"created_at"`
	}{"model", m.Name, m.Name, "1970-01-01T00:00:00Z"}
}

// anthropicList is a page of limit models after after_id, or before before_id.
func anthropicList(models []config.Model, query url.Values) (any, *errorbody.Refusal) {
	limit, said := pageSize(query, "limit", 20)
	if said != nil {
		return nil, said
	}
	out := struct {
		Data    []any   `json:"data"`
		HasMore bool    `json:"has_more"`
		FirstID *string `json:"first_id"`
		LastID  *string `json:"last_id"`
	}{}
	before := query.Get("before_id")
	rest := after(models, query.Get("after_id"))
	if before != "" {
		for i, m := range rest {
			if m.Name == before {
				rest = rest[:i]
				break
			}
		}
	}
	page := rest[:min(limit, len(rest))]
	if before != "" {
		page = rest[len(rest)-len(page):] // the last ones before it
	}
	out.HasMore = len(page) < len(rest)
	out.Data = each(page, anthropicModel)
	if len(page) > 0 {
		out.FirstID, out.LastID = &page[0].Name, &page[len(page)-1].Name
	}
	return out, nil
}

// geminiModel is Gemini's Model (ai.google.dev/api/models).
func geminiModel(m config.Model) any {
	verbs := []string{"generateContent", "streamGenerateContent", "countTokens"}
	if m.Kind == config.KindEmbedding {
		verbs = []string{"embedContent", "batchEmbedContents", "countTokens"}
	}
	return struct {
		Name        string   `json:"name"`
		BaseModelID string   `json:"baseModelId"`
		DisplayName string   `json:"displayName"`
		MaxOutput   int64    `json:"outputTokenLimit,omitzero"`
		Verbs       []string `json:"supportedGenerationMethods"`
	}{"models/" + m.Name, m.Name, m.Name, m.MaxOutput, verbs}
}

// geminiList is a page of pageSize models after the one that pageToken names.
func geminiList(models []config.Model, query url.Values) (any, *errorbody.Refusal) {
	size, said := pageSize(query, "pageSize", 50)
	if said != nil {
		return nil, said
	}
	rest := after(models, query.Get("pageToken"))
	page, next := rest[:min(size, len(rest))], ""
	if len(page) < len(rest) {
		next = page[len(page)-1].Name
	}
	return struct {
		Models []any  `json:"models"`
		Next   string `json:"nextPageToken,omitzero"`
	}{each(page, geminiModel), next}, nil
}

// after are the models behind the one of a name; all without a name, none behind an unknown one.
func after(models []config.Model, name string) []config.Model {
	if name == "" {
		return models
	}
	for i, m := range models {
		if m.Name == name {
			return models[i+1:]
		}
	}
	return nil
}

// mostModels is the longest page of models.
const mostModels = 1000

func pageSize(query url.Values, name string, usual int) (int, *errorbody.Refusal) {
	text := cmp.Or(query.Get(name), strconv.Itoa(usual))
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > mostModels {
		return 0, &errorbody.Refusal{Status: http.StatusBadRequest, Type: errorbody.TypeInvalidRequest, Param: name,
			Message: fmt.Sprintf("%s: %.50q is not a number from 1 to %d", name, text, mostModels)}
	}
	return n, nil
}
