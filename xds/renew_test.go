package xds_test

import (
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/spool"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// TestALongStreamGivesSignsOfLife in the spool, each with the hold that is to be renewed,
// and ends with a line like any other.
func TestALongStreamGivesSignsOfLife(t *testing.T) {
	t.Parallel()
	g := start(t, func(c *config.Config) { c.Gateway.MaxStreamDuration, c.Holds.Life = time.Minute, time.Second }, nil)
	g.limit.set(admit(nil))
	end := make(chan struct{})
	g.back.set(func(w http.ResponseWriter, r *http.Request) {
		says("text/event-stream", chatChunk)(w, r)
		_ = http.NewResponseController(w).Flush()
		select {
		case <-end:
		case <-r.Context().Done():
		}
	})
	id, err := g.readSome(t, t.Context(), len(chatChunk))
	if err != nil {
		t.Fatal(err)
	}
	running := func() (n int, ended bool) {
		text, _ := os.ReadFile(g.spool)
		for line := range strings.Lines(string(text)) {
			l, err := spool.Parse([]byte(strings.TrimSpace(line)))
			switch {
			case err != nil || l.ID != id: // the last line may be in the making
			case l.Account != "user:u-1" || l.Held == nil:
				t.Fatalf("want whose hold it is, got %s", line)
			case l.Running():
				n++
			default:
				ended = true
			}
		}
		return n, ended
	}
	testenv.Eventually(t, "three signs of life", func() bool {
		n, ended := running()
		if ended {
			t.Fatal("the request ended early")
		}
		return n >= 3
	})
	close(end)
	testenv.Eventually(t, "the line of its end", func() bool {
		_, ended := running()
		return ended
	})
}
