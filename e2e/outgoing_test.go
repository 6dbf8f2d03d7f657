package e2e

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/rawprovider"
)

// TestWhatTheProviderGets is what the caller meant, in the provider's words.
func TestWhatTheProviderGets(t *testing.T) {
	t.Parallel()
	ask := func(model, more string) string {
		return `{"model":"` + model + `"` + more + `,"messages":[{"role":"user","content":"Hello"}]}`
	}
	const stream, filled = `,"stream":true`, `16384`
	for name, tc := range map[string]struct {
		body, want string
		filled     string // x-leaky-filled
		contents   string // Content-Type of the request
	}{
		"as it is":                  {ask("raw1", `,"max_tokens":5`), ask("raw1", `,"max_tokens":5`), "", "application/json"},
		"a label with a charset":    {ask("raw1", `,"max_tokens":5`), ask("raw1", `,"max_tokens":5`), "", "application/json; charset=UTF-8"},
		"a byte order mark":         {"\ufeff" + ask("raw1", `,"max_tokens":5`), ask("raw1", `,"max_tokens":5`), "", "application/json"},
		"an open maximum":           {ask("raw1", ""), ask("raw1", "") + `"max_tokens":` + filled, filled, "application/json"},
		"a null maximum":            {ask("raw1", `,"max_tokens": null`), ask("raw1", `,"max_tokens": `+filled), filled, "application/json"},
		"the name the model takes":  {ask("gpt-5-raw", ""), ask("gpt-5-raw", "") + `"max_completion_tokens":128000`, "128000", "application/json"},
		"the name, renamed":         {ask("gpt-5-raw", `,"max_tokens":7`), ask("gpt-5-raw", `,"max_completion_tokens":7`), "", "application/json"},
		"the provider's prefix":     {ask("raw/raw1", `,"max_tokens":5`), ask("raw1", `,"max_tokens":5`), "", "application/json"},
		"usage is asked for":        {ask("raw1", stream+`,"max_tokens":5`), ask("raw1", stream+`,"max_tokens":5`) + `"stream_options":{"include_usage":true}`, "", "application/json"},
		"other options stay":        {ask("raw1", stream+`,"max_tokens":5,"stream_options":{"include_usage":false,"x":1}`), ask("raw1", stream+`,"max_tokens":5,"stream_options":{"include_usage":true,"x":1}`), "", "application/json"},
		"a provider without option": {ask("strict1", stream+`,"max_tokens":5`), ask("strict1", stream+`,"max_tokens":5`), "", "application/json"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			who := newAccount(t)
			got := callRaw(t.Context(), t, who, chatPath, tc.body, rawprovider.Script(rawprovider.Send(rawprovider.JSON), rawprovider.Send("{}")), nil,
				"Content-Type", tc.contents)
			calls := delivered(got.correlation)
			if got.status != 200 || len(calls) != 1 {
				t.Fatalf("want one call that is served, got %+v and %+v", got, calls)
			}
			want, added, _ := strings.Cut(tc.want, `}]}"`) // what is added goes before the last brace
			if want != tc.want {
				want += `}],"` + added + "}"
			}
			if calls[0].Body != want || calls[0].Header.Get("Content-Type") != "application/json" {
				t.Errorf("want %s, got %s as %s", want, calls[0].Body, calls[0].Header.Get("Content-Type"))
			}
			if !json.Valid([]byte(calls[0].Body)) || got.header.Get("x-leaky-filled") != tc.filled {
				t.Errorf("want JSON and %q filled, got %q", tc.filled, got.header.Get("x-leaky-filled"))
			}
		})
	}
}

// TestTwoReadingsOfABodyAreRefused: an encoding in which a string ends elsewhere, and names
// that some parser folds to one that decides.
func TestTwoReadingsOfABodyAreRefused(t *testing.T) {
	t.Parallel()
	who := newAccount(t)
	const plain = `{"model":"raw1","max_tokens":5,"messages":[{"role":"user","content":"+ACIALAAi-max+AF8-completion+AF8-tokens+ACI-:3000"}]}`
	for name, tc := range map[string]struct{ contents, body string }{
		"utf-7":            {"application/json; charset=utf-7", plain},
		"utf-16":           {`application/json; charset="UTF-16LE"`, plain},
		"two charsets":     {"application/json; charset=utf-8; charset=utf-7", plain},
		"a kelvin sign":    {"application/json", strings.Replace(plain, `"max_tokens":5`, `"max_tokens":5,"max_completion_to`+"\u212a"+`ens":3000`, 1)},
		"a long s":         {"application/json", strings.Replace(plain, `"max_tokens":5`, `"max_tokens":5,"`+"\u017f"+`tream":true`, 1)},
		"a maximum twice":  {"application/json", strings.Replace(plain, `"max_tokens":5`, `"max_tokens":5,"max_tokens":3000`, 1)},
		"a case, escaped":  {"application/json", strings.Replace(plain, `"max_tokens":5`, `"max_tokens":5,"\u006dax_tokens":3000`, 1)},
		"another encoding": {"application/json", "\x00{\x00}"},
	} {
		got := callRaw(t.Context(), t, who, chatPath, tc.body, rawprovider.Script(rawprovider.Send(rawprovider.JSON), rawprovider.Send("{}")), nil,
			"Content-Type", tc.contents)
		if got.status != http.StatusBadRequest || len(delivered(got.correlation)) != 0 || !strings.Contains(got.text, "invalid_request_error") {
			t.Errorf("%s: want 400 and nothing at the provider, got %d %s", name, got.status, got.text)
		}
	}
}

// TestSDKsOfGeminiAskForEitherVersion, and both are served.
func TestSDKsOfGeminiAskForEitherVersion(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"v1beta", "v1"} {
		who := newAccount(t)
		got := callRaw(t.Context(), t, who, "/"+version+"/models/rawg1:streamGenerateContent?alt=sse", `{"contents":[]}`,
			rawprovider.Script(rawprovider.Send(rawprovider.SSE), rawprovider.Send("data: {\"usageMetadata\":{\"promptTokenCount\":3,\"totalTokenCount\":9}}\n\n")), nil)
		if row := booked(t, who, "rawg", got.request); got.status != 200 || row.Tokens != 9 || row.Source != "provider" {
			t.Errorf("%s: want 200 and 9 tokens, got %d and %+v", version, got.status, row)
		}
	}
}
