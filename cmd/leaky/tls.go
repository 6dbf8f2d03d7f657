package main

import (
	"crypto/tls"
	"net"
	"net/http"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/leaky-tokens/leaky-tokens/internal/mtls"
	"github.com/leaky-tokens/leaky-tokens/internal/netaddr"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

// peers is how the parts of this machine call each other.
type peers struct {
	mutual bool
	dir    string // state folder
	part   string // who calls
}

func (s service) peers() peers {
	return peers{mutual: s.cfg.TLS.Mutual(), dir: s.dir, part: s.name}
}

// peers is how the command line calls services.
func (l local) peers() peers {
	return peers{mutual: l.cfg.TLS.Mutual(), dir: l.dir, part: topology.Supervisor}
}

// guarded puts the service's certificate before a listener on TCP; a Unix socket has the
// mode of its file.
func (p peers) guarded(ln net.Listener) net.Listener {
	callers := mtls.Callers(p.part)
	if !p.mutual || callers == nil || ln.Addr().Network() == "unix" {
		return ln
	}
	return tls.NewListener(ln, mtls.Server(p.dir, p.part, callers...))
}

// url is the base URL of a service's HTTP side.
func (p peers) url(address string) string {
	if p.mutual {
		return "https://" + address
	}
	return "http://" + address
}

// tls is what the HTTP side of a service is called with; nil: nothing.
func (p peers) tls(service string) *tls.Config {
	if !p.mutual {
		return nil
	}
	return mtls.Client(p.dir, p.part, service)
}

// client calls the HTTP side of a service; timeout bounds a whole call.
func (p peers) client(service string, timeout time.Duration) *http.Client {
	if p.mutual {
		return mtls.HTTPClient(p.dir, p.part, service, timeout)
	}
	return &http.Client{Timeout: timeout, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// credentials are for the gRPC side of a service.
func (p peers) credentials(service string, at netaddr.Addr) credentials.TransportCredentials {
	if !p.mutual || at.Network == "unix" {
		return insecure.NewCredentials()
	}
	return credentials.NewTLS(mtls.Client(p.dir, p.part, service))
}
