package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
)

// gatewayTLS trusts the certificate that the gateway of this machine shows, whoever issued it: it is
// called by its address here, which few certificates have. Nil: it shows none.
func (l local) gatewayTLS() (*tls.Config, error) {
	t := l.cfg.Gateway.TLS
	if !t.On() {
		return nil, nil
	}
	text, err := config.ReadAtMost(l.besideConfig(t.Certificate), config.MaxPEM)
	if err != nil {
		return nil, fmt.Errorf("gateway.tls.certificate: %w", err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("gateway.tls.certificate: %s holds no certificate", t.Certificate)
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("gateway.tls.certificate: %w", err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(text)
	c := &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	if len(leaf.DNSNames) > 0 {
		c.ServerName = leaf.DNSNames[0]
	}
	return c, nil
}
