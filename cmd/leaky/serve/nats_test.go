package serve

import (
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

// TestNoPartPublishesLate: what a part is told was not published never comes to NATS.
func TestNoPartPublishesLate(t *testing.T) {
	t.Parallel()
	server := testenv.NATSServer(t)
	s := service{name: topology.TokenSvc, cfg: &config.Config{Stores: config.Stores{NATS: server.URL()}}, log: slog.New(slog.DiscardHandler)}
	conn, err := s.connectNATS()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	server.Stop()
	testenv.Eventually(t, "the link is lost", conn.IsReconnecting)
	if err := conn.Publish("x", nil); !errors.Is(err, nats.ErrReconnectBufExceeded) {
		t.Errorf("without a link: want it refused at once, got %v", err)
	}
}

func TestNATSSync(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{"": time.Second, "always": 0, "250ms": 250 * time.Millisecond, "2m": 2 * time.Minute} {
		if got, err := natsSync(text); err != nil || got != want {
			t.Errorf("%q: want %v, got %v, %v", text, want, got, err)
		}
	}
	for _, text := range []string{"0", "0s", "-1s", "never", "1"} {
		if _, err := natsSync(text); err == nil {
			t.Errorf("%q: want an error, got none", text)
		}
	}
}
