package xds_test

import (
	"crypto/tls"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
	"github.com/leaky-tokens/leaky-tokens/internal/mtls"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// guarded is tokensvc behind its certificate. It notes which of Envoy's it saw, and asks
// for a new connection now and then.
type guarded struct {
	address string
	calls   atomic.Int64
	mu      sync.Mutex
	serials map[string]bool
}

func (s *guarded) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.serials[r.TLS.PeerCertificates[0].SerialNumber.String()] = true
	s.mu.Unlock()
	if s.calls.Add(1)%10 == 0 {
		w.Header().Set("Connection", "close")
	}
	httpapi.WriteJSON(w, http.StatusOK, map[string]bool{"ok": true})
}

func (s *guarded) seen() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.serials)
}

// startMutual is a gateway whose parts show each other certificates of a short life.
func startMutual(t *testing.T, lifetime time.Duration) (*gateway, *guarded, *config.Config) {
	t.Helper()
	service := &guarded{serials: map[string]bool{}}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	service.address = ln.Addr().String()
	var asked *config.Config
	var dir string
	g := startWith(t, func(g *gateway, c *config.Config) {
		c.TLS = config.TLS{Mode: config.TLSMutual, Lifetime: lifetime}
		c.Services.TokenSvc.HTTP = service.address
		asked, dir = c, g.dir
		done := make(chan error, 1)
		go func() {
			done <- httpapi.Serve(t.Context(), tls.NewListener(ln, mtls.Server(dir, "tokensvc", mtls.Callers("tokensvc")...)), service)
		}()
		t.Cleanup(func() { // the test's context has ended by now
			if err := <-done; err != nil {
				t.Errorf("tokensvc: %v", err)
			}
		})
	}, nil)
	return g, service, asked
}

// TestCertificatesRotateWithoutALostRequest under load, twice and more.
func TestCertificatesRotateWithoutALostRequest(t *testing.T) {
	t.Parallel()
	g, service, _ := startMutual(t, 2*time.Second)
	stop := make(chan struct{})
	var clients sync.WaitGroup
	var lost, calls atomic.Int64
	for range 4 {
		clients.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if a := g.do(t, "GET", "/api/v1/tokens/quota", ""); a.status != 200 {
					lost.Add(1)
					t.Logf("lost: %d %s", a.status, a.body)
				}
				calls.Add(1)
			}
		})
	}
	testenv.Eventually(t, "two rotations", func() bool { return service.seen() >= 3 })
	close(stop)
	clients.Wait()
	if lost.Load() > 0 {
		t.Errorf("lost %d of %d requests", lost.Load(), calls.Load())
	}
	t.Logf("%d requests, %d certificates, none lost", calls.Load(), service.seen())
}

// TestEnvoyProvesItselfToXDS also after its certificate was renewed and xds restarted.
func TestEnvoyProvesItselfToXDS(t *testing.T) {
	t.Parallel()
	g, service, cfg := startMutual(t, 3*time.Second)
	if a := g.do(t, "GET", "/api/v1/tokens/quota", ""); a.status != 200 || service.calls.Load() != 1 {
		t.Fatalf("want the service reached, got %+v", a)
	}
	conn, err := net.Dial("tcp", g.at)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	bare := tls.Client(conn, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err = bare.HandshakeContext(t.Context()); err == nil { // in TLS 1.3 the refusal follows the client's last word
		_, err = bare.Read(make([]byte, 1))
	}
	if err == nil {
		t.Error("xds answered a caller without a certificate")
	}
	testenv.Eventually(t, "a renewed certificate", func() bool {
		g.do(t, "GET", "/api/v1/tokens/quota", "")
		return service.seen() >= 2
	})
	g.stopXDS()
	g.again = true
	g.startXDS(t, cfg, nil)
	testenv.Eventually(t, "envoy is back", func() bool {
		var page struct{ Clients []struct{ Node string } }
		g.page(t, "/v1/clients", &page)
		return len(page.Clients) == 1
	})
}
