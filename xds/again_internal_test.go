package xds

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
	"github.com/leaky-tokens/leaky-tokens/internal/discovery"
	"github.com/leaky-tokens/leaky-tokens/internal/settings"
	"github.com/leaky-tokens/leaky-tokens/internal/spoolfolder"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// heard is a log that tells of lines with a text.
type heard struct {
	text string
	told chan<- struct{}
}

func (h heard) Write(line []byte) (int, error) {
	if strings.Contains(string(line), h.text) {
		wake(h.told)
	}
	return len(line), nil
}

// following is a control plane without Envoys whose first configuration is live.
func following(t *testing.T, trouble string) (x *XDS, told <-chan struct{}) {
	t.Helper()
	cfg, err := config.Parse([]byte("gateway: {listen: '127.0.0.1:0'}\n"))
	if err != nil {
		t.Fatal(err)
	}
	cfg.TLS = config.TLS{Mode: config.TLSMutual, Lifetime: time.Hour}
	set := &settings.Settings{Config: cfg}
	if set.Limits, err = limits.Load(cfg.Limits.File); err != nil {
		t.Fatal(err)
	}
	tell := make(chan struct{}, 1)
	x, err = New(Config{Settings: set, StateDir: testenv.Folder(t), Getenv: func(string) string { return "" }, Poll: 20 * time.Millisecond,
		Registry: discovery.NewTracker(discovery.TrackerConfig{Site: "here", Log: slog.New(slog.DiscardHandler)}),
		Log:      slog.New(slog.NewTextHandler(heard{trouble, tell}, nil))})
	if err != nil {
		t.Fatal(err)
	}
	if err := x.publish(t.Context(), x.first); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		x.publishOffers(ctx)
	}()
	t.Cleanup(func() {
		stop()
		<-done
	})
	return x, tell
}

// TestEndpointsAreFollowedLater where they could not be when they changed: here another stack's meter
// has the spool for a while. Nothing tells of them a second time.
func TestEndpointsAreFollowedLater(t *testing.T) {
	t.Parallel()
	x, failed := following(t, unfollowed)
	claim, err := spoolfolder.Hold(filepath.Dir(x.first.gateway.Listener.Spool), spoolfolder.Reader, spoolfolder.Of(t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	x.source.registry.Place(discovery.OfProvider("openai"), []discovery.Instance{{Address: "127.0.0.1:8081", Part: "pod", Weight: 1,
		State: discovery.Serving}})
	wake(x.moved)
	<-failed
	claim.Release()
	testenv.Eventually(t, "the endpoints are live", func() bool {
		x.mu.Lock()
		defer x.mu.Unlock()
		return !x.behind(x.live)
	})
}

// TestARenewedCertificateIsWrittenLater where Envoy's next start could not be given it at once.
func TestARenewedCertificateIsWrittenLater(t *testing.T) {
	t.Parallel()
	x, failed := following(t, unrenewed)
	path := BootstrapTLS(x.source.dir).Identity
	if err := errors.Join(os.Remove(path), os.MkdirAll(filepath.Join(path, "in the way"), 0o700), x.source.issuer.Renew()); err != nil {
		t.Fatal(err)
	}
	wake(x.renewal)
	<-failed
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, "the certificate is there", func() bool {
		_, err := os.ReadFile(path)
		return err == nil
	})
}
