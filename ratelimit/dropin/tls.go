package dropin

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
)

// serverTLS is how Envoys connect: our certificate, and theirs if a CA is named.
func (s *Settings) serverTLS() (*tls.Config, error) {
	own := &keyPair{cert: s.ServerCert, key: s.ServerKey}
	if _, err := own.load(nil); err != nil {
		return nil, fmt.Errorf("GRPC_SERVER_TLS_CERT: %w", err)
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2"}, GetCertificate: own.load}
	if s.ClientCA == "" {
		return c, nil
	}
	var err error
	if c.ClientCAs, err = roots(s.ClientCA); err != nil {
		return nil, fmt.Errorf("GRPC_CLIENT_TLS_CACERT: %w", err)
	}
	c.ClientAuth = tls.RequireAndVerifyClientCert
	if s.ClientSAN != "" {
		c.VerifyConnection = func(state tls.ConnectionState) error { return named(state.PeerCertificates[0], s.ClientSAN) }
	}
	return c, nil
}

// named wants a certificate of a name: a host or a URI.
func named(c *x509.Certificate, name string) error {
	for _, uri := range c.URIs {
		if uri.String() == name {
			return nil
		}
	}
	if slices.Contains(c.EmailAddresses, name) {
		return nil
	}
	return c.VerifyHostname(name)
}

// clientTLS is how we connect to others. Empty files: no certificate of ours, the system's
// roots. anyName takes a server's certificate whatever its name is, if the roots issued it.
func clientTLS(cert, key, ca, name string, anyName bool) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: name}
	if cert != "" {
		own := &keyPair{cert: cert, key: key}
		if _, err := own.load(nil); err != nil {
			return nil, err
		}
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return own.load(nil) }
	}
	if ca != "" {
		var err error
		if c.RootCAs, err = roots(ca); err != nil {
			return nil, err
		}
	}
	if anyName {
		c.InsecureSkipVerify = true // VerifyConnection checks all but the name
		c.VerifyConnection = func(state tls.ConnectionState) error {
			between := x509.NewCertPool()
			for _, one := range state.PeerCertificates[1:] {
				between.AddCert(one)
			}
			_, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: c.RootCAs, Intermediates: between})
			return err
		}
	}
	return c, nil
}

func roots(path string) (*x509.CertPool, error) {
	text, err := config.ReadAtMost(path, config.MaxPEM)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s: no certificate in it", path)
	}
	return pool, nil
}

// keyPair is a certificate in files, read again when they change.
type keyPair struct {
	cert, key string

	mu   sync.Mutex
	info [2]fs.FileInfo
	pair *tls.Certificate
}

// load implements tls.Config.GetCertificate. While new files are not a pair the old one stays.
func (k *keyPair) load(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var now [2]fs.FileInfo
	var errs [2]error
	for i, path := range []string{k.cert, k.key} {
		now[i], errs[i] = os.Stat(path)
	}
	err := errors.Join(errs[:]...)
	if err == nil && k.pair != nil && same(now[0], k.info[0]) && same(now[1], k.info[1]) {
		return k.pair, nil
	}
	if err == nil {
		var pair tls.Certificate
		if pair, err = k.read(); err == nil {
			k.pair, k.info = &pair, now
		}
	}
	if k.pair != nil {
		return k.pair, nil
	}
	return nil, err
}

// read is called in the middle of handshakes: a pipe or a device in a file's place holds none up for good.
func (k *keyPair) read() (pair tls.Certificate, err error) {
	var text [2][]byte
	for i, path := range []string{k.cert, k.key} {
		if text[i], err = config.ReadAtMost(path, config.MaxPEM); err != nil {
			return pair, err
		}
	}
	return tls.X509KeyPair(text[0], text[1])
}

func same(a, b fs.FileInfo) bool {
	return os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size()
}
