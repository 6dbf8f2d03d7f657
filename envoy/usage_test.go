package envoy_test

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	lua "github.com/yuin/gopher-lua"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/reader"
)

// read feeds pieces and gives what went on to the client and the last report.
func read(t testing.TB, s *reader.Script, cuts bool, pieces ...string) (passed string, r report) {
	t.Helper()
	passed, text := s.Read(t, cuts, pieces...)
	return passed, parseReport(text)
}

// report is what the script tells the access log.
type report struct {
	found
	events, after, bytes int64
	head                 int64
	said, thought        int64
	called, wide         int64
}

// made is all text that the model produced, in bytes. Of what kind it is may depend on the pieces where
// it is not in ASCII.
func (r report) made() int64 { return r.said + r.thought + r.called + r.wide }

func parseReport(text string) report {
	r := report{found: found{told: map[string]int64{}}}
	text, r.model, _ = strings.Cut(text, ",model=")
	for field := range strings.SplitSeq(text, ",") {
		name, value, _ := strings.Cut(field, "=")
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			continue
		}
		switch name {
		case "events":
			r.events = n
		case "after":
			r.after = n
		case "bytes":
			r.bytes = n
		case "head":
			r.head = n
		case "said":
			r.said = n
		case "thought":
			r.thought = n
		case "called":
			r.called = n
		case "wide":
			r.wide = n
		case "whole":
			r.whole = true
		case "failed":
			r.failed = true
		default:
			r.told[name] = n
		}
	}
	return r
}

// split cuts a text at random places, now and then into single bytes.
func split(r *rand.Rand, text string) []string {
	mean := []int{1, 3, 20, 300, 5000}[r.IntN(5)]
	var pieces []string
	for text != "" {
		n := min(len(text), 1+r.IntN(2*mean))
		pieces, text = append(pieces, text[:n]), text[n:]
	}
	return pieces
}

const usageEvent = `data: {"id":"c","choices":[],"usage":{"prompt_tokens":100,"completion_tokens":40,"total_tokens":140}}` + "\n\n"

func TestUsageIsFoundWhereverItIsTold(t *testing.T) {
	t.Parallel()
	s := reader.New(t)
	const three = `"usage":{"prompt_tokens":100,"completion_tokens":40,"total_tokens":140}`
	nulls := strings.Repeat(`data: {"choices":[{"delta":{"content":"x"}}],"usage":null}`+"\n\n", 3)
	for name, c := range map[string]struct{ answer, told string }{
		"chat":                         {`{"model":"m","choices":[{"message":{"content":"hi"}}],` + three + `}`, "in=100,out=40,total=140,model=m"},
		"a model's name":               {`{"model":"a/b:c,2 \u00e9","modelVersion":"gemini-2.5, x"}`, "events=0,model=gemini-2.5, x"},
		"chat stream":                  {`data: {"choices":[{"delta":{}}]}` + "\n\n" + usageEvent + "data: [DONE]\n\n", "in=100,out=40,total=140"},
		"usage first":                  {`{` + three + `,"choices":[{"message":{"content":"hi"}}]}`, "in=100,out=40,total=140"},
		"total alone":                  {`{"usage":{"total_tokens":9}}`, "total=9"},
		"numbers as strings":           {`{"usage":{"prompt_tokens":"100","completion_tokens":" 4"}}`, "in=100"},
		"above 2^31":                   {`{"usage":{"prompt_tokens":3000000000}}`, "in=3000000000"},
		"absurd":                       {`{"usage":{"prompt_tokens":1e16,"completion_tokens":1e999}}`, ""},
		"fraction and exponent":        {`{"usage":{"prompt_tokens":12.7,"completion_tokens":1e2}}`, "in=12,out=100"},
		"negative":                     {`{"usage":{"prompt_tokens":-5,"completion_tokens":5}}`, "out=5"},
		"zeros erase nothing":          {`data: {"usage":{"prompt_tokens":7}}` + "\n\n" + `data: {"usage":{"prompt_tokens":0,"completion_tokens":5}}` + "\n\n", "in=7,out=5"},
		"null erases nothing":          {`data: {"usage":{"prompt_tokens":7}}` + "\n\ndata: {\"usage\":null}\n\n", "in=7"},
		"a count after a null":         {nulls + `data: {"usage":null,"choices":[{"usage":{"prompt_tokens":5}}]}` + "\n\n" + nulls, "in=5"},
		"a null after a count":         {nulls + `data: {"usage":{"prompt_tokens":5},"x_groq":{"usage": null}}` + "\n\n" + nulls, "in=5"},
		"a null within text":           {nulls + `data: {"choices":[{"delta":{"content":"\"usage\":null"}}],"usage":{"prompt_tokens":5}}` + "\n\n", "in=5"},
		"last one counts":              {`data: {"usage":{"completion_tokens":7}}` + "\n\n" + `data: {"usage":{"completion_tokens":5}}` + "\n\n", "out=5"},
		"details":                      {`{"usage":{"prompt_tokens":9,"prompt_tokens_details":{"cached_tokens":4,"audio_tokens":1},"completion_tokens_details":{"reasoning_tokens":3,"audio_tokens":2}}}`, "in=9,cached=4,reasoning=3,audio_in=1,audio_out=2"},
		"choices":                      {`data: {"choices":[{"index":0,"delta":{},` + three + `}]}` + "\n\n", "in=100,out=40,total=140"},
		"x_groq":                       {`data: {"choices":[],"x_groq":{"id":"r",` + three + `}}` + "\n\n", "in=100,out=40,total=140"},
		"responses":                    {"event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"usage\":{\"input_tokens\":7,\"input_tokens_details\":{\"cached_tokens\":2},\"output_tokens\":8,\"total_tokens\":15}}}\n\n", "in=7,out=8,total=15,cached=2"},
		"anthropic":                    {"event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":25,\"cache_read_input_tokens\":3,\"cache_creation_input_tokens\":2,\"output_tokens\":1}}}\n\nevent: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{},\"usage\":{\"output_tokens\":15}}\n\n", "in=25,out=15,read=3,written=2"},
		"anthropic, cache for an hour": {`{"type":"message","usage":{"input_tokens":5,"cache_creation_input_tokens":12,"cache_creation":{"ephemeral_5m_input_tokens":4,"ephemeral_1h_input_tokens":8},"output_tokens":1}}`, "in=5,out=1,written=12,written_1h=8"},
		"gemini":                       {`[{"candidates":[{}],"usageMetadata":{"promptTokenCount":7,"totalTokenCount":8}},` + "\r\n" + `{"usageMetadata":{"promptTokenCount":7,"candidatesTokenCount":11,"thoughtsTokenCount":5,"toolUsePromptTokenCount":1,"totalTokenCount":24}}]`, "in=7,out=11,total=24,thoughts=5,tools=1"},
		"byte order mark":              {"\xef\xbb\xbf{" + three + "}", "in=100,out=40,total=140"},
		"white space first":            {"\n\n \r\n{" + three + "}", "in=100,out=40,total=140"},
		"CR":                           {"data: {\"choices\":[]}\r\rdata: {" + three + "}\r\r", "in=100,out=40,total=140"},
		"CRLF":                         {": hi\r\nid: 1\r\ndata:{" + three + "}\r\n\r\n", "in=100,out=40,total=140"},
		"no blank line at the end":     {"data: {\"choices\":[]}\n\ndata: {" + three + "}", "in=100,out=40,total=140"},
		"one newline apart":            {"data: {\"choices\":[{\"delta\":{}}]}\ndata: {" + three + "}\ndata: [DONE]\n", "in=100,out=40,total=140"},
		"data over lines":              {"data: {\"choices\":[],\ndata: \"usage\":\ndata: {\"prompt_tokens\":5\ndata: }}\n\n", "in=5"},
		"broken event before":          {"data: {\"choices\":[{\"delta\":{\"content\":\"x\n\ndata: {" + three + "}\n\n", "in=100,out=40,total=140"},
		"broken event after":           {"data: {" + three + "}\n\ndata: {\"usage\":{\"prompt_tok\n\n", "in=100,out=40,total=140"},
		"cut in the number":            {`{"usage":{"prompt_tokens":100,"completion_tokens":4`, "in=100,out=4"},
		"text that looks like it":      {`{"choices":[{"message":{"content":"\"usage\":{\"prompt_tokens\":1}"}}]}`, ""},
		"escaped text in text":         {`{"choices":[{"message":{"tool_calls":[{"function":{"arguments":"{\"usage\":{\"prompt_tokens\":1}}\\\\"}}]}}]}`, ""},
		"tool arguments":               {`{"content":[{"type":"tool_use","input":{"usage":{"input_tokens":1}}}],"usage":{"input_tokens":5}}`, "in=5"},
		"gemini call arguments":        {`{"candidates":[{"content":{"parts":[{"functionCall":{"args":{"usageMetadata":{"promptTokenCount":1}}}}]}}]}`, ""},
		"data lines of one text":       {"{\"choices\":[{\"message\":{\"content\":\"data: {}\"}}],\n" + three + "}", "in=100,out=40,total=140"},
	} {
		_, got := read(t, s, false, c.answer)
		want := parseReport(c.told)
		if diff := cmp.Diff(want.told, got.told); diff != "" || want.model != got.model {
			t.Errorf("%s: model %q, told differs (-want +got):\n%s", name, got.model, diff)
		}
		for range 3 {
			_, again := read(t, s, false, split(rand.New(rand.NewPCG(1, uint64(len(name)))), c.answer)...)
			if diff := cmp.Diff(got, again, cmp.AllowUnexported(report{}, found{})); diff != "" {
				t.Errorf("%s: a split changes it (-whole +split):\n%s", name, diff)
			}
		}
	}
}

// The beginning of a stream of OpenAI's Responses, and one piece of its text.
const (
	responseHead = `data: {"type":"response.created","response":{"text":{"format":{"type":"text"}},"usage":null}}` + "\n\n" +
		`data: {"type": "response.content_part.added","part":{"type":"output_text","text":""}}` + "\n\n"
	responseDelta = `data: {"type":"response.output_text.delta","delta":"a"}` + "\n\n"
)

func TestUsageErrorsAndContentAreTold(t *testing.T) {
	t.Parallel()
	s := reader.New(t)
	delta := `data: {"choices":[{"delta":{"content":"x"}}]}` + "\n\n"
	for name, c := range map[string]struct {
		answer        string
		events, after int64
		failed        bool
	}{
		"content":             {strings.Repeat(delta, 5) + "data: [DONE]\n\n", 5, 5, false},
		"content, then usage": {strings.Repeat(delta, 5) + usageEvent, 5, 0, false},
		"content after usage": {usageEvent + strings.Repeat(delta, 5), 5, 5, false},
		"comments":            {": ping\n\n: ping\n\n" + delta, 1, 1, false},
		"error event":         {"data: {\"error\":{\"message\":\"overloaded\"}}\n\n", 0, 0, true},
		"error after content": {delta + "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"x\"}}\n\n", 1, 1, true},
		"error in a 200":      {`{"error":{"message":"no"}}`, 0, 0, true},
		"error as text":       {`{"error":"no"}`, 0, 0, true},
		"no error":            {`{"error":null,"choices":[{"message":{"content":"\"error\":{}"}}]}`, 0, 0, false},
		"failed response":     {"data: {\"response\":{\"error\":{\"code\":\"x\"}}}\n\n", 0, 0, true},
		"error of Responses":  {"event: error\ndata: {\"type\":\"error\",\"code\":\"x\",\"message\":\"no\"}\n\n", 0, 0, true},
		"responses":           {responseHead + responseDelta + responseDelta + `data: {"type":"response.output_text.done","text":"ab"}` + "\n\n", 2, 2, false},
		"messages": {`data: {"type":"message_start","message":{"content":[],"usage":{"input_tokens":3}}}` + "\n\n" +
			`data: {"type":"content_block_start","content_block":{"type":"text","text":""}}` + "\n\n" +
			`data: {"type":"content_block_delta","delta":{"type":"text_delta","text":"a"}}` + "\n\n", 1, 1, false},
		"legacy completions": {strings.Repeat(`data: {"choices":[{"text":"a"}]}`+"\n\n", 3), 3, 3, false},
		"list of Gemini": {`[{"candidates":[{"content":{"parts":[{"text":"a"}]}}],"usageMetadata":{"promptTokenCount":3}},` +
			`{"candidates":[{"content":{"parts":[{"text":"b"}]}}]},{"candidates":[{"finishReason":"STOP"}]}`, 2, 1, false},
		"list that tells at its end": {`[{"candidates":[{"content":{"parts":[]}}]},{"candidates":[],"usageMetadata":{"promptTokenCount":3}}]`, 1, 0, false},
		"late errors are scanned":    {strings.Repeat(delta, 3) + "data: {\"error\":\"x\"}\n\n", 3, 3, true},
	} {
		_, got := read(t, s, false, c.answer)
		if got.events != c.events || got.after != c.after || got.failed != c.failed {
			t.Errorf("%s: want %+v, got %+v", name, c, got)
		}
	}
}

// TestBytesBeforeTheFirstContentAreTold, however the answer comes in pieces.
func TestBytesBeforeTheFirstContentAreTold(t *testing.T) {
	t.Parallel()
	s := reader.New(t)
	for name, head := range map[string]string{"nothing": "", "a comment": ": ping\r\n\r\n", "responses": responseHead, "usage": usageEvent} {
		answer := head + strings.Repeat(responseDelta, 3)
		for seed := range uint64(4) {
			pieces := split(rand.New(rand.NewPCG(seed, 7)), answer)
			for _, cuts := range []bool{false, true} {
				if _, got := read(t, s, cuts, pieces...); got.head != int64(len(head)) || got.events != 3 {
					t.Errorf("%s, seed %d: want %d bytes before 3 events, got %+v", name, seed, len(head), got)
				}
			}
		}
	}
}

func TestUsageEventNobodyAskedForIsTakenOut(t *testing.T) {
	t.Parallel()
	s := reader.New(t)
	delta := `data: {"choices":[{"delta":{"content":"x"}}],"usage":null}` + "\n\n"
	crlf := strings.ReplaceAll(usageEvent, "\n", "\r\n")
	for name, c := range map[string]struct{ answer, want string }{
		"last":                    {delta + usageEvent + "data: [DONE]\n\n", delta + "data: [DONE]\n\n"},
		"first":                   {usageEvent + delta, delta},
		"CRLF":                    {delta + crlf + "data: [DONE]\r\n\r\n", delta + "data: [DONE]\r\n\r\n"},
		"CR":                      {strings.ReplaceAll(usageEvent, "\n", "\r") + "data: x\r\r", "data: x\r\r"},
		"usage beside content":    {`data: {"choices":[{"delta":{}}],"usage":{"prompt_tokens":1}}` + "\n\n", `data: {"choices":[{"delta":{}}],"usage":{"prompt_tokens":1}}` + "\n\n"},
		"null usage":              {"data: {\"choices\":[],\"usage\":null}\n\n", "data: {\"choices\":[],\"usage\":null}\n\n"},
		"without blank line":      {delta + strings.TrimRight(usageEvent, "\n"), delta},
		"one newline apart":       {"data: {\"choices\":[{}]}\n" + strings.TrimRight(usageEvent, "\n") + "\ndata: [DONE]\n\n", "data: {\"choices\":[{}]}\ndata: [DONE]\n\n"},
		"over lines":              {"data: {\"choices\":[],\ndata: \"usage\":{\"prompt_tokens\":5}}\n\ndata: [DONE]\n\n", "data: [DONE]\n\n"},
		"other lines stay":        {"id: 7\n" + usageEvent + delta, "id: 7\n\n" + delta},
		"comment alive":           {": ping\n" + delta, ": ping\n" + delta},
		"nothing to do":           {delta + "data: [DONE]", delta + "data: [DONE]"},
		"cut in an event":         {delta + `data: {"choices":`, delta + `data: {"choices":`},
		"json":                    {`{"choices":[],"usage":{"prompt_tokens":5}}`, `{"choices":[],"usage":{"prompt_tokens":5}}`},
		"error stays":             {"data: {\"error\":{\"message\":\"x\"}}\n\n", "data: {\"error\":{\"message\":\"x\"}}\n\n"},
		"two documents in a line": {`data: {"choices":[],"usage":{"prompt_tokens":5}}{"choices":[{}]}` + "\n\n", `data: {"choices":[],"usage":{"prompt_tokens":5}}{"choices":[{}]}` + "\n\n"},
	} {
		for seed := range uint64(40) {
			pieces := []string{c.answer}
			if seed > 0 {
				pieces = split(rand.New(rand.NewPCG(seed, 2)), c.answer)
			}
			if got, _ := read(t, s, true, pieces...); got != c.want {
				t.Errorf("%s, split %q:\nwant %q\n got %q", name, pieces, c.want, got)
				break
			}
			if got, _ := read(t, s, false, pieces...); got != c.answer {
				t.Errorf("%s: want it untouched, got %q", name, got)
			}
		}
	}
}

// TestUsageKeepsLittle: what the reader remembers does not grow with the answer.
func TestUsageKeepsLittle(t *testing.T) {
	t.Parallel()
	s := reader.New(t)
	for name, c := range map[string]struct{ head, piece string }{
		"a string":   {`{"a":"`, strings.Repeat("x", 4096)},
		"a name":     {`{"`, strings.Repeat("x", 4096)},
		"a number":   {`{"usage":{"prompt_tokens":`, strings.Repeat("1", 4096)},
		"nesting":    {`{"a":`, strings.Repeat("[", 4096)},
		"in choices": {`{"choices":`, strings.Repeat("[", 4096)},
		"one event":  {"data: {\"a\":\"", strings.Repeat("x", 4096)},
		"one line":   {"event: ", strings.Repeat("x", 4096)},
		"documents":  {"", strings.Repeat("{}", 2048)},
	} {
		one := s.Call(t, "reader", lua.LTrue)
		s.Call(t, "feed", one, lua.LString(c.head))
		for range 50 {
			s.Call(t, "feed", one, lua.LString(c.piece))
		}
		size := 0
		one.(*lua.LTable).ForEach(func(_, v lua.LValue) {
			switch v := v.(type) {
			case lua.LString:
				size += len(v)
			case *lua.LTable:
				v.ForEach(func(_, _ lua.LValue) { size += 16 })
			}
		})
		if size > 1<<10 {
			t.Errorf("%s: keeps %d bytes", name, size)
		}
	}
}

// FuzzUsage holds the script to the model, and every split of an answer to the whole of it.
func FuzzUsage(f *testing.F) {
	for i, seed := range []string{
		usageEvent + "data: [DONE]\n\n", `{"model":"m","usage":{"prompt_tokens":"12","total_tokens":14},"choices":[{"message":{"content":"\\\"usage\\\":{"}}]}`,
		"\xef\xbb\xbf[{\"usageMetadata\":{\"promptTokenCount\":1}}\r\n,{\"error\":{}}]", ": c\r\rdata: {\"choices\":[]\rdata: ,\"usage\":{\"input_tokens\":3}}\r\r",
		"event: message_start\r\ndata: {\"message\":{\"model\":\"m\",\"usage\":{\"input_tokens\":3}}}\r\n\r\n", "data: {\"a\":\"\\\\\\\"\"}\n\n" + usageEvent,
		"data:0\ndata:0\ndata: {\"usage\":null{]}\n\n",
		"data: {\"usage\":null}\n\ndata: {\"usage\": null}\n\ndata: {\"usage\":null,\"choices\":[{\"usage\":{\"prompt_tokens\":3}}]}\n\n",
	} {
		f.Add([]byte(seed), uint64(i))
	}
	s := reader.New(f)
	f.Fuzz(func(t *testing.T, answer []byte, seed uint64) {
		text := string(answer)
		passed, whole := read(t, s, false, text)
		if passed != text {
			t.Errorf("want it untouched, got %q", passed)
		}
		pieces := split(rand.New(rand.NewPCG(seed, 3)), text)
		_, parts := read(t, s, false, pieces...)
		if diff := cmp.Diff(whole.told, parts.told); diff != "" || whole.events != parts.events || whole.after != parts.after ||
			whole.failed != parts.failed || whole.whole != parts.whole || whole.bytes != parts.bytes || whole.made() != parts.made() {
			t.Errorf("split %q: want %+v, got %+v", pieces, whole, parts)
		}
		cut, _ := read(t, s, true, text)
		if again, _ := read(t, s, true, pieces...); again != cut {
			t.Errorf("split %q: want %q passed on, got %q", pieces, cut, again)
		}
		want, ok := model(answer)
		if !ok {
			return
		}
		if diff := cmp.Diff(want.told, whole.told); diff != "" || want.failed != whole.failed || want.whole != whole.whole {
			t.Errorf("want %+v, got %+v in %q", want, whole, text)
		}
	})
}

func BenchmarkUsage(b *testing.B) {
	s := reader.New(b)
	delta := `data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"gpt-4o","choices":[{"index":0,"delta":{"content":"word"},"finish_reason":null}]}` + "\n\n"
	pieces := make([]string, 50)
	for i := range pieces {
		pieces[i] = delta
	}
	for b.Loop() {
		if _, r := read(b, s, true, pieces...); r.events != 50 {
			b.Fatal(fmt.Sprint(r))
		}
	}
}
