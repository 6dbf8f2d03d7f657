package xds_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

const (
	chatPath  = "/v1/chat/completions"
	genPath   = "/v1beta/models/gemini-2.5-flash:generateContent"
	streaming = "/v1beta/models/gemini-2.5-flash:streamGenerateContent"
)

// body is a chat body with more members, each with its comma in front.
func body(more string) string {
	return `{"model":"gpt-4o","messages":[{"role":"user","content":"hi"}]` + more + `}`
}

func TestGuardRefusesWhatParsersReadDifferently(t *testing.T) {
	t.Parallel()
	g := start(t, nil, nil)
	for name, c := range map[string]struct {
		path, body, want string
		status           int
		headers          []string
		param            string // the member that OpenAI's error names
	}{
		"text plain":          {body: body(""), headers: []string{"Content-Type", "text/plain"}, want: "content-type"},
		"no content type":     {body: body(""), headers: []string{"Content-Type", ""}, want: "content-type"},
		"json lookalike type": {body: body(""), headers: []string{"Content-Type", "application/jsonx"}, want: "content-type"},
		"gzip":                {body: body(""), headers: []string{"Content-Encoding", "gzip"}, status: 415, want: "uncompressed"},
		"no body":             {want: "no body"},
		"not json":            {body: "hello", want: "not a JSON object"},
		"array":               {body: `[{"model":"gpt-4o"}]`, want: "not a JSON object"},
		"string":              {body: `"gpt-4o"`, want: "not a JSON object"},
		"cut":                 {body: `{"model":"gpt-4o"`, want: "not a JSON object"},
		"two documents":       {body: body("") + body(`,"max_tokens":9`), want: "not a JSON object"},
		"trailing comma":      {body: body(`,`), want: "not a JSON object"},
		"comment":             {body: `{"model":"gpt-4o",/* " */"max_tokens":5,/* " */"n":1}`, want: "not a JSON object"},
		"comment in a list":   {body: body(`,"x":[ /* " */ 1], "max_tokens":5, "y":[" */ 1]`), want: "not a JSON object"},
		"crossed brackets":    {body: body(`,"x":[{]}`), want: "not a JSON object"},
		"missing colon":       {body: body(`,"x" 1`), want: "not a JSON object"},
		"bare word":           {body: body(`,"x":NaN`), want: "not a JSON object"},
		"leading zero":        {body: body(`,"x":01`), want: "not a JSON object"},
		"plus":                {body: body(`,"x":+1`), want: "not a JSON object"},
		"too deep":            {body: body(`,"x":` + strings.Repeat("[", 300) + strings.Repeat("]", 300)), want: "not a JSON object"},
		"too many members":    {body: body(members(300)), want: "more than 256 members"},
		"NaN says where":      {body: body(`,"x":[1,NaN]`), want: "unexpected NaN at byte 70", param: "x"},
		"control says where":  {body: body(",\x00"), want: "unexpected byte 0x00 at byte"},
		"cut says where":      {body: `{"model":"gpt-4o"`, want: "it ends in the middle of a value, after 17 bytes"},
		"another charset":     {body: body(""), headers: []string{"Content-Type", "application/json; charset=utf-7"}, want: "charset must be utf-8"},
		"charset, quoted": {body: body(""), headers: []string{"Content-Type", `application/json; Charset = "UTF-16"`},
			want: "charset must be utf-8"},
		"charset twice": {body: body(""), headers: []string{"Content-Type", "application/json;charset=utf-8;charset=utf-7"},
			want: "charset must be utf-8"},
		"kelvin sign":         {body: body(",\"max_completion_to\u212aens\":3000"), want: "is not ASCII"},
		"long s":              {body: body(",\"\u017ftream\":true"), want: "is not ASCII"},
		"dotless i":           {body: body(",\"stream_opt\u0131ons\":{}"), want: "is not ASCII"},
		"ligature":            {body: body(",\"\ufb06ream\":true"), want: "is not ASCII"},
		"full width":          {body: body(",\"\uff4e\":2"), want: "is not ASCII"},
		"kelvin in Gemini":    {path: genPath, body: "{\"generationConfig\":{\"maxOutputTo\u212aens\":9}}", want: "is not ASCII"},
		"long s in options":   {body: body(",\"stream_options\":{\"include_u\u017fage\":true}"), want: "stream_options: the name of a member is not ASCII"},
		"no model":            {body: `{"messages":[]}`, want: "model is missing", param: "model"},
		"empty model":         {body: `{"model":""}`, want: "model is missing", param: "model"},
		"null model":          {body: `{"model":null}`, want: "model is missing", param: "model"},
		"model is a number":   {body: `{"model":5}`, want: "model must be a string"},
		"escape in model":     {body: `{"model":"gpt\u002d4o"}`, want: "not a model's name"},
		"duplicate model":     {body: body(`,"model":"gpt-4o-mini"`), want: "duplicate member: model", param: "model"},
		"duplicate in case":   {body: body(`,"Model":"gpt-4o-mini"`), want: "duplicate member: Model"},
		"escaped duplicate":   {body: body(`,"mod\u0065l":"gpt-4o-mini"`), want: "escapes in the name"},
		"other case alone":    {body: body(`,"N":100`), want: "did you mean n?"},
		"max twice":           {body: body(`,"max_tokens":5,"max_tokens":6`), want: "duplicate member"},
		"both spellings":      {body: body(`,"max_tokens":5,"max_completion_tokens":6`), want: "they differ"},
		"negative":            {body: body(`,"max_tokens":-1`), want: "max_tokens must be an integer"},
		"zero":                {body: body(`,"max_tokens":0`), want: "max_tokens must be an integer"},
		"text":                {body: body(`,"max_tokens":"5"`), want: "max_tokens must be an integer"},
		"exponent":            {body: body(`,"max_tokens":1e3`), want: "max_tokens must be an integer"},
		"float":               {body: body(`,"max_tokens":5.0`), want: "max_tokens must be an integer"},
		"10^18":               {body: body(`,"max_tokens":1000000000000000000`), want: "max_tokens must be an integer"},
		"10^30":               {body: body(`,"max_tokens":1000000000000000000000000000000`), want: "max_tokens must be an integer"},
		"2^31":                {body: body(`,"max_tokens":2147483648`), want: "max_tokens must be an integer"},
		"list":                {body: body(`,"max_tokens":[5]`), want: "max_tokens must be an integer"},
		"completion text":     {body: body(`,"max_completion_tokens":"5"`), want: "max_completion_tokens must be"},
		"n zero":              {body: body(`,"n":0`), want: "n must be an integer from 1 to 128", param: "n"},
		"n 129":               {body: body(`,"n":129`), want: "n must be an integer from 1 to 128", param: "n"},
		"n float":             {body: body(`,"n":1.5`), want: "n must be an integer"},
		"stream text":         {body: body(`,"stream":"true"`), want: "stream must be true or false", param: "stream"},
		"stream number":       {body: body(`,"stream":1`), want: "stream must be true or false", param: "stream"},
		"stream options list": {body: body(`,"stream_options":[]`), want: "stream_options must be an object"},
		"usage twice": {body: body(`,"stream_options":{"include_usage":true,"include_usage":false}`),
			want: "stream_options: duplicate"},
		"usage text":        {body: body(`,"stream_options":{"include_usage":"no"}`), want: "include_usage must be true or false", param: "stream_options.include_usage"},
		"gemini text plain": {path: genPath, body: `{}`, headers: []string{"Content-Type", "text/plain"}, want: "content-type"},
		"gemini list":       {path: genPath, body: `[]`, want: "not a JSON object"},
		"gemini both spellings": {path: genPath, body: `{"generationConfig":{},"generation_config":{}}`,
			want: "both generationConfig and generation_config"},
		"gemini config twice": {path: genPath, body: `{"generationConfig":{},"generationConfig":{}}`, want: "duplicate member"},
		"gemini config list":  {path: genPath, body: `{"generationConfig":[]}`, want: "generationConfig must be an object"},
		"gemini max twice": {path: genPath, body: `{"generationConfig":{"maxOutputTokens":5,"maxOutputTokens":6}}`,
			want: "generationConfig: duplicate"},
		"gemini two maxima": {path: genPath, body: `{"generationConfig":{"maxOutputTokens":5,"max_output_tokens":6}}`, want: "they differ"},
		"gemini max text":   {path: genPath, body: `{"generationConfig":{"maxOutputTokens":"5"}}`, want: "maxOutputTokens must be"},
		"gemini candidates": {path: genPath, body: `{"generationConfig":{"candidateCount":0}}`, want: "candidateCount must be"},
		"gemini escape":     {path: genPath, body: `{"generationConfi\u0067":{"maxOutputTokens":5}}`, want: "escapes in the name"},
	} {
		t.Run(name, func(t *testing.T) {
			path, status := c.path, c.status
			if path == "" {
				path = chatPath
			}
			if status == 0 {
				status = 400
			}
			reached := g.back.count()
			a := g.do(t, "POST", path, c.body, c.headers...)
			if a.status != status || !strings.Contains(a.body, c.want) {
				t.Errorf("want %d with %q, got %d %s", status, c.want, a.status, a.body)
			}
			if c.param != "" && !strings.Contains(a.body, `"param":"`+c.param+`"`) {
				t.Errorf("want the error to name %s, got %s", c.param, a.body)
			}
			if a.header.Get("x-should-retry") != "false" || !strings.Contains(a.body, a.header.Get("x-request-id")) {
				t.Errorf("want x-should-retry: false and the request id in the message, got %v %s", a.header, a.body)
			}
			if !json.Valid([]byte(a.body)) {
				t.Errorf("the refusal is not JSON: %s", a.body)
			}
			if got := g.back.count(); got != reached {
				t.Errorf("%d refused calls reached the provider", got-reached)
			}
		})
	}
	if n := g.limit.count(); n != 0 {
		t.Errorf("want no question to ratelimit for refused bodies, got %d", n)
	}
}

func members(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `,"k%d":%d`, i, i)
	}
	return b.String()
}

func TestGuardStatesTheFacts(t *testing.T) {
	t.Parallel()
	g := start(t, nil, nil)
	const who = ",user=u-1,org=-,team=red,key=k-1,tier=USER"
	for name, c := range map[string]struct{ path, body, want string }{
		"nothing stated": {chatPath, body(""), "route=openai-chat,provider=openai,model=gpt-4o,max_tokens=-,max_completion_tokens=-,n=-,stream=-,include_usage=-"},
		"all stated": {chatPath, body(`,"max_tokens":7,"max_completion_tokens":7,"n":2,"stream":true,"stream_options":{"include_usage":false}`),
			"route=openai-chat,provider=openai,model=gpt-4o,max_tokens=7,max_completion_tokens=7,n=2,stream=true,include_usage=false"},
		"nulls are nothing": {chatPath, body(`,"max_tokens":null,"n":null,"stream":null,"stream_options":null`),
			"route=openai-chat,provider=openai,model=gpt-4o,max_tokens=-,max_completion_tokens=-,n=-,stream=-,include_usage=-"},
		"white space": {chatPath, " \r\n\t{ \"model\" :\t\"gpt-4o\" , \"max_tokens\" : 2147483647\n}\n \n",
			"route=openai-chat,provider=openai,model=gpt-4o,max_tokens=2147483647,max_completion_tokens=-,n=-,stream=-,include_usage=-"},
		"provider/model": {chatPath, `{"model":"openai/gpt-4o-mini"}`,
			"route=openai-chat,provider=openai,model=openai/gpt-4o-mini,max_tokens=-,max_completion_tokens=-,n=-,stream=-,include_usage=-"},
		"escaped slash": {chatPath, `{"model":"qwen\/qwen-plus"}`,
			"route=openai-chat,provider=qwen,model=qwen/qwen-plus,max_tokens=-,max_completion_tokens=-,n=-,stream=-,include_usage=-"},
		"facts in a string": {chatPath, body(`,"x":"\\\",\"max_tokens\":9,{[\\\\"`),
			"route=openai-chat,provider=openai,model=gpt-4o,max_tokens=-,max_completion_tokens=-,n=-,stream=-,include_usage=-"},
		"facts inside": {chatPath, body(`,"metadata":{"max_tokens":9,"model":"x","a":[{},[],{"b":[1,-2.5e+10,true,false,null,""]}]}`),
			"route=openai-chat,provider=openai,model=gpt-4o,max_tokens=-,max_completion_tokens=-,n=-,stream=-,include_usage=-"},
		"large integer": {chatPath, body(`,"seed":18446744073709551616`),
			"route=openai-chat,provider=openai,model=gpt-4o,max_tokens=-,max_completion_tokens=-,n=-,stream=-,include_usage=-"},
		"embeddings": {"/v1/embeddings", `{"model":"text-embedding-3-small","input":[1,2,3]}`,
			"route=openai-embeddings,provider=openai,model=text-embedding-3-small,max_tokens=-,max_completion_tokens=-,n=-,stream=-,include_usage=-"},
		"compatible mode": {"/compatible-mode/v1/chat/completions", `{"model":"qwen-max","max_tokens":3}`,
			"route=qwen-chat,provider=qwen,model=qwen-max,max_tokens=3,max_completion_tokens=-,n=-,stream=-,include_usage=-"},
		"gemini": {genPath, `{"contents":[],"generationConfig":{"maxOutputTokens":9,"candidateCount":2}}`,
			"route=gemini-generate,provider=gemini,model=gemini-2.5-flash,max_tokens=9,max_completion_tokens=-,n=2,stream=false,include_usage=-"},
		"gemini snake": {genPath, `{"generation_config":{"max_output_tokens":9,"maxOutputTokens":9}}`,
			"route=gemini-generate,provider=gemini,model=gemini-2.5-flash,max_tokens=9,max_completion_tokens=-,n=-,stream=false,include_usage=-"},
		"gemini stream": {streaming + "?alt=sse", `{}`, "route=gemini-stream,provider=gemini,model=gemini-2.5-flash,max_tokens=-,max_completion_tokens=-,n=-,stream=true,include_usage=-"},
	} {
		t.Run(name, func(t *testing.T) {
			a := g.do(t, "POST", c.path, c.body, "Content-Type", "application/json; charset=utf-8")
			if a.status != 200 {
				t.Fatalf("want 200, got %d %s", a.status, a.body)
			}
			want := "hold=" + a.header.Get("x-request-id") + "," + c.want + fmt.Sprintf(",bytes=%d,parts=-", len(c.body)) + who
			if got := g.limit.last(); len(got) == 0 || got[0] != want {
				t.Errorf("want descriptor\n%s, got\n%v", want, got)
			}
			if got := g.back.last(t).body; got != c.body {
				t.Errorf("the body changed on its way: want %s, got %s", c.body, got)
			}
		})
	}
}

func TestGuardTakesChunkedBodies(t *testing.T) {
	t.Parallel()
	g := start(t, nil, nil)
	reader, writer := io.Pipe()
	go func() {
		for _, part := range []string{`{"model":"gpt`, `-4o","max_tok`, `ens":7}`} {
			io.WriteString(writer, part)
		}
		writer.Close()
	}()
	req, err := http.NewRequestWithContext(t.Context(), "POST", g.url+chatPath, reader)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", goodKey)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if got := g.limit.last(); resp.StatusCode != 200 || len(got) == 0 || !strings.Contains(got[0], "max_tokens=7,") ||
		!strings.Contains(got[0], "bytes=33,") {
		t.Errorf("want the facts of a chunked body, got %d %v", resp.StatusCode, got)
	}
}

// TestGuardAgreesWithGo mutates bodies: whatever the guard lets pass is JSON to Go's
// parser too, and says to it what the guard stated.
func TestGuardAgreesWithGo(t *testing.T) {
	t.Parallel()
	g := start(t, nil, nil)
	pieces := []string{`"`, `\`, `{`, `}`, `[`, `]`, `,`, `:`, ` `, `1`, `-`, `.`, `e`, `null`, `true`, `"max_tokens"`, `"max_tokens":77`,
		`"n":3`, "\n", "/*", `"a":{"b":[1]}`, `"messages":[{"content":[{"image_url":{"url":"x"}},{"type":"file"}]}]`,
		`"tools":[{"type":"x"}]`, `"data"`, `"image_url"`}
	base := body(`,"max_tokens":12,"x":[{"a":"b\"c"},1.5e3,null],"stream":false`)
	passed := 0
	rapid.Check(t, func(r *rapid.T) {
		text := base
		for range rapid.IntRange(0, 3).Draw(r, "edits") {
			at := rapid.IntRange(0, len(text)).Draw(r, "at")
			cut := rapid.IntRange(0, min(3, len(text)-at)).Draw(r, "cut")
			text = text[:at] + rapid.SampledFrom(pieces).Draw(r, "piece") + text[at+cut:]
		}
		a := g.do(t, "POST", chatPath, text)
		switch a.status {
		case 400, 404:
			return
		case 200:
		default:
			r.Fatalf("want 200, 400 or 404, got %d %s for %s", a.status, a.body, text)
		}
		passed++
		var parsed struct {
			Model     string
			MaxTokens *int `json:"max_tokens"`
			N         *int
		}
		if err := json.Unmarshal([]byte(text), &parsed); err != nil && !inString(err) {
			r.Fatalf("the guard let pass %s: %v", text, err)
		} else if err != nil {
			return
		}
		want := "max_tokens=-,"
		if parsed.MaxTokens != nil {
			want = fmt.Sprintf("max_tokens=%d,", *parsed.MaxTokens)
		}
		if got := g.limit.last()[0]; !strings.Contains(got, ","+want) || !strings.Contains(got, "model="+parsed.Model+",") {
			r.Fatalf("want %s and model %s in %s for %s", want, parsed.Model, got, text)
		}
	})
	if passed == 0 {
		t.Error("no body passed: nothing was compared")
	}
}

// inString reports an error about what is inside a string, which the guard leaves to the
// provider: it does not change where the string ends.
func inString(err error) bool {
	return strings.Contains(err.Error(), "in string")
}
