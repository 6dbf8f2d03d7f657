package envoy_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// found is what an answer tells.
type found struct {
	told   map[string]int64
	model  string
	whole  bool
	failed bool
}

// model reads a complete answer with encoding/json, with none of the script's short cuts.
// ok is false where a document does not parse: what is found then is not defined.
func model(answer []byte) (f found, ok bool) {
	f.told = map[string]int64{}
	for len(answer) > 0 && strings.IndexByte(" \t\r\n\xef\xbb\xbf", answer[0]) >= 0 {
		answer = answer[1:]
	}
	if len(answer) == 0 {
		return f, true
	}
	if answer[0] == '{' || answer[0] == '[' {
		return f, f.documents(answer)
	}
	ok = true
	for _, e := range eventsOf(string(answer)) {
		if !f.documents([]byte(e)) {
			ok = false
		}
	}
	return f, ok
}

// eventsOf joins the data lines of each event.
func eventsOf(stream string) []string {
	stream = strings.ReplaceAll(strings.ReplaceAll(stream, "\r\n", "\n"), "\r", "\n")
	var all []string
	var data []string
	for line := range strings.SplitSeq(stream+"\n\n", "\n") {
		if payload, is := strings.CutPrefix(line, "data:"); is {
			data = append(data, payload)
		}
		if line == "" && data != nil {
			all = append(all, strings.Join(data, "\n"))
			data = nil
		}
	}
	return all
}

// documents walks JSON texts that follow one another.
func (f *found) documents(text []byte) bool {
	if strings.TrimSpace(string(text)) == "[DONE]" {
		return true
	}
	w := walker{found: f, text: text, dec: json.NewDecoder(bytes.NewReader(text))}
	for {
		t, err := w.dec.Token()
		if errors.Is(err, io.EOF) {
			return true
		}
		if err != nil {
			return false
		}
		if _, is := t.(json.Delim); !is {
			continue // a text or a number by itself
		}
		if !w.container(t, "", 1) {
			return false
		}
	}
}

type walker struct {
	*found
	text []byte
	dec  *json.Decoder
}

// places are the paths of usage objects; arrays do not count as a step.
var places = []string{"usage", "usageMetadata", "usage_metadata", "choices.usage", "choices.delta.usage", "choices.message.usage",
	"x_groq.usage", "message.usage", "response.usage", "response.usageMetadata"}

var counters = map[string]string{
	"prompt_tokens": "in", "input_tokens": "in", "promptTokenCount": "in", "prompt_token_count": "in",
	"completion_tokens": "out", "output_tokens": "out", "candidatesTokenCount": "out", "candidates_token_count": "out",
	"total_tokens": "total", "totalTokenCount": "total", "total_token_count": "total",
	"cached_tokens": "cached", "prompt_cache_hit_tokens": "cached", "cachedContentTokenCount": "cached", "cached_content_token_count": "cached",
	"cache_read_input_tokens": "read", "cache_creation_input_tokens": "written",
	"cache_creation.ephemeral_1h_input_tokens": "written_1h",
	"reasoning_tokens":                         "reasoning", "thoughtsTokenCount": "thoughts", "thoughts_token_count": "thoughts",
	"toolUsePromptTokenCount": "tools", "tool_use_prompt_token_count": "tools",
	"prompt_tokens_details.cached_tokens": "cached", "input_tokens_details.cached_tokens": "cached",
	"prompt_tokens_details.cache_write_tokens": "wrote", "input_tokens_details.cache_write_tokens": "wrote",
	"completion_tokens_details.thinking_tokens": "reasoning", "output_tokens_details.thinking_tokens": "reasoning",
	"prompt_tokens_details.audio_tokens": "audio_in", "input_tokens_details.audio_tokens": "audio_in",
	"completion_tokens_details.audio_tokens": "audio_out", "output_tokens_details.audio_tokens": "audio_out",
	"completion_tokens_details.reasoning_tokens": "reasoning", "output_tokens_details.reasoning_tokens": "reasoning",
}

var (
	models  = []string{"model", "modelVersion", "message.model", "response.model", "response.modelVersion"}
	errored = []string{"error", "response.error"}
)

func (w *walker) container(open json.Token, path string, depth int) bool {
	if slices.Contains(errored, path) && depth > 1 {
		w.failed = true
	}
	object := open == json.Delim('{')
	for w.dec.More() {
		at := path
		if object {
			name, ok := w.raw()
			if !ok {
				return false
			}
			at = strings.TrimPrefix(path+"."+name, ".")
		}
		start := w.dec.InputOffset()
		t, err := w.dec.Token()
		if err != nil {
			return false
		}
		if _, is := t.(json.Delim); is {
			if depth == maxDepth {
				at = "(too deep)"
			}
			if !w.container(t, at, depth+1) {
				return false
			}
			continue
		}
		if object {
			w.scalar(at, strings.TrimLeft(string(w.text[start:w.dec.InputOffset()]), " \t\r\n:"))
		}
	}
	if _, err := w.dec.Token(); err != nil {
		return false
	}
	if object && slices.Contains(places, path) && len(w.told) > 0 {
		w.whole = true
	}
	return true
}

const maxDepth, maxText = 8, 128

// raw is a member's name as it is written; one that would look like a path is another.
func (w *walker) raw() (string, bool) {
	start := w.dec.InputOffset()
	if _, err := w.dec.Token(); err != nil {
		return "", false
	}
	name := strings.TrimLeft(string(w.text[start:w.dec.InputOffset()]), " \t\r\n,")
	name = name[1 : len(name)-1]
	if name == "" || strings.Contains(name, ".") {
		name = "?"
	}
	return name, true
}

var (
	number = regexp.MustCompile(`^\d[\d.eE+-]*$`)
	named  = regexp.MustCompile(`^[ !#-\[\]-~]+$`)
)

func (w *walker) scalar(path, raw string) {
	text, quoted := raw, strings.HasPrefix(raw, `"`)
	if quoted {
		text = raw[1 : len(raw)-1]
	}
	if len(text) > maxText {
		text = "\x00"
	}
	switch {
	case slices.Contains(models, path):
		if quoted && w.model == "" && named.MatchString(text) {
			w.model = text
		}
	case slices.Contains(errored, path):
		w.failed = w.failed || quoted && text != ""
	case path == "type":
		w.failed = w.failed || text == "error"
	default:
		w.count(path, text)
	}
}

func (w *walker) count(path, text string) {
	for _, place := range places {
		name, is := strings.CutPrefix(path, place+".")
		if !is || counters[name] == "" || !number.MatchString(text) {
			continue
		}
		if n, err := strconv.ParseFloat(text, 64); err == nil && n >= 1 && n <= 1e15 {
			w.told[counters[name]] = int64(n)
		}
	}
}
