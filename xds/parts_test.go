package xds_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// messages is a chat body whose last message has the parts.
func messages(parts string) string {
	return `{"model":"gpt-4o","messages":[{"role":"system","content":"x"},{"role":"user","content":[` + parts + `]}]}`
}

// TestGuardCountsParts of all kinds, in all spellings that some provider reads.
func TestGuardCountsParts(t *testing.T) {
	t.Parallel()
	g := start(t, nil, nil)
	const picture = `{"type":"image_url","image_url":{"url":"https://example.com/a.png","detail":"high"}}`
	const inline = `{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}}`
	for name, c := range map[string]struct{ path, body, want string }{
		"text alone":    {chatPath, messages(`{"type":"text","text":"data:image/png;base64,AAAA"}`), "-"},
		"by reference":  {chatPath, messages(picture + "," + picture), "image:2:2:0"},
		"data URL":      {chatPath, messages(inline), "image:1:0:26"},
		"escaped data":  {chatPath, messages(`{"type":"image_url","image_url":{"url":"DATA:image\/png;base64,AA"}}`), "image:1:0:25"},
		"short form":    {chatPath, messages(`{"image_url":"https://example.com"}`), "image:1:1:0"},
		"by type":       {chatPath, messages(`{"type":"input_image","file_id":"file-1"}`), "image:1:1:0"},
		"type, escaped": {chatPath, messages(`{"type":"input\u005fimage","file_id":"file-1"}`), "image:1:1:0"},
		"name, escaped": {chatPath, messages(`{"image\u005furl":{"url":"x"}}`), "image:1:1:0"},
		"other case":    {chatPath, messages(`{"Image_URL":{"URL":"x"}}`), "image:1:1:0"},
		"folded case":   {chatPath, messages("{\"\u0131mage_url\":\"x\"}"), "image:1:1:0"},
		"two readings":  {chatPath, messages(`{"type":"input_audio","image_url":"x"}`), "image:1:1:0,audio:1:1:0"},
		"two types":     {chatPath, messages(`{"type":"image_url","type":"text","image_url":"x"}`), "image:1:1:0"},
		"sound":         {chatPath, messages(`{"type":"input_audio","input_audio":{"data":"AAAAAAAA","format":"wav"}}`), "audio:1:0:8"},
		"earlier sound": {chatPath, `{"model":"gpt-4o","messages":[{"role":"assistant","audio":{"id":"audio_1"}}]}`, "audio:1:1:0"},
		"no sound":      {chatPath, `{"model":"gpt-4o","messages":[{"role":"assistant","audio":null}]}`, "-"},
		"film":          {chatPath, messages(`{"type":"video_url","video_url":{"url":"x"}}`), "video:1:1:0"},
		"frames":        {chatPath, messages(`{"type":"video","video":["a","b"]}`), "video:2:2:0"},
		"file by id":    {chatPath, messages(`{"type":"file","file":{"file_id":"file-1"}}`), "file:1:1:0"},
		"file inside": {chatPath, messages(`{"type":"file","file":{"filename":"a","file_data":"data:application/pdf;base64,AA"}}`),
			"file:1:0:30"},
		"input_file":     {chatPath, messages(`{"type":"input_file","file_url":"x"}`), "file:1:1:0"},
		"input_file raw": {chatPath, messages(`{"type":"input_file","file_data":"AAAA"}`), "file:1:0:4"},
		"document":       {chatPath, messages(`{"type":"document","source":{"type":"base64","media_type":"application/pdf","data":"AAAA"}}`), "file:1:0:4"},
		"anthropic": {chatPath, messages(`{"source":{"data":"AAAA","media_type":"image/png","type":"base64"},"type":"image"}`),
			"image:1:0:4"},
		"anthropic URL":   {chatPath, messages(`{"type":"image","source":{"type":"url","url":"x"}}`), "image:1:1:0"},
		"in a result":     {chatPath, messages(`{"type":"tool_result","content":[{"type":"image","source":{"type":"url","url":"x"}}]}`), "image:1:1:0"},
		"a screenshot":    {chatPath, `{"model":"gpt-4o","input":[{"type":"computer_call_output","output":{"type":"computer_screenshot","image_url":"x"}}]}`, "image:1:1:0"},
		"an earlier item": {chatPath, `{"model":"gpt-4o","input":[{"type":"item_reference","id":"msg_1"}]}`, "previous:1:1:0"},
		"arguments":       {chatPath, `{"model":"gpt-4o","messages":[{"role":"assistant","tool_calls":[{"function":{"arguments":{"image_url":"x"}}}]}]}`, "-"},
		"a schema": {chatPath, body(`,"tools":[{"type":"function","function":{"name":"f","parameters":{"properties":{"image_url":{"type":"string"}}}}}]`),
			"-"},
		"metadata":           {chatPath, body(`,"metadata":{"image_url":"x"}`), "-"},
		"hosted tools":       {chatPath, body(`,"tools":[{"type":"web_search"},{"type":"function"},{"type":"code_interpreter","container":{}}]`), "tool:2:2:0"},
		"tool, type escaped": {chatPath, body(`,"tools":[{"type":"web\u005fsearch"}]`), "tool:1:1:0"},
		"tool, two types":    {chatPath, body(`,"tools":[{"type":"function","type":"web_search"}]`), "tool:1:1:0"},
		"tools of a client":  {chatPath, body(`,"tools":[{"type":"custom","name":"x"},{"type":"bash_20250124","name":"bash"},{"name":"f","input_schema":{}}]`), "-"},
		"search option":      {chatPath, body(`,"web_search_options":{}`), "tool:1:1:0"},
		"search option off":  {chatPath, body(`,"web_search_options":null,"enable_search":false,"plugins":[]`), "-"},
		"previous":           {chatPath, body(`,"previous_response_id":"resp_1","conversation":{"id":"c"}`), "previous:2:2:0"},
		"gemini inline": {genPath, `{"contents":[{"parts":[{"inlineData":{"mimeType":"image/png","data":"AAAAAA"}},` +
			`{"inline_data":{"data":"AAAA","mime_type":"audio/mp3"}}]}]}`, "image:1:0:6,audio:1:0:4"},
		"gemini files": {genPath, `{"contents":[{"parts":[{"fileData":{"mimeType":"video/mp4","fileUri":"x"}},{"file_data":{"file_uri":"x"}}]}]}`,
			"video:1:1:0,file:1:1:0"},
		"gemini, one content": {genPath, `{"contents":{"parts":{"fileData":{"mimeType":"image\/png","fileUri":"x"}}}}`, "image:1:1:0"},
		"gemini instruction":  {genPath, `{"systemInstruction":{"parts":[{"inlineData":{"mimeType":"image/png","data":"AA"}}]}}`, "image:1:0:2"},
		"gemini cache":        {genPath, `{"cachedContent":"cachedContents/1"}`, "cached:1:1:0"},
		"gemini tools":        {genPath, `{"tools":[{"functionDeclarations":[]},{"googleSearch":{}},{"url_context":{},"code_execution":{}}]}`, "tool:2:2:0"},
		"gemini one tool":     {genPath, `{"tools":{"google_search":{}}}`, "tool:1:1:0"},
		"gemini typed tool":   {genPath, `{"tools":[{"type":"function","googleSearch":{}}]}`, "tool:1:1:0"},
		"gemini result": {genPath, `{"contents":[{"parts":[{"functionResponse":{"response":{"image":"x"},` +
			`"parts":[{"inlineData":{"mimeType":"image/png","data":"AA"}}]}},{"functionCall":{"args":{"file":"x"}}}]}]}`, "image:1:0:2"},
	} {
		t.Run(name, func(t *testing.T) {
			a := g.do(t, "POST", c.path, c.body)
			if a.status != 200 {
				t.Fatalf("want 200, got %d %s", a.status, a.body)
			}
			if got := facts(g.limit.last())["parts"]; got != c.want {
				t.Errorf("want parts %s, got %s", c.want, got)
			}
		})
	}
}

// facts are the entries of a question's first descriptor. Parts hold commas of their own.
func facts(asked []string) map[string]string {
	all, last := map[string]string{}, ""
	if len(asked) == 0 {
		return all
	}
	for one := range strings.SplitSeq(asked[0], ",") {
		key, value, ok := strings.Cut(one, "=")
		if !ok {
			all[last] += "," + one
			continue
		}
		all[key], last = value, key
	}
	return all
}

// TestGuardCountsWhateverTheOrder makes bodies of parts with their members in any order, white
// space and nesting, and keeps count beside.
func TestGuardCountsWhateverTheOrder(t *testing.T) {
	t.Parallel()
	g := start(t, nil, nil)
	rapid.Check(t, func(r *rapid.T) {
		counts := map[string][3]int{}
		add := func(kind string, references, bytes int) {
			n := counts[kind]
			counts[kind] = [3]int{n[0] + 1, n[1] + references, n[2] + bytes}
		}
		gap := func() string { return rapid.SampledFrom([]string{"", "", " ", "\n\t"}).Draw(r, "gap") }
		object := func(members ...string) string {
			for i := range members {
				members[i] = gap() + members[i] + gap()
			}
			return "{" + strings.Join(rapid.Permutation(members).Draw(r, "order"), ",") + "}"
		}
		var parts []string
		for range rapid.IntRange(0, 6).Draw(r, "parts") {
			data := strings.Repeat("A", rapid.IntRange(1, 9000).Draw(r, "bytes"))
			switch rapid.IntRange(0, 5).Draw(r, "kind") {
			case 0:
				parts = append(parts, object(`"type":"text"`, `"text":"image_url \" {[ `+data+`"`))
			case 1:
				url := "data:image/png;base64," + data
				add("image", 0, len(url))
				parts = append(parts, object(`"type":"image_url"`, `"image_url":`+object(`"url":"`+url+`"`, `"detail":"low"`)))
			case 2:
				add("image", 1, 0)
				parts = append(parts, object(`"type":"input_image"`, `"image_url":"https://example.com/`+data+`"`))
			case 3:
				add("audio", 0, len(data))
				parts = append(parts, object(`"type":"input_audio"`, `"input_audio":`+object(`"data":"`+data+`"`, `"format":"mp3"`)))
			case 4:
				add("file", 1, 0)
				parts = append(parts, object(`"type":"input_file"`, `"file_id":"file-1"`))
			default:
				add("image", 0, len(data))
				parts = append(parts, `{"type":"tool_result","content":[`+object(`"type":"image"`,
					`"source":`+object(`"type":"base64"`, `"media_type":"image/webp"`, `"data":"`+data+`"`))+`]}`)
			}
		}
		text := messages(strings.Join(parts, ","))
		if a := g.do(t, "POST", chatPath, text); a.status != 200 {
			r.Fatalf("want 200, got %d %s for %.200s", a.status, a.body, text)
		}
		var want []string
		for _, kind := range []string{"image", "audio", "file"} {
			if n, ok := counts[kind]; ok {
				want = append(want, fmt.Sprintf("%s:%d:%d:%d", kind, n[0], n[1], n[2]))
			}
		}
		if len(want) == 0 {
			want = []string{"-"}
		}
		if got := strings.Split(facts(g.limit.last())["parts"], ","); !slices.Equal(got, want) {
			r.Fatalf("want %v, got %v for %.500s", want, got, text)
		}
	})
}
