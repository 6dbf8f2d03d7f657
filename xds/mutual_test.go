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

// renew gives every part a new certificate now, as xds does at half of their life.
func (g *gateway) renew(t *testing.T) {
	t.Helper()
	if err := g.xds.RenewCertificates(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func (s *guarded) seen() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.serials)
}

// startMutual is a gateway whose parts show each other certificates.
func startMutual(t *testing.T) (*gateway, *guarded, *config.Config) {
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
		c.TLS = config.TLS{Mode: config.TLSMutual, Lifetime: time.Hour}
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

// TestCertificatesRotateWithoutALostRequest under load, three times. They are renewed by hand:
// on a busy machine a certificate of seconds expires before Envoy has the next one. That they
// are renewed at half of their life is internal/mtls's to show.
func TestCertificatesRotateWithoutALostRequest(t *testing.T) {
	t.Parallel()
	g, service, _ := startMutual(t)
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
	// One that is renewed before the first call is never shown, and would not be counted.
	testenv.Eventually(t, "the service sees the first certificate", func() bool { return service.seen() >= 1 })
	for n := range 3 {
		g.renew(t)
		testenv.Eventually(t, "the service sees the new certificate", func() bool { return service.seen() >= n+2 })
	}
	close(stop)
	clients.Wait()
	t.Logf("%d requests, %d certificates, %d lost", calls.Load(), service.seen(), lost.Load())
	if lost.Load() > 0 {
		t.Errorf("lost %d of %d requests", lost.Load(), calls.Load())
	}
}

// TestEnvoyProvesItselfToXDS also after its certificate was renewed and xds restarted.
func TestEnvoyProvesItselfToXDS(t *testing.T) {
	t.Parallel()
	g, service, cfg := startMutual(t)
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
	g.renew(t)
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
