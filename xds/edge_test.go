package xds_test

import (
	"bufio"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
)

func TestEdgeStripsWhatClientsMustNotSay(t *testing.T) {
	t.Parallel()
	g := start(t, nil, nil)
	forged := []string{"X-Request-Id", "11111111-1111-4111-8111-111111111111", "X-Leaky-Identity", "forged", "X-User-Id", "root",
		"x-user-roles", "ADMIN", "X-Org-Id", "o", "x-leaky-hold", "1",
		"x-leaky-anything", "1", "X-Quota-Left", "1", "x-envoy-retry-on", "5xx", "x-envoy-upstream-rq-timeout-ms", "1", "x-envoy-original-path",
		"/x", "X-Forwarded-Client-Cert", "By=x", "Cookie", "a=b"}
	// Compressed answers could not be metered, and the others choose which account of ours pays.
	hidden := []string{"Accept-Encoding", "gzip, br", "Openai-Organization", "org-x", "Openai-Project", "p", "X-Goog-User-Project", "p",
		"X-Dashscope-Workspace", "w"}
	for path, c := range map[string]struct{ method, body, identity string }{
		"/api/v1/tokens/status":            {"GET", "", "signed-for-tokensvc"},
		"/api/v1/analytics/usage":          {"GET", "", "signed-for-analytics"},
		"/api/v1/me":                       {"GET", "", "signed-for-identity"},
		"/v1/models":                       {"GET", "", "signed-for-tokensvc"},
		"/api/v1/openai/chat":              {"POST", "{}", ""},
		chatPath:                           {"POST", body(""), ""},
		genPath:                            {"POST", "{}", ""},
		streaming + "?alt=sse&key=leaky_x": {"POST", "{}", ""},
	} {
		a := g.do(t, c.method, path, c.body, slices.Concat(forged, hidden)...)
		if a.status != 200 {
			t.Fatalf("%s: want 200, got %d %s", path, a.status, a.body)
		}
		got := g.back.last(t)
		if got.header.Get(attributes.HeaderIdentity) != c.identity {
			t.Errorf("%s: want identity %q, got %q", path, c.identity, got.header.Get(attributes.HeaderIdentity))
		}
		for i := 2; i < len(forged); i += 2 {
			name := http.CanonicalHeaderKey(forged[i])
			if v := got.header.Get(name); v == forged[i+1] && (name != "Cookie" || c.method == "POST" && path[:3] == "/v1") {
				t.Errorf("%s: %s: %s reached the service", path, name, v)
			}
		}
		if id := a.header.Get("x-request-id"); id == forged[1] || got.header.Get("x-request-id") != id || id == "" {
			t.Errorf("%s: want a request id of our own, got %q and %q at the service", path, id, got.header.Get("x-request-id"))
		}
		for _, name := range []string{"Authorization", "X-Api-Key", "X-Goog-Api-Key"} {
			if got.header.Get(name) != "" {
				t.Errorf("%s: %s reached the service", path, name)
			}
		}
		if strings.Contains(got.uri, "key=") {
			t.Errorf("%s: the key in the query reached the provider: %s", path, got.uri)
		}
		for i := 0; i < len(hidden); i += 2 {
			if (path == chatPath || path == genPath || strings.HasPrefix(path, streaming)) && got.header.Get(hidden[i]) != "" {
				t.Errorf("%s: %s reached the provider: %q", path, hidden[i], got.header.Get(hidden[i]))
			}
		}
		if strings.HasPrefix(path, "/v1/chat") && (got.header.Get("X-Forwarded-For") != "" || got.header.Get("X-Envoy-External-Address") != "") {
			t.Errorf("%s: the client's address reached the provider: %v", path, got.header)
		}
	}
}

func TestEveryAnswerCarriesTheCommonHeaders(t *testing.T) {
	t.Parallel()
	g := start(t, nil, nil)
	for name, c := range map[string]struct {
		method, path, body string
		headers            []string
		status             int
	}{
		"service":   {"GET", "/api/v1/me", "", nil, 200},
		"provider":  {"POST", chatPath, body(""), nil, 200},
		"anonymous": {"GET", "/api/v1/me", "", []string{"Authorization", ""}, 401},
		"guard":     {"POST", chatPath, `{}`, nil, 400},
		"no model":  {"POST", chatPath, `{"model":"x"}`, nil, 404},
		"no path":   {"GET", "/nowhere", "", nil, 404},
		"method":    {"PUT", chatPath, "{}", nil, 405},
		"bad path":  {"GET", "/v1%2fmodels", "", nil, 400},
	} {
		a := g.do(t, c.method, c.path, c.body, c.headers...)
		if a.status != c.status {
			t.Errorf("%s: want %d, got %d %s", name, c.status, a.status, a.body)
		}
		for header, want := range httpapi.SecurityHeaders() {
			if got := a.header.Values(header); len(got) != 1 || got[0] != want {
				t.Errorf("%s: want %s: %s once, got %v", name, header, want, got)
			}
		}
		if strings.HasPrefix(name, "bad") {
			continue // refused before the request has an id
		}
		if got := a.header.Values("x-correlation-id"); len(got) != 1 || got[0] != a.header.Get("x-request-id") {
			t.Errorf("%s: want the request's id as correlation id, got %v", name, got)
		}
	}
	for sent, kept := range map[string]bool{"a.B:c-1_2": true, strings.Repeat("x", 128): true, strings.Repeat("x", 129): false, "a b": false,
		"a/b": false, `"`: false} {
		a := g.do(t, "GET", "/api/v1/me", "", "X-Correlation-Id", sent)
		want := sent
		if !kept {
			want = a.header.Get("x-request-id")
		}
		if got := a.header.Get("x-correlation-id"); got != want || g.back.last(t).header.Get("x-correlation-id") != want {
			t.Errorf("sent %q: want %q, got %q and %q at the service", sent, want, got, g.back.last(t).header.Get("x-correlation-id"))
		}
	}
}

func TestErrorsHaveTheShapeOfTheirFamily(t *testing.T) {
	t.Parallel()
	g := start(t, func(c *config.Config) {
		for name, p := range c.Providers {
			p.URL = "http://127.0.0.1:1/custom" // nobody listens, and the path is rewritten
			c.Providers[name] = p
		}
		c.Services.Analytics.HTTP = "127.0.0.1:1"
		c.Services.Identity.HTTP = "127.0.0.1:1"
	}, nil)
	for name, c := range map[string]struct {
		method, path, body, family, kind, code string
		status                                 int
	}{
		"openai model": {"POST", chatPath, `{"model":"gpt-9"}`, attributes.FamilyOpenAI, "invalid_request_error", "model_not_found", 404},
		"embedding for chat": {"POST", chatPath, `{"model":"text-embedding-3-small"}`, attributes.FamilyOpenAI, "invalid_request_error",
			"model_not_found", 404},
		"gemini on openai": {"POST", chatPath, `{"model":"gemini-2.5-flash"}`, attributes.FamilyOpenAI, "invalid_request_error",
			"model_not_found", 404},
		"other's model": {"POST", chatPath, `{"model":"qwen/gpt-4o"}`, attributes.FamilyOpenAI, "invalid_request_error", "model_not_found",
			404},
		"qwen only": {"POST", "/compatible-mode/v1/chat/completions", `{"model":"gpt-4o"}`, attributes.FamilyOpenAI,
			"invalid_request_error", "model_not_found", 404},
		"openai down":      {"POST", chatPath, body(""), attributes.FamilyOpenAI, "server_error", "", 503},
		"openai path":      {"GET", "/v1/nowhere", "", attributes.FamilyOpenAI, "invalid_request_error", "", 404},
		"openai method":    {"GET", chatPath, "", attributes.FamilyOpenAI, "invalid_request_error", "", 405},
		"gemini model":     {"POST", "/v1beta/models/gemini-9:generateContent", "{}", attributes.FamilyGemini, "NOT_FOUND", "", 404},
		"gemini model, v1": {"POST", "/v1/models/gemini-9:generateContent", "{}", attributes.FamilyGemini, "NOT_FOUND", "", 404},
		"gemini, v1, GET":  {"GET", "/v1/models/gemini-2.5-flash:generateContent", "", attributes.FamilyGemini, "UNIMPLEMENTED", "", 405},
		"gemini verb":      {"POST", "/v1beta/models/gemini-2.5-flash:predict", "{}", attributes.FamilyGemini, "NOT_FOUND", "", 404},
		"gemini list":      {"POST", streaming, "{}", attributes.FamilyGemini, "UNAVAILABLE", "", 503},
		"gemini down":      {"POST", genPath, "{}", attributes.FamilyGemini, "UNAVAILABLE", "", 503},
		"problem path":     {"GET", "/nowhere", "", attributes.FamilyProblem, "", "", 404},
		"service down":     {"GET", "/api/v1/analytics/usage?x=1", "", familyFallback, "", "analytics", 503},
		"fallback":         {"DELETE", "/fallback/tokensvc", "", familyFallback, "", "tokensvc", 503},
		"fallback of old":  {"GET", "/fallback/token-service?x=1", "", familyFallback, "", "token-service", 503},
		"fallback of none": {"GET", "/fallback/nobody", "", attributes.FamilyProblem, "", "", 404},
		"oauth down":       {"POST", "/oauth2/token", "", attributes.FamilyOAuth, "", "temporarily_unavailable", 503},
		"key set down":     {"GET", "/oauth2/jwks?x=1", "", attributes.FamilyOAuth, "", "temporarily_unavailable", 503},
		"metadata down":    {"GET", "/.well-known/openid-configuration", "", attributes.FamilyOAuth, "", "temporarily_unavailable", 503},
		"sign-in down":     {"GET", "/oauth2/authorize?x=1", "", attributes.FamilyPage, "", "", 503},
		"device page down": {"POST", "/oauth2/device", "", attributes.FamilyPage, "", "", 503},
		"case matters":     {"POST", "/V1/chat/completions", body(""), attributes.FamilyProblem, "", "", 404},
		"validate is ours": {"GET", "/api/v1/auth/api-keys/validate", "", attributes.FamilyProblem, "", "", 404},
	} {
		t.Run(name, func(t *testing.T) {
			a := g.do(t, c.method, c.path, c.body)
			if a.status != c.status {
				t.Fatalf("want %d, got %d %s", c.status, a.status, a.body)
			}
			checkShape(t, a, c.family, c.kind, c.code, c.path)
			if c.status == 503 && a.header.Get("retry-after") == "" {
				t.Errorf("want retry-after, got %v", a.header)
			}
			if strings.Contains(a.body, "127.0.0.1") {
				t.Errorf("the answer names an upstream: %s", a.body)
			}
		})
	}
}

// TestAnUnknownModelIsNamed: with where the list is, and no more of the name than a message bears.
func TestAnUnknownModelIsNamed(t *testing.T) {
	t.Parallel()
	g := start(t, nil, nil)
	for name, c := range map[string]struct{ path, body, want, not string }{
		"openai":  {chatPath, `{"model":"gpt-9"}`, "the model gpt-9 does not exist", ""},
		"qwen":    {"/compatible-mode/v1/chat/completions", `{"model":"gpt-4o"}`, "the model gpt-4o does not exist", ""},
		"quoting": {chatPath, `{"model":"a'<b>"}`, "the model a'<b> does not exist", ""},
		"long":    {chatPath, `{"model":"` + strings.Repeat("x", 200) + `"}`, strings.Repeat("x", 90), strings.Repeat("x", 101)},
		"gemini":  {"/v1beta/models/gemini-9:generateContent?key=leaky_secret", "{}", "/v1beta/models/gemini-9:generateContent", "secret"},
	} {
		a := g.do(t, "POST", c.path, c.body)
		var b struct{ Error struct{ Message string } }
		if err := json.Unmarshal([]byte(a.body), &b); err != nil {
			t.Fatalf("%s: %v in %s", name, err, a.body)
		}
		if a.status != 404 || !strings.Contains(b.Error.Message, c.want) || !strings.Contains(b.Error.Message, "GET /v1/models lists") ||
			c.not != "" && strings.Contains(a.body, c.not) {
			t.Errorf("%s: got %d %s", name, a.status, a.body)
		}
	}
}

func checkShape(t *testing.T, a answer, family, kind, code, path string) {
	t.Helper()
	switch family {
	case attributes.FamilyPage:
		if !strings.Contains(a.body, "<h1>"+http.StatusText(a.status)) || a.header.Get("content-type") != "text/html; charset=utf-8" {
			t.Errorf("want a page, got %s", a.body)
		}
		return
	case attributes.FamilyOAuth:
		checkOAuth(t, a, code, path)
		return
	}
	var b struct {
		Error struct {
			Message, Type, Status string
			Code                  any
		}
		Type, Title, Detail, Instance, Message, Path string
		Status                                       any
		Timestamp                                    time.Time
	}
	if err := json.Unmarshal([]byte(a.body), &b); err != nil {
		t.Fatalf("%s: %v", a.body, err)
	}
	switch family {
	case attributes.FamilyOpenAI:
		if got, _ := b.Error.Code.(string); b.Error.Type != kind || got != code || b.Error.Message == "" ||
			a.header.Get("content-type") != "application/json" {
			t.Errorf("want OpenAI's shape with %s %s, got %s", kind, code, a.body)
		}
	case attributes.FamilyGemini:
		if b.Error.Status != kind || b.Error.Code != float64(a.status) || b.Error.Message == "" ||
			a.header.Get("content-type") != "application/json" {
			t.Errorf("want Gemini's shape with %s, got %s", kind, a.body)
		}
	case familyFallback:
		checkFallback(t, a, code, path)
	default:
		path, _, _ = strings.Cut(path, "?")
		if b.Status != float64(a.status) || b.Title != http.StatusText(a.status) || b.Detail == "" || b.Message != b.Detail ||
			b.Instance != path || b.Path != path || b.Timestamp.IsZero() || a.header.Get("content-type") != "application/problem+json" {
			t.Errorf("want a problem for %s, got %s", path, a.body)
		}
	}
	if !strings.Contains(a.body, a.header.Get("x-request-id")) {
		t.Errorf("want the request id in %s", a.body)
	}
}

func checkOAuth(t *testing.T, a answer, code, path string) {
	t.Helper()
	var b struct {
		Error       string
		Description string `json:"error_description"`
		Path        string
		Status      int
	}
	path, _, _ = strings.Cut(path, "?")
	if err := json.Unmarshal([]byte(a.body), &b); err != nil || b.Error != code || b.Description == "" || b.Path != path ||
		b.Status != a.status || a.header.Get("content-type") != "application/json" {
		t.Errorf("want the error %s of OAuth2 with a problem's members, got %v %s", code, a.header, a.body)
	}
}

// familyFallback is the shape of an answer for a service that does not answer.
const familyFallback = "fallback"

func checkFallback(t *testing.T, a answer, service, path string) {
	t.Helper()
	var b struct {
		Service, Status, Message, Path string
		Timestamp                      time.Time
	}
	path, _, _ = strings.Cut(path, "?")
	if err := json.Unmarshal([]byte(a.body), &b); err != nil || b.Service != service || b.Status != "unavailable" ||
		b.Message != "Circuit breaker open" || b.Path != path ||
		b.Timestamp.IsZero() || a.status != 503 || a.header.Get("content-type") != "application/json" || a.header.Get("retry-after") == "" {
		t.Errorf("want the fallback of %s, got %d %v %s", service, a.status, a.header, a.body)
	}
}

// TestAServiceThatSaysNothingGetsTheFallback: what a service says itself passes.
func TestAServiceThatSaysNothingGetsTheFallback(t *testing.T) {
	t.Parallel()
	g := start(t, nil, nil)
	for name, c := range map[string]struct {
		status   int
		body     string
		fallback bool
	}{
		"503 without a body": {503, "", true}, "504 without a body": {504, "", true}, "503 with one": {503, `{"mine":true}`, false},
		"502 without a body": {502, "", false}, "502 with one": {502, `{"mine":true}`, false}, "500": {500, "", false}, "404": {404, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			g.back.set(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(c.status)
				io.WriteString(w, c.body)
			})
			a := g.do(t, "GET", "/api/v1/tokens/quota", "")
			if c.fallback {
				checkFallback(t, a, "tokensvc", "/api/v1/tokens/quota")
			} else if a.status != c.status || a.body != c.body {
				t.Errorf("want %d %q as the service said it, got %d %q", c.status, c.body, a.status, a.body)
			}
			if got := a.header.Values("x-frame-options"); len(got) != 1 {
				t.Errorf("want the common headers once, got %v", a.header)
			}
		})
	}
	g.back.set(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) })
	if a := g.do(t, "POST", chatPath, body("")); a.status != 503 || strings.Contains(a.body, "Circuit") {
		t.Errorf("want a provider's answer to stay its own, got %+v", a)
	}
}

func TestUnknownCallersAndPaths(t *testing.T) {
	t.Parallel()
	g := start(t, nil, nil)
	for path, want := range map[string][2]int{ // anonymous, known
		"/":                                    {200, 200},
		"/docs":                                {200, 200},
		"/docs/swagger-ui.css":                 {200, 200},
		"/docs/../v1/nowhere":                  {401, 404},
		"/v3/api-docs":                         {200, 200},
		"/swagger-ui/index.html":               {200, 200},
		"/swagger-ui.html":                     {200, 200},
		"/nowhere":                             {401, 404},
		"/v1/models/gpt-4o":                    {401, 200},
		"/v1/models/openai/gpt-4o":             {401, 200},
		"/v1/nowhere":                          {401, 404},
		"/v1beta/nowhere":                      {401, 404},
		"/V1/models":                           {401, 404},
		"/v1/models":                           {401, 200},
		"//v1//models":                         {401, 200}, // merged before anyone looks
		"/v1/x/../models":                      {401, 200},
		"/v1/x/%2e%2e/models":                  {401, 200},
		"/v1/models;x":                         {401, 400},
		"/v1/models%3bx":                       {401, 400},
		"/v1%2fmodels":                         {400, 400},
		"/v1%5cmodels":                         {400, 400},
		"/v1/models%00":                        {400, 400},
		"/v1/models#x":                         {400, 400},
		"/api/v1/auth/login":                   {200, 200},
		"/api/v1/auth/../tokens/status":        {401, 200},
		"/api/v1/auth/..;/tokens/status":       {401, 200},
		"/api/v1/auth/%2e%2e/tokens/status":    {401, 200},
		"/api/v1/auth/..%2ftokens/status":      {400, 400},
		"/api/v1/auth/.%2e/tokens/status":      {401, 200},
		"/api/v1/auth/x;/../../../tokens/":     {401, 404},
		`/api/v1/auth\..\tokens/status`:        {401, 200}, // read as slashes before anyone looks
		`/api/v1/auth/..\tokens/status`:        {401, 200},
		"/api/v1/auth/%2e%2e;/tokens/status":   {401, 400},
		"/fallback/..;/internal/revocations":   {401, 404},
		"/oauth2/jwks":                         {200, 200},
		"/oauth2/userinfo":                     {200, 200}, // identity itself looks
		"/oauth2/authorize?x=1":                {200, 200},
		"/oauth2":                              {401, 404},
		"/internal/revocations":                {401, 404},
		"/api/v1/admin/pools/grant":            {401, 200},
		"/fallback/identity":                   {401, 503},
		"/.well-known/openid-configuration":    {200, 200},
		"/api/v1/tokens/status":                {401, 200},
		"/api/v1/admin/users":                  {401, 200},
		"/api/v1/orgs":                         {401, 200},
		"/api/v1/qwen/chat":                    {401, 200},
		"/api/v1/auth/api-keys/validate":       {404, 404},
		"/api/v1/auth//api-keys/./validate":    {404, 404},
		"/api/v1/auth/api-keys/x/..//validate": {404, 404},
		"/api/v1/auth/api-keys/validate;x=1":   {401, 400},
		"/actuator/health":                     {200, 200},
		"/actuator/health/readiness":           {200, 200},
		"/actuator/info":                       {200, 200},
		"/actuator/prometheus":                 {401, 404},
		"/actuator/env":                        {401, 404},
		"/healthz":                             {401, 404},
		"/metrics":                             {401, 404},
	} {
		t.Run(path, func(t *testing.T) {
			t.Parallel() // Envoy keeps a connection it has refused open for a second
			for i, credential := range []string{"", "Authorization: Bearer good\r\n"} {
				got := rawRequest(t, g.url, "GET "+path+" HTTP/1.1\r\nHost: x\r\n"+credential+"Connection: close\r\n\r\n")
				if status := strings.SplitN(got, " ", 3)[1]; status != strconv.Itoa(want[i]) {
					t.Errorf("known: %v: want %d, got %s", i == 1, want[i], status)
				}
			}
		})
	}
}

func TestMalformedRequestsAreRefused(t *testing.T) {
	t.Parallel()
	g := start(t, func(c *config.Config) { c.Gateway.MaxBodyBytes = 600 << 10 }, nil)
	big := body(`,"x":"` + strings.Repeat("y", 600<<10) + `"`)
	if a := g.do(t, "POST", chatPath, big); a.status != 413 || !strings.Contains(a.body, `"invalid_request_error"`) ||
		!strings.Contains(a.body, "614400") {
		t.Errorf("want 413 with the bound, got %d %s", a.status, a.body)
	}
	if a := g.do(t, "POST", genPath, big); a.status != 413 || !strings.Contains(a.body, `"INVALID_ARGUMENT"`) {
		t.Errorf("want Gemini's 413, got %d %s", a.status, a.body)
	}
	if a := g.do(t, "POST", chatPath, body(`,"x":"`+strings.Repeat("y", 500<<10)+`"`)); a.status != 200 {
		t.Errorf("want 500 KiB to pass, got %d %s", a.status, a.body)
	}
	reached := g.back.count()
	const head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer good\r\nContent-Type: application/json\r\nConnection: close\r\n"
	for name, c := range map[string]struct{ text, want string }{
		"10 000 headers":     {head + strings.Repeat("a: b\r\n", 10000) + "\r\n", " 431 "},
		"101 headers":        {head + numbered(101) + "\r\n", " 431 "},
		"100 KB path":        {"GET /" + strings.Repeat("a", 100000) + strings.TrimPrefix(head, "POST /v1/chat/completions") + "\r\n", " 431 "},
		"100 KB header":      {head + "a: " + strings.Repeat("b", 100000) + "\r\n\r\n", " 431 "},
		"length and chunks":  {head + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", " 400 "},
		"two lengths":        {head + "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", " 400 "},
		"obfuscated chunks":  {head + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", " 501 "},
		"space before colon": {head + "a : b\r\n\r\n", " 400 "},
		"NUL in a header":    {head + "a: b\x00c\r\n\r\n", " 400 "},
		"no host":            {"GET /v1/models HTTP/1.1\r\n\r\n", " 400 "},
		"two hosts":          {"GET /v1/models HTTP/1.1\r\nHost: x\r\nHost: y\r\nConnection: close\r\n\r\n", " 400 "},
		"CONNECT":            {"CONNECT 127.0.0.1:1 HTTP/1.1\r\nHost: 127.0.0.1:1\r\nConnection: close\r\n\r\n", " 403 "},
		"no method":          {" / HTTP/1.1\r\nHost: x\r\n\r\n", " 400 "},
		"chunked, too large": {head + "Transfer-Encoding: chunked\r\n\r\n" + strings.Repeat("10000\r\n"+strings.Repeat("y", 1<<16)+"\r\n",
			12) + "0\r\n\r\n", " 413 "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			line, _, _ := strings.Cut(rawRequest(t, g.url, c.text), "\r\n")
			if !strings.Contains(line, c.want) {
				t.Errorf("want%sgot %s", c.want, line)
			}
		})
	}
	t.Cleanup(func() { // after the parallel cases
		if g.back.count() != reached {
			t.Error("a malformed request reached a service")
		}
	})
}

// numbered is n header lines, each of another name.
func numbered(n int) string {
	text := ""
	for i := range n {
		text += "a-" + strconv.Itoa(i) + ": b\r\n"
	}
	return text
}

func TestAuthorizationDownIsClosed(t *testing.T) {
	t.Parallel()
	g := start(t, nil, nil)
	g.auth.mu.Lock()
	g.auth.fail = true
	g.auth.mu.Unlock()
	for path, method := range map[string]string{chatPath: "POST", genPath: "POST", "/api/v1/me": "GET", "/api/v1/auth/login": "POST",
		"/nowhere": "GET"} {
		if a := g.do(t, method, path, body("")); a.status != 503 || !json.Valid([]byte(a.body)) {
			t.Errorf("%s: want 503, got %d %s", path, a.status, a.body)
		}
	}
	if g.back.count() != 0 {
		t.Error("a call passed without authorisation")
	}
}

// TestAProblemHasNoNull also when Envoy refuses before it has read where the request goes.
func TestAProblemHasNoNull(t *testing.T) {
	t.Parallel()
	g := start(t, nil, nil)
	for name, c := range map[string]struct {
		head   string
		status int
		path   string // empty: there is none to tell
	}{
		"no path":      {"GET /nowhere HTTP/1.1\r\nHost: x\r\nAuthorization: " + goodKey + "\r\n", 404, "/nowhere"},
		"bad path":     {"GET /api%2fv1 HTTP/1.1\r\nHost: x\r\n", 400, "/api%2fv1"},
		"no header":    {"GET /nowhere HTTP/1.1\r\nHost x\r\n", 400, ""},
		"no request":   {"nonsense\r\n", 400, ""},
		"large header": {"GET /nowhere HTTP/1.1\r\nHost: x\r\nA: " + strings.Repeat("a", 200<<10) + "\r\n", 431, "/nowhere"},
	} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(g.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		go func() { _, _ = io.WriteString(conn, c.head+"\r\n") }() // Envoy may answer before it has all
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		text, err := io.ReadAll(io.LimitReader(resp.Body, resp.ContentLength))
		conn.Close()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var problem map[string]any
		if err := json.Unmarshal(text, &problem); err != nil || resp.StatusCode != c.status || problem["status"] != float64(c.status) {
			t.Errorf("%s: want a problem of status %d, got %d %s", name, c.status, resp.StatusCode, text)
		}
		for _, member := range []string{"instance", "path"} {
			if got, there := problem[member]; there != (c.path != "") || there && got != c.path {
				t.Errorf("%s: want %s %q, or none when empty, got %s", name, member, c.path, text)
			}
		}
		for _, member := range []string{"type", "title", "detail", "message", "timestamp"} {
			if got, _ := problem[member].(string); got == "" {
				t.Errorf("%s: want %s, got %s", name, member, text)
			}
		}
	}
}

// TestHeadersWithUnderscoresAreDropped: monitors and CDNs add them, and no service may see
// one that it could take for another.
func TestHeadersWithUnderscoresAreDropped(t *testing.T) {
	t.Parallel()
	g := start(t, nil, nil)
	h2 := &http.Client{Transport: &http.Transport{Protocols: &http.Protocols{}}}
	h2.Transport.(*http.Transport).Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(h2.CloseIdleConnections)
	for protocol, client := range map[string]*http.Client{"HTTP/1.1": &g.client, "HTTP/2.0": h2} {
		for _, path := range []string{chatPath, "/api/v1/tokens/quota"} {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, g.url+path, strings.NewReader(body("")))
			if err != nil {
				t.Fatal(err)
			}
			for name, value := range map[string]string{"Authorization": goodKey, "Content-Type": "application/json", "sentry_trace": "1",
				"x_user_id": "root", "X_Leaky_Identity": "root", "content_length": "3", "_": "x", "transfer_encoding": "chunked"} {
				req.Header[name] = []string{value}
			}
			res, err := client.Do(req)
			if err != nil {
				t.Fatalf("%s %s: %v", protocol, path, err)
			}
			res.Body.Close()
			if res.StatusCode != 200 || res.Proto != protocol {
				t.Errorf("%s %s: want 200, got %d by %s", protocol, path, res.StatusCode, res.Proto)
			}
			got := g.back.last(t)
			for name := range got.header {
				if strings.Contains(name, "_") {
					t.Errorf("%s %s: the service got %s", protocol, path, name)
				}
			}
			if got.body != body("") {
				t.Errorf("%s %s: the body changed: %q", protocol, path, got.body)
			}
		}
	}
}

// TestHTTP10IsServed as nginx asks by default: the connection ends with the answer.
func TestHTTP10IsServed(t *testing.T) {
	t.Parallel()
	g := start(t, nil, nil)
	length := "Content-Length: " + strconv.Itoa(len(body(""))) + "\r\n"
	const known, posted = "Authorization: Bearer good\r\n", "Content-Type: application/json\r\n"
	for name, c := range map[string]struct{ text, want string }{
		"a call":      {"POST " + chatPath + " HTTP/1.0\r\nHost: x\r\n" + known + posted + length + "\r\n" + body(""), " 200 "},
		"no host":     {"GET /api/v1/me HTTP/1.0\r\n" + known + "\r\n", " 200 "},
		"nobody":      {"GET /api/v1/me HTTP/1.0\r\nHost: x\r\n\r\n", " 401 "},
		"two lengths": {"POST " + chatPath + " HTTP/1.0\r\nHost: x\r\n" + known + posted + length + "Content-Length: 1\r\n\r\n" + body(""), " 400 "},
		"chunks":      {"POST " + chatPath + " HTTP/1.0\r\nHost: x\r\n" + known + posted + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", " 400 "},
	} {
		answer := rawRequest(t, g.url, c.text) // to the end of the connection
		head, text, _ := strings.Cut(answer, "\r\n\r\n")
		if line, _, _ := strings.Cut(head, "\r\n"); !strings.HasPrefix(line, "HTTP/1.") || !strings.Contains(line, c.want) {
			t.Errorf("%s: want%sgot %.300s", name, c.want, answer)
		}
		if strings.Contains(strings.ToLower(head), "transfer-encoding") || c.want == " 200 " && !json.Valid([]byte(text)) {
			t.Errorf("%s: want a body that HTTP/1.0 knows, got %.400s", name, answer)
		}
	}
}
