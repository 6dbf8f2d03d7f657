package xds_test

import (
	"bufio"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
)

// TestRefusalsAreAnswered: who is refused for a size or a form reads why, over HTTP/1 and HTTP/2,
// also a client that reads nothing before it has written everything.
func TestRefusalsAreAnswered(t *testing.T) {
	t.Parallel()
	g := start(t, func(c *config.Config) { c.Gateway.MaxBodyBytes = 600 << 10 }, nil)
	many := func(n int) []string {
		var headers []string
		for i := range n {
			headers = append(headers, "X-H-"+strconv.Itoa(i), "v")
		}
		return headers
	}
	large := body(`,"x":"` + strings.Repeat("y", 20<<20) + `"`)
	for name, c := range map[string]struct {
		path, body string
		unstated   bool // no content-length
		headers    []string
		status     int
	}{
		"too large":             {path: chatPath, body: large, status: 413},
		"too large, unstated":   {path: chatPath, body: large, unstated: true, status: 413},
		"too large for gemini":  {path: genPath, body: large, status: 413},
		"a little too large":    {path: chatPath, body: large[:601<<10], unstated: true, status: 413},
		"90 headers":            {path: chatPath, body: body(""), headers: many(90), status: 200},
		"101 headers":           {path: chatPath, body: body(""), headers: many(101), status: 431},
		"1500 headers":          {path: chatPath, body: body(""), headers: many(1500), status: 431},
		"a header of 70 KB":     {path: chatPath, body: body(""), headers: []string{"X-Long", strings.Repeat("x", 70_000)}, status: 431},
		"a header of 100 KB":    {path: genPath, body: body(""), headers: []string{"X-Long", strings.Repeat("x", 100_000)}, status: 431},
		"compressed":            {path: chatPath, body: body(""), headers: []string{"Content-Encoding", "gzip"}, status: 415},
		"wrong type, large":     {path: chatPath, body: large[:500<<10], headers: []string{"Content-Type", "text/plain"}, status: 400},
		"unknown path, large":   {path: "/v1/nowhere", body: large, status: 404},
		"unknown caller, large": {path: chatPath, body: large, headers: []string{"Authorization", "Bearer bad"}, status: 401},
		"method, large":         {path: "/v1/models", body: large, status: 405},
	} {
		for _, protocol := range []string{"HTTP/1", "HTTP/2"} {
			t.Run(name+" over "+protocol, func(t *testing.T) {
				t.Parallel()
				var p http.Protocols
				p.SetHTTP1(protocol == "HTTP/1")
				p.SetUnencryptedHTTP2(protocol == "HTTP/2")
				client := &http.Client{Transport: &http.Transport{Protocols: &p}}
				defer client.CloseIdleConnections()
				var sent io.Reader = strings.NewReader(c.body)
				if c.unstated {
					sent = io.MultiReader(sent)
				}
				r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, g.url+c.path, sent)
				if err != nil {
					t.Fatal(err)
				}
				r.Header.Set("Authorization", goodKey)
				r.Header.Set("Content-Type", "application/json")
				for i := 0; i < len(c.headers); i += 2 {
					r.Header.Set(c.headers[i], c.headers[i+1])
				}
				resp, err := client.Do(r)
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				text, err := io.ReadAll(resp.Body)
				if err != nil || resp.StatusCode != c.status {
					t.Errorf("want %d, got %d %s %v", c.status, resp.StatusCode, text, err)
				}
			})
		}
		t.Run(name+" by a client that writes first", func(t *testing.T) {
			t.Parallel()
			text := "POST " + c.path + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
			headers := map[string]string{"Authorization": goodKey, "Content-Type": "application/json", "Content-Length": strconv.Itoa(len(c.body))}
			for i := 0; i < len(c.headers); i += 2 {
				headers[c.headers[i]] = c.headers[i+1]
			}
			for k, v := range headers {
				text += k + ": " + v + "\r\n"
			}
			line, _, _ := strings.Cut(rawRequest(t, g.url, text+"\r\n"+c.body), "\r\n")
			if !strings.Contains(line, " "+strconv.Itoa(c.status)+" ") {
				t.Errorf("want %d, got %s", c.status, line)
			}
		})
	}
}

// TestWhatIsMalformedIsToldInOneShape: nothing is left for a service to refuse in words of its own.
func TestWhatIsMalformedIsToldInOneShape(t *testing.T) {
	t.Parallel()
	g := start(t, nil, nil)
	reached := g.back.count()
	const known = "Authorization: " + goodKey + "\r\nConnection: close\r\n"
	call := func(path, headers string) string {
		return "POST " + path + " HTTP/1.1\r\n" + headers + "Content-Type: application/json\r\nContent-Length: " + strconv.Itoa(len(body(""))) +
			"\r\n" + known + "\r\n" + body("")
	}
	for name, c := range map[string]struct{ text, family, path string }{
		"two hosts on a chat":           {call(chatPath, "Host: x\r\nHost: y\r\n"), attributes.FamilyOpenAI, chatPath},
		"two hosts on Gemini":           {call(genPath, "Host: x\r\nHost: y\r\n"), attributes.FamilyGemini, genPath},
		"two hosts on embeddings":       {call("/v1/embeddings", "Host: x\r\nHost: y\r\n"), attributes.FamilyOpenAI, "/v1/embeddings"},
		"a host with a user":            {call(chatPath, "Host: u@x\r\n"), attributes.FamilyOpenAI, chatPath},
		"two hosts at sign-in":          {call("/oauth2/token", "Host: x\r\nHost: y\r\n"), attributes.FamilyOAuth, "/oauth2/token"},
		"two hosts at the API":          {call("/api/v1/me", "Host: x\r\nHost: y\r\n"), attributes.FamilyProblem, "/api/v1/me"},
		"%u at sign-in":                 {call("/oauth2/%u002e", "Host: x\r\n"), attributes.FamilyOAuth, "/oauth2/%u002e"},
		"%u in what asks for a page":    {"OPTIONS /oauth2/%u002e HTTP/1.1\r\nHost: x\r\nOrigin: http://a\r\nAccess-Control-Request-Method: GET\r\n" + known + "\r\n", attributes.FamilyOAuth, "/oauth2/%u002e"},
		"a lone percent sign":           {call("/api/v1/%", "Host: x\r\n"), attributes.FamilyProblem, "/api/v1/%"},
		"one digit at the end":          {call("/api/v1/%4", "Host: x\r\n"), attributes.FamilyProblem, "/api/v1/%4"},
		"one digit":                     {call("/api/v1/%4x/y", "Host: x\r\n"), attributes.FamilyProblem, "/api/v1/%4x/y"},
		"%zz below the models":          {"GET /v1/models/%zz HTTP/1.1\r\nHost: x\r\n" + known + "\r\n", attributes.FamilyOpenAI, "/v1/models/%zz"},
		"%zz below Gemini's":            {call("/v1beta/%zz", "Host: x\r\n"), attributes.FamilyGemini, "/v1beta/%zz"},
		"%zz below the docs":            {"GET /docs/%zz HTTP/1.1\r\nHost: x\r\n" + known + "\r\n", attributes.FamilyProblem, "/docs/%zz"},
		"%zz below the well-known":      {"GET /.well-known/%zz HTTP/1.1\r\nHost: x\r\n" + known + "\r\n", attributes.FamilyProblem, "/.well-known/%zz"},
		"%% below an organisation":      {"GET /api/v1/orgs/%%/members HTTP/1.1\r\nHost: x\r\n" + known + "\r\n", attributes.FamilyProblem, "/api/v1/orgs/%%/members"},
		"every stranger is told it too": {"GET /api/v1/%u HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", attributes.FamilyProblem, "/api/v1/%u"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			resp, err := http.ReadResponse(bufio.NewReader(strings.NewReader(rawRequest(t, g.url, c.text))), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			text, err := io.ReadAll(resp.Body)
			if err != nil || resp.StatusCode != http.StatusBadRequest {
				t.Fatalf("want 400, got %d %s %v", resp.StatusCode, text, err)
			}
			kind, code := "invalid_request_error", ""
			switch c.family {
			case attributes.FamilyOAuth:
				code = "invalid_request"
			case attributes.FamilyGemini:
				kind = "INVALID_ARGUMENT"
			}
			checkShape(t, answer{status: resp.StatusCode, header: resp.Header, body: string(text)}, c.family, kind, code, c.path)
		})
	}
	t.Cleanup(func() { // after the parallel cases
		if g.back.count() != reached {
			t.Error("a malformed request reached a service")
		}
	})
}

// TestAnExpectationIsNoneOfTheServices: Envoy meets 100-continue, and refuses others itself. What is
// encoded well passes.
func TestAnExpectationIsNoneOfTheServices(t *testing.T) {
	t.Parallel()
	g := start(t, nil, nil)
	for head, want := range map[string]string{
		"GET /api/v1/me HTTP/1.1\r\nExpect: something":                          "417",
		"GET /oauth2/jwks HTTP/1.1\r\nExpect: 200-ok":                           "417",
		"GET /api/v1/orgs/%41%c3%a9%25 HTTP/1.1":                                "200",
		"GET /api/v1/me?q=%zz HTTP/1.1":                                         "200",
		"POST /api/v1/me HTTP/1.1\r\nContent-Length: 0\r\nExpect: 100-continue": "100",
	} {
		got := rawRequest(t, g.url, head+"\r\nHost: x\r\nAuthorization: "+goodKey+"\r\nConnection: close\r\n\r\n")
		if !strings.HasPrefix(got, "HTTP/1.1 "+want+" ") || want == "417" && !strings.Contains(got, `"status":417`) ||
			want == "100" && !strings.Contains(got, "HTTP/1.1 200 ") {
			t.Errorf("%s: want %s, got %.300s", head, want, got)
		}
	}
}
