// Package mtls is how the parts know each other on TCP: xds issues each a certificate
// whose only name is spiffe://leaky/PART, both sides of a connection show theirs, and each
// side takes one exact name. Certificates are short-lived files that are read anew when
// they change, so renewing one ends no connection.
//
// The names are SPIFFE IDs. go-spiffe would compare them, but takes certificates from a
// workload API, which a stack without containers does not have: reading files, which is
// most of what is here, would stay.
package mtls

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/leaky-tokens/leaky-tokens/internal/secretfile"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

// Parts are all that get a certificate.
func Parts() []string {
	guarded := topology.Having(func(p topology.Part) bool { return p.Callers != nil })
	return append([]string{topology.Gateway, topology.Supervisor}, topology.Names(guarded)...)
}

// Callers are the parts that may connect to a service; nil for one that speaks plainly.
func Callers(service string) []string {
	part, _ := topology.Find(service)
	return part.Callers
}

// Other is the part that an Envoy of others takes, by its name in limits.envoys.names.
func Other(envoy string) string { return topology.Envoy + "-" + envoy }

// ID is the one name in a part's certificate, a URI (SPIFFE ID, section 2).
func ID(part string) string { return "spiffe://leaky/" + part }

// Dir is where the certificates are, below the state folder.
func Dir(stateDir string) string { return filepath.Join(stateDir, "secrets", "tls") }

// CertificateFile holds a part's certificate and its private key, PEM, mode 0600.
func CertificateFile(stateDir, part string) string { return filepath.Join(Dir(stateDir), part+".pem") }

// RootsFile holds the certificate that all others are checked against, PEM.
func RootsFile(stateDir string) string { return filepath.Join(Dir(stateDir), "roots.pem") }

// Server is for the listener of a service: only the named callers connect, each with its
// certificate.
func Server(stateDir, service string, callers ...string) *tls.Config {
	own := &files{dir: stateDir, part: service}
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			pair, roots, err := own.load()
			if err != nil {
				return nil, err
			}
			return &tls.Config{
				MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}, ClientCAs: roots, ClientAuth: tls.RequireAndVerifyClientCert,
				NextProtos: []string{"h2", "http/1.1"}, SessionTicketsDisabled: true, // every connection shows a certificate that is valid now
				VerifyConnection: func(s tls.ConnectionState) error { return named(s, callers) },
			}, nil
		},
	}
}

// Client is for calls of one service by a part.
func Client(stateDir, part, service string) *tls.Config {
	own := &files{dir: stateDir, part: part}
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, _, err := own.load()
			return &pair, err
		},
		// The library would look for a host name. VerifyConnection checks the chain and the name
		// that the certificate has, with the roots as the file has them now.
		InsecureSkipVerify: true, //nolint:gosec // see above
		VerifyConnection: func(s tls.ConnectionState) error {
			_, roots, err := own.load()
			if err != nil {
				return err
			}
			if len(s.PeerCertificates) == 0 {
				return errors.New("the server shows no certificate")
			}
			if _, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots,
				KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err != nil {
				return err
			}
			return named(s, []string{service})
		},
	}
}

// named wants the peer's certificate to have exactly one name, and that among the allowed.
func named(s tls.ConnectionState, allowed []string) error {
	if len(s.PeerCertificates) == 0 {
		return errors.New("the peer shows no certificate")
	}
	peer := s.PeerCertificates[0]
	if len(peer.URIs) != 1 || len(peer.DNSNames)+len(peer.IPAddresses)+len(peer.EmailAddresses) > 0 {
		return errors.New("the peer's certificate must have one name, a URI")
	}
	name := peer.URIs[0].String()
	if !slices.ContainsFunc(allowed, func(part string) bool { return ID(part) == name }) {
		return fmt.Errorf("%s may not take this place", name)
	}
	return nil
}

// files are one part's certificate and the roots, kept until a file changes.
type files struct {
	dir, part string

	mu     sync.Mutex
	stamps [2]fs.FileInfo
	pair   tls.Certificate
	roots  *x509.CertPool
}

func (f *files) load() (tls.Certificate, *x509.CertPool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	paths := [2]string{CertificateFile(f.dir, f.part), RootsFile(f.dir)}
	var stamps [2]fs.FileInfo
	for i, path := range paths {
		info, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			return tls.Certificate{}, nil, fmt.Errorf("certificate of %s: %w; xds issues it when it starts", f.part, err)
		}
		if err != nil {
			return tls.Certificate{}, nil, fmt.Errorf("certificate of %s: %w", f.part, err)
		}
		stamps[i] = info
	}
	if f.roots != nil && same(stamps[0], f.stamps[0]) && same(stamps[1], f.stamps[1]) {
		return f.pair, f.roots, nil
	}
	text, err := secretfile.Load(paths[0])
	if err != nil {
		return tls.Certificate{}, nil, fmt.Errorf("certificate of %s: %w", f.part, err)
	}
	pair, err := tls.X509KeyPair(text, text)
	if err != nil {
		return tls.Certificate{}, nil, fmt.Errorf("certificate of %s: %w", f.part, err)
	}
	authority, err := os.ReadFile(paths[1])
	if err != nil {
		return tls.Certificate{}, nil, fmt.Errorf("root certificate: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(authority) {
		return tls.Certificate{}, nil, fmt.Errorf("root certificate %s: no certificate in it", paths[1])
	}
	f.stamps, f.pair, f.roots = stamps, pair, roots
	return pair, roots, nil
}

func same(a, b fs.FileInfo) bool { return os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) }
