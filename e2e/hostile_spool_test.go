package e2e

import (
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/stacktest"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// spooled are the lines of an account, as Envoy wrote them.
func spooled(t *testing.T, who stacktest.Account) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(running.Dir, "spool", "usage.jsonl*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no spool: %v", err)
	}
	var mine []string
	for _, file := range files {
		text, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) { // rotated just now, or read to its end and removed
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if strings.Contains(line, who.ID) {
				mine = append(mine, line)
			}
		}
	}
	return mine
}

// TestNoHeaderTakesACallOutOfTheBooks: what a client sends stands in the line of its call in a
// few bytes or not at all, so none makes that line too long or breaks it.
func TestNoHeaderTakesACallOutOfTheBooks(t *testing.T) {
	t.Parallel()
	const good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	damaged := measured(t, "meter", "leaky_meter_lines_total", `kind="damaged"`)
	t.Run("headers", func(t *testing.T) {
		hostileHeaders(t, map[string]map[string]string{
			"quotes":               {"Traceparent": strings.Repeat(`"`, 40_000)},
			"back-slashes":         {"Traceparent": strings.Repeat(`\`, 40_000)},
			"bytes above 0x7f":     {"Traceparent": strings.Repeat("\xff", 12_000)},
			"a good one and more":  {"Traceparent": good + strings.Repeat("A", 60_000)},
			"one byte more":        {"Traceparent": good + `"`},
			"another version":      {"Traceparent": "ff" + good[2:]},
			"members of a line":    {"Traceparent": `","held":0,"answer":"whole=1,in=1","x":"`},
			"a long correlation":   {"X-Correlation-Id": strings.Repeat(`"`, 40_000)},
			"members in it":        {"X-Correlation-Id": `","held":0,"x":"`},
			"everything there is":  {"Traceparent": strings.Repeat(`"`, 8000), "Tracestate": strings.Repeat(`"`, 8000), "User-Agent": strings.Repeat(`"`, 8000), "Baggage": strings.Repeat("\xff", 8000), "Referer": strings.Repeat(`"`, 8000)},
			"a request id of ours": {"X-Request-Id": strings.Repeat(`"`, 20_000)},
		})
	})
	if now := measured(t, "meter", "leaky_meter_lines_total", `kind="damaged"`); now != damaged {
		t.Errorf("%g lines were damaged", now-damaged)
	}
}

// hostileHeaders makes a call with the headers of each case, at once.
func hostileHeaders(t *testing.T, cases map[string]map[string]string) {
	for name, header := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			who := newAccount(t)
			header["Authorization"] = "Bearer " + who.Key
			status, headers, text := send(t, chatPath, `{"model":"gpt-4o-mini","max_tokens":40,"messages":[{"role":"user","content":"hi [[tokens=20]]"}]}`, header)
			if status != http.StatusOK {
				t.Fatalf("want 200, got %d %s", status, text)
			}
			if row := booked(t, who, "openai", headers.Get("X-Request-Id")); row.OutputTokens != 20 || row.Source != "provider" {
				t.Errorf("want the call on the books, got %+v", row)
			}
			for _, line := range spooled(t, who) {
				if len(line) > 2000 {
					t.Errorf("want a short line, got %d bytes", len(line))
				}
			}
		})
	}
}

// TestRefusedCallsFillNothing: who is refused as often as they can ask writes a short line each,
// and ten events a second at most.
func TestRefusedCallsFillNothing(t *testing.T) {
	t.Parallel()
	who := newAccount(t)
	const calls, workers = 400, 8
	began := time.Now()
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			for range calls / workers {
				status, _, text := send(t, chatPath, strings.Replace(okBody, `"max_tokens":5`, `"max_tokens":2000000000`, 1),
					map[string]string{"Authorization": "Bearer " + who.Key, "Traceparent": strings.Repeat("A", 60_000)})
				if status != http.StatusTooManyRequests {
					t.Errorf("want 429, got %d %s", status, text)
				}
			}
		})
	}
	all.Wait()
	seconds := int(time.Since(began)/time.Second) + 2
	// A call that is served is behind them all in the spool, so they are settled when it is.
	_, headers, _ := send(t, chatPath, okBody, map[string]string{"Authorization": "Bearer " + who.Key})
	booked(t, who, "openai", headers.Get("X-Request-Id"))
	var page struct{ Items []usage }
	mustCall(t, 200, "GET", "/api/v1/analytics/usage?limit=200&provider=openai", who.Key, nil, &page)
	refused := 0
	for _, row := range page.Items {
		if row.Source == "refused" {
			refused++
		}
	}
	if refused == 0 || refused > 10*seconds {
		t.Errorf("want at most ten events a second, got %d in %d s", refused, seconds)
	}
	var lines, bytes int
	testenv.Eventually(t, "the lines in the spool", func() bool {
		lines, bytes = 0, 0
		for _, line := range spooled(t, who) {
			lines, bytes = lines+1, bytes+len(line)
		}
		return lines >= calls
	})
	if bytes > 1500*lines {
		t.Errorf("want lines of 1500 bytes at most, got %d in %d lines", bytes, lines)
	}
}
