package e2e

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

const okBody = `{"model":"gpt-4o-mini","max_tokens":5,"messages":[{"role":"user","content":"hi"}]}`

// send makes a raw POST to the gateway.
func send(t *testing.T, path, body string, header map[string]string) (int, http.Header, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, running.Gateway+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	for name, value := range header {
		if value == "" {
			req.Header.Del(name)
			continue
		}
		req.Header.Set(name, value)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, res.Header, text
}

type openAIError struct {
	Error struct {
		Message, Type string
		Code          *string
	}
}

func TestHostileBodies(t *testing.T) {
	t.Parallel()
	who := newAccount(t)
	with := func(members string) string {
		return `{"model":"gpt-4o-mini",` + members + `,"messages":[{"role":"user","content":"hi"}]}`
	}
	for _, tc := range []struct {
		name, body string
		header     map[string]string
		status     int
		code       string
	}{
		{name: "not JSON", body: "model=gpt", status: 400},
		{name: "empty", body: "", status: 400},
		{name: "an array", body: "[]", status: 400},
		{name: "cut off", body: okBody[:40], status: 400},
		{name: "no model", body: `{"messages":[]}`, status: 400},
		{name: "unknown model", body: strings.Replace(okBody, "gpt-4o-mini", "gpt-nope", 1), status: 404, code: "model_not_found"},
		{name: "confusable model", body: strings.Replace(okBody, "gpt-4o-mini", "gpt-4о-mini", 1), status: 404, code: "model_not_found"},
		{name: "model twice", body: with(`"model":"gpt-4o"`), status: 400},
		{name: "model twice, escaped", body: with(`"mod\u0065l":"gpt-4o"`), status: 400},
		{name: "max_tokens twice", body: with(`"max_tokens":1,"max_tokens":100`), status: 400},
		{name: "both spellings differ", body: with(`"max_tokens":1,"max_completion_tokens":100`), status: 400},
		{name: "negative", body: with(`"max_tokens":-1`), status: 400},
		{name: "zero", body: with(`"max_tokens":0`), status: 400},
		{name: "a string", body: with(`"max_tokens":"5"`), status: 400},
		{name: "fraction", body: with(`"max_tokens":1.5`), status: 400},
		{name: "exponent", body: with(`"max_tokens":1e3`), status: 400},
		{name: "10^18", body: with(`"max_tokens":1000000000000000000`), status: 400},
		{name: "beyond int64", body: with(`"max_tokens":99999999999999999999999999`), status: 400},
		{name: "negative n", body: with(`"n":-2`), status: 400},
		{name: "stream a string", body: with(`"stream":"yes"`), status: 400},
		{name: "text/plain", body: okBody, header: map[string]string{"Content-Type": "text/plain"}, status: 400},
		{name: "no content type", body: okBody, header: map[string]string{"Content-Type": ""}, status: 400},
		{name: "gzip", body: zipped(okBody), header: map[string]string{"Content-Encoding": "gzip"}, status: 415},
		{name: "over the limit", body: strings.Replace(okBody, "hi", strings.Repeat("x", 20<<20), 1), status: 413},
		{name: "charset is fine", body: okBody, header: map[string]string{"Content-Type": "application/json; charset=utf-8"}, status: 200},
		{name: "space after the body", body: okBody + " \r\n\t ", status: 200},
		{name: "braces in strings", body: strings.Replace(okBody, "hi", `}{\"}"`[:5], 1), status: 200},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			header := map[string]string{"Authorization": "Bearer " + who.Key}
			for k, v := range tc.header {
				header[k] = v
			}
			status, got, body := send(t, "/v1/chat/completions", tc.body, header)
			if status != tc.status {
				t.Fatalf("want %d, got %d %s", tc.status, status, body)
			}
			if got.Get("X-Request-Id") == "" || got.Get("X-Content-Type-Options") != "nosniff" {
				t.Errorf("headers are missing: %v", got)
			}
			if status == 200 {
				return
			}
			var e openAIError
			if err := json.Unmarshal(body, &e); err != nil || e.Error.Message == "" || e.Error.Type != "invalid_request_error" {
				t.Fatalf("want OpenAI's error shape, got %s", body)
			}
			if tc.code != "" && (e.Error.Code == nil || *e.Error.Code != tc.code) {
				t.Errorf("want code %q in %s", tc.code, body)
			}
			if !strings.Contains(e.Error.Message, got.Get("X-Request-Id")) {
				t.Errorf("the message does not name the request: %s", body)
			}
		})
	}
}

func zipped(s string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write([]byte(s))
	_ = w.Close()
	return b.String()
}

func TestChunkedBodyIsMetered(t *testing.T) {
	t.Parallel()
	who := newAccount(t)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, running.Gateway+"/v1/chat/completions",
		io.MultiReader(strings.NewReader(okBody[:30]), strings.NewReader(okBody[30:])))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+who.Key)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != 200 {
		t.Fatalf("got %d", res.StatusCode)
	}
	if row := booked(t, who, "openai", res.Header.Get("X-Request-Id")); row.OutputTokens != 5 {
		t.Fatalf("want 5 output tokens, got %+v", row)
	}
}

func TestCredentials(t *testing.T) {
	t.Parallel()
	who, other := newAccount(t), newAccount(t)
	for _, tc := range []struct {
		name   string
		header map[string]string
		query  string
		want   int
	}{
		{name: "none", want: 401},
		{name: "key as bearer", header: map[string]string{"Authorization": "Bearer " + who.Key}, want: 200},
		{name: "JWT", header: map[string]string{"Authorization": "Bearer " + who.JWT}, want: 200},
		{name: "X-Api-Key", header: map[string]string{"X-Api-Key": who.Key}, want: 200},
		{name: "x-goog-api-key", header: map[string]string{"x-goog-api-key": who.Key}, want: 200},
		{name: "query", query: "?key=" + who.Key, want: 200},
		{name: "bad key", header: map[string]string{"X-Api-Key": otherLast(who.Key)}, want: 401},
		{name: "injection", header: map[string]string{"X-Api-Key": "leaky_x' OR pg_sleep(8)--"}, want: 401},
		{name: "dots", header: map[string]string{"Authorization": "Bearer " + strings.Repeat(".", 4000)}, want: 401},
		{name: "alg none", header: map[string]string{"Authorization": "Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiIxIn0."}, want: 401},
		{name: "basic", header: map[string]string{"Authorization": "Basic YTpi"}, want: 401},
		{name: "both, one user", header: map[string]string{"Authorization": "Bearer " + who.JWT, "X-Api-Key": who.Key}, want: 200},
		{name: "both, two users", header: map[string]string{"Authorization": "Bearer " + other.JWT, "X-Api-Key": who.Key}, want: 400},
		{name: "forged identity", header: map[string]string{"X-User-Id": who.ID, "X-User-Roles": "ADMIN", "X-Leaky-Identity": who.JWT},
			want: 401},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			status, header, body := send(t, "/v1/chat/completions"+tc.query, okBody, tc.header)
			if status != tc.want && !(tc.want == 200 && status == 200) {
				t.Fatalf("want %d, got %d %s", tc.want, status, body)
			}
			if status == 401 && !strings.Contains(header.Get("WWW-Authenticate"), `resource_metadata="`+running.Gateway+`/.well-known/oauth`) {
				t.Errorf("WWW-Authenticate is %q", header.Get("WWW-Authenticate"))
			}
			if strings.Contains(string(body), who.Key) {
				t.Error("the answer shows the key")
			}
		})
	}
}

// otherLast is the key with another last digit.
func otherLast(key string) string {
	if last := len(key) - 1; key[last] != '0' {
		return key[:last] + "0"
	}
	return key[:len(key)-1] + "1"
}

func TestForgedIdentityHeadersNeverCount(t *testing.T) {
	t.Parallel()
	who, other := newAccount(t), newAccount(t)
	var me struct{ ID, UserID string }
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, running.Gateway+"/api/v1/me", nil)
	req.Header.Set("Authorization", "Bearer "+who.Key)
	req.Header.Set("X-User-Id", other.ID)
	req.Header.Set("X-User-Roles", "ADMIN")
	req.Header.Set("X-Leaky-Identity", "forged")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if err := json.NewDecoder(res.Body).Decode(&me); err != nil || res.StatusCode != 200 {
		t.Fatalf("%d, %v", res.StatusCode, err)
	}
	if me.ID != who.ID && me.UserID != who.ID {
		t.Fatalf("want %s, got %+v", who.ID, me)
	}
}

func TestRevokedKeyIsRefusedSoon(t *testing.T) {
	t.Parallel()
	who := newAccount(t)
	auth := map[string]string{"Authorization": "Bearer " + who.Key}
	if status, _, body := send(t, "/v1/chat/completions", okBody, auth); status != 200 {
		t.Fatalf("got %d %s", status, body)
	}
	mustCall(t, 204, "DELETE", fmt.Sprintf("/api/v1/auth/api-keys?userId=%s&apiKeyId=%s", who.ID, who.KeyID), who.JWT, nil, nil)
	// The cache would hold it for 30 s: only the revocation by NATS makes this pass.
	testenv.Eventually(t, "the refusal", func() bool {
		status, _, _ := send(t, "/v1/chat/completions", okBody, auth)
		return status == 401
	})
}

func TestRequestIDIsAlwaysOurs(t *testing.T) {
	t.Parallel()
	who := newAccount(t)
	mine := "00000000-0000-4000-8000-000000000001"
	status, header, _ := send(t, "/v1/chat/completions", okBody, map[string]string{"Authorization": "Bearer " + who.Key, "X-Request-Id": mine})
	if status != 200 || header.Get("X-Request-Id") == mine || header.Get("X-Request-Id") == "" {
		t.Fatalf("%d, request id %q", status, header.Get("X-Request-Id"))
	}
}

// TestPathTricks sends request lines as they are, without a client that cleans them.
func TestPathTricks(t *testing.T) {
	t.Parallel()
	who := newAccount(t)
	for _, tc := range []struct {
		name, path string
		want       []int // every status that is safe
	}{
		{"double slash", "//v1/chat/completions", []int{200, 404}},
		{"encoded dots", "/v1/models/%2e%2e/chat/completions", []int{200, 400, 404}},
		{"dot segments to admin", "/v1/../api/v1/admin/users", []int{400, 403, 404, 405}},
		{"encoded slash", "/v1%2Fchat%2Fcompletions", []int{400, 404}},
		{"backslash", `/v1\chat\completions`, []int{200, 400, 404}},
		{"matrix parameters", "/v1/chat;x/completions", []int{400, 404}},
		{"trailing matrix", "/v1/chat/completions;x=1", []int{400, 404}},
		{"mixed case", "/V1/Chat/Completions", []int{404}},
		{"NUL", "/v1/chat/completions%00", []int{400, 404}},
		{"fragment", "/v1/chat/completions#foo", []int{200, 400, 404}},
		{"internal validate", "/api/v1/auth/api-keys/validate", []int{404, 405}},
		{"unknown", "/nope", []int{404}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			status := rawStatus(t, "POST "+tc.path+" HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "+who.Key+
				"\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: "+fmt.Sprint(len(okBody))+"\r\n\r\n"+okBody)
			for _, want := range tc.want {
				if status == want {
					return
				}
			}
			t.Fatalf("want one of %v, got %d", tc.want, status)
		})
	}
	if status := rawStatus(t, "GET /nope HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); status != 401 {
		t.Errorf("unknown path, anonymous: want 401, got %d", status)
	}
}

// numbered are n headers of different names.
func numbered(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "h%d: v\r\n", i)
	}
	return b.String()
}

func TestManyHeadersAreRefused(t *testing.T) {
	t.Parallel()
	const head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
	if status := rawStatus(t, head+numbered(10_000)+"\r\n"); status != 431 && status != 400 {
		t.Fatalf("want 431, got %d", status)
	}
}

func rawStatus(t *testing.T, request string) int {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(running.Gateway, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.WriteString(conn, request) }()
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	return res.StatusCode
}
