package console

import (
	"bufio"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/client/api"
)

// TestLiveEvents: what is on the page comes as an event when it has changed, and only then.
func TestLiveEvents(t *testing.T) {
	t.Parallel()
	var level atomic.Int64
	level.Store(5)
	c, pages := newSite(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answers := map[string]any{"/api/v1/analytics/trends": api.UsageTrend{Total: api.UsageSums{TotalEvents: 1}},
			"/api/v1/me": api.Me{Limits: &[]api.Limit{{Rule: "r", Unit: "tokens", Capacity: 1000, Remaining: level.Load()}}}}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(answers[r.URL.Path])
	}))
	server := httptest.NewServer(pages)
	t.Cleanup(server.Close)
	cookie := signed(t, c, session{Access: "token", Ends: time.Now().Add(time.Hour), Until: time.Now().Add(time.Hour)})
	ask := func(had string) *http.Response {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+path+"/live/events", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		r.AddCookie(cookie)
		r.Header.Set("Last-Event-ID", had)
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = res.Body.Close() })
		return res
	}
	// next is the next event of a stream: its id and text.
	next := func(lines *bufio.Scanner) (id, text string) {
		for lines.Scan() {
			if found, ok := strings.CutPrefix(lines.Text(), "id: "); ok {
				id = found
			}
			if found, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
				text += found + "\n"
			} else if text != "" {
				return id, text
			}
		}
		t.Fatalf("the stream ends without an event: %v", lines.Err())
		return id, text
	}
	res := ask("")
	if kind := res.Header.Get("Content-Type"); res.StatusCode != 200 || kind != "text/event-stream" {
		t.Fatalf("want a stream, got %d %s", res.StatusCode, kind)
	}
	first, text := next(bufio.NewScanner(res.Body))
	if first == "" || !strings.Contains(text, "5 tokens left of") || !strings.HasSuffix(text, "</section>\n") {
		t.Errorf("want the part of the page, got %s: %s", first, text)
	}
	res = ask(first)
	line, err := bufio.NewReader(res.Body).ReadString('\n')
	if line != ":\n" || err != nil { // it has what there is
		t.Errorf("want a comment first, got %q, %v", line, err)
	}
	level.Store(4)
	if id, text := next(bufio.NewScanner(res.Body)); id == first || !strings.Contains(text, "4 tokens left of") {
		t.Errorf("want what has changed, got %s: %s", id, text)
	}
	for range cap(c.streams) - len(c.streams) {
		c.streams <- struct{}{}
	}
	if res = ask(""); res.StatusCode != 503 {
		t.Errorf("one stream too many: want 503, got %d", res.StatusCode)
	}
}
