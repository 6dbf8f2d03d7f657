package xds_test

import (
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
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
