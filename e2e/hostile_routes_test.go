package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// hostileRoute is a route of models: body has a place for more members where its maximum stands.
type hostileRoute struct {
	path, body, maximum string
	family              string
}

func hostileRoutes() []hostileRoute {
	const messages = `"messages":[{"role":"user","content":"hi"}]}`
	const contents = `"contents":[{"parts":[{"text":"hi"}]}]`
	const options = `{"generationConfig":{%s"topK":3},` + contents + `}`
	const flash, vectors = "/models/gemini-2.5-flash:", "/v1beta/models/gemini-embedding-001:"
	return []hostileRoute{
		{"/v1/chat/completions", `{"model":"gpt-4o-mini",%s` + messages, "max_tokens", "openai"},
		{"/compatible-mode/v1/chat/completions", `{"model":"qwen-plus",%s` + messages, "max_completion_tokens", "openai"},
		{"/v1/completions", `{"model":"gpt-4o-mini",%s"prompt":"hi"}`, "max_tokens", "openai"},
		{"/v1/responses", `{"model":"gpt-4o-mini",%s"input":"hi"}`, "max_output_tokens", "openai"},
		{"/v1/embeddings", `{"model":"text-embedding-3-small",%s"input":"hi"}`, "", "openai"},
		{"/v1/moderations", `{%s"input":"hi"}`, "", "openai"},
		{"/v1/images/generations", `{"model":"gpt-image-1",%s"prompt":"hi"}`, "", "openai"},
		{"/v1/audio/speech", `{"model":"tts-1",%s"voice":"alloy","input":"hi"}`, "", "openai"},
		{"/v1/messages", `{"model":"claude-haiku-4-5",%s"max_tokens":20,` + messages, "", "anthropic"},
		{"/v1/messages", `{"model":"claude-haiku-4-5",%s` + messages, "max_tokens", "anthropic"},
		{"/v1/messages/count_tokens", `{"model":"claude-haiku-4-5",%s` + messages, "", "anthropic"},
		{"/v1beta" + flash + "generateContent", options, "maxOutputTokens", "gemini"},
		{"/v1" + flash + "streamGenerateContent", options, "maxOutputTokens", "gemini"},
		{"/v1beta" + flash + "streamGenerateContent?alt=sse", options, "maxOutputTokens", "gemini"},
		{"/v1beta" + flash + "countTokens", `{%s` + contents + `}`, "", "gemini"},
		{vectors + "embedContent", `{%s"content":{"parts":[{"text":"hi"}]}}`, "", "gemini"},
		{vectors + "batchEmbedContents", `{%s"requests":[{"content":{"parts":[{"text":"hi"}]}}]}`, "", "gemini"},
	}
}

// hostileBody is what is tried on each route.
type hostileBody struct {
	name, body string
	header     []string // pairs
	status     int
}

func (r hostileRoute) with(members string) string { return fmt.Sprintf(r.body, members) }

func (r hostileRoute) bodies() []hostileBody {
	ok := r.with("")
	all := []hostileBody{
		{"not JSON", "model=gpt", nil, 400},
		{"empty", "", nil, 400},
		{"an array", "[]", nil, 400},
		{"a text", `"hi"`, nil, 400},
		{"cut off", ok[:len(ok)-5], nil, 400},
		{"two documents", ok + ok, nil, 400},
		{"a member twice", r.with(`"x":1,"x":2,`), nil, 400},
		{"a member twice, in capitals", r.with(`"x":1,"X":2,`), nil, 400},
		{"an escaped name", r.with(`"mod\u0065l":"gpt-4o",`), nil, 400},
		{"a name beyond ASCII", r.with(`"ｍodel":"gpt-4o",`), nil, 400},
		{"many members", r.with(strings.Join(numberedMembers(300), "")), nil, 400},
		{"deep", r.with(`"x":` + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000) + ","), nil, 400},
		{"deep, open", `{"messages":` + strings.Repeat(`[{"a":`, 20_000), nil, 400},
		{"a comma too many", strings.TrimSuffix(ok, "}") + ",}", nil, 400},
		{"NaN", r.with(`"x":NaN,`), nil, 400},
		{"text/plain", ok, []string{"Content-Type", "text/plain"}, 400},
		{"no content type", ok, []string{"Content-Type", ""}, 400},
		{"another charset", ok, []string{"Content-Type", "application/json; charset=utf-16"}, 400},
		{"gzip", zipped(ok), []string{"Content-Encoding", "gzip"}, 415},
		{"a charset", ok, []string{"Content-Type", "application/json; charset=UTF-8"}, 200},
		{"a byte order mark", "\ufeff" + ok, nil, 200},
		{"space around the body", " \r\n" + ok + " \r\n\t ", nil, 200},
		{"braces in strings", strings.Replace(ok, "hi", `}{\"}[\\`, 1), nil, 200},
	}
	if r.maximum == "" {
		return all
	}
	for name, value := range map[string]string{"negative": "-1", "zero": "0", "a string": `"5"`, "a fraction": "1.5", "an exponent": "1e3",
		"10^18": "1000000000000000000", "beyond int64": "99999999999999999999999999", "a list": "[5]", "true": "true"} {
		all = append(all, hostileBody{"a maximum that is " + name, r.with(`"` + r.maximum + `":` + value + ","), nil, 400})
	}
	return append(all, hostileBody{"a maximum twice", r.with(`"` + r.maximum + `":1,"` + r.maximum + `":100,`), nil, 400})
}

// numberedMembers are n members of different names.
func numberedMembers(n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf(`"m%d":1,`, i)
	}
	return all
}

// TestHostileBodiesOfEveryRoute: what is tried on chats is refused on every route, before anything
// is held, in the shape that its family's SDKs read; and what is odd but sound is served.
func TestHostileBodiesOfEveryRoute(t *testing.T) {
	t.Parallel()
	for _, route := range hostileRoutes() {
		t.Run(strings.Trim(route.path, "/")+" "+route.maximum, func(t *testing.T) {
			t.Parallel()
			who := newAccount(t)
			for _, tc := range route.bodies() {
				if route.path == "/v1/messages" && route.maximum != "" && tc.status == 200 {
					tc.status = 400 // it has to state one
				}
				status, header, text, err := running.Send(t.Context(), "POST", route.path, who.Key, tc.body, tc.header...)
				if err != nil || status != tc.status {
					t.Errorf("%s: want %d, got %d %.200s, %v", tc.name, tc.status, status, text, err)
					continue
				}
				if status == 200 {
					continue
				}
				if held := header.Get("x-leaky-hold"); held != "" {
					t.Errorf("%s: %s tokens were held", tc.name, held)
				}
				if err := refusalOf(route.family, status, header.Get("X-Request-Id"), text); err != nil {
					t.Errorf("%s: %v in %s", tc.name, err, text)
				}
			}
			large := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n{",
				route.path, who.Key, 1<<30)
			if status := rawStatus(t, large); status != 413 {
				t.Errorf("over the limit: want 413, got %d", status)
			}
		})
	}
}

// refusalOf holds a refusal to the shape of a family's API.
func refusalOf(family string, status int, id string, text []byte) error {
	var body struct {
		Type      string
		RequestID string `json:"request_id"`
		Error     struct {
			Message, Type, Status string
			Code                  any
		}
	}
	if err := json.Unmarshal(text, &body); err != nil {
		return fmt.Errorf("decode the refusal: %w", err)
	}
	e := body.Error
	ok := false
	switch family {
	case "openai":
		ok = e.Type == "invalid_request_error"
	case "anthropic":
		ok = body.Type == "error" && (e.Type == "invalid_request_error" || status == 413 && e.Type == "request_too_large") && body.RequestID == id
	case "gemini":
		ok = e.Status == "INVALID_ARGUMENT" && e.Code == float64(status)
	}
	if !ok || e.Message == "" || !strings.Contains(string(text), id) {
		return fmt.Errorf("want the shape of %s", family)
	}
	return nil
}
