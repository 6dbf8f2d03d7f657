package xds

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/settings"
	"github.com/leaky-tokens/leaky-tokens/xds/model"
)

// certificates are those of the public listener. What was read once is used on while its files hold
// nothing that is good: the certificate and its key are replaced one after the other.
type certificates struct {
	now func() time.Time

	mu   sync.Mutex
	last map[config.GatewayTLS]model.ServerTLS
}

func newCertificates() *certificates {
	return &certificates{now: time.Now, last: map[config.GatewayTLS]model.ServerTLS{}}
}

// read gives what the files hold, and why it is what they held before; an error where there was
// nothing good before.
func (c *certificates) read(configPath string, t config.GatewayTLS) (out *model.ServerTLS, stale string, err error) {
	if !t.On() {
		return nil, "", nil
	}
	files := filesOf(configPath, t)
	fresh, err := readServerTLS(files, c.now())
	c.mu.Lock()
	defer c.mu.Unlock()
	before, had := c.last[files]
	switch {
	case err == nil:
		c.last[files] = fresh
		return &fresh, "", nil
	case had:
		return &before, fmt.Sprintf("the certificate that was there before is used on: %v", err), nil
	}
	return nil, "", err
}

// filesOf are the files by their whole paths.
func filesOf(configPath string, t config.GatewayTLS) config.GatewayTLS {
	for _, file := range []*string{&t.Certificate, &t.Key, &t.ClientRoots} {
		if *file != "" && !filepath.IsAbs(*file) && configPath != "" {
			*file = filepath.Join(filepath.Dir(configPath), *file)
		}
	}
	return t
}

func readServerTLS(files config.GatewayTLS, now time.Time) (model.ServerTLS, error) {
	out := model.ServerTLS{Clients: files.Clients}
	for _, f := range []struct {
		key, path string
		into      *string
	}{{"certificate", files.Certificate, &out.Certificate}, {"key", files.Key, &out.Key}, {"client_roots", files.ClientRoots, &out.Roots}} {
		if f.path == "" {
			continue
		}
		text, err := config.ReadAtMost(f.path, config.MaxPEM)
		if err != nil {
			return out, fmt.Errorf("gateway.tls.%s: %w", f.key, err)
		}
		*f.into = string(text)
	}
	pair, err := tls.X509KeyPair([]byte(out.Certificate), []byte(out.Key))
	if err != nil {
		return out, fmt.Errorf("gateway.tls.certificate: %s and %s: %w", files.Certificate, files.Key, err)
	}
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	switch {
	case err != nil:
		return out, fmt.Errorf("gateway.tls.certificate: %s: %w", files.Certificate, err)
	case now.After(leaf.NotAfter):
		return out, fmt.Errorf("gateway.tls.certificate: %s expired at %s", files.Certificate, leaf.NotAfter.UTC().Format(time.RFC3339))
	case now.Before(leaf.NotBefore):
		return out, fmt.Errorf("gateway.tls.certificate: %s is not valid before %s", files.Certificate, leaf.NotBefore.UTC().Format(time.RFC3339))
	}
	if out.Clients != config.ClientsOff && !x509.NewCertPool().AppendCertsFromPEM([]byte(out.Roots)) {
		return out, fmt.Errorf("gateway.tls.client_roots: %s holds no certificate", files.ClientRoots)
	}
	return out, nil
}

// certificateFiles are those that are looked at for changes.
func certificateFiles(set *settings.Settings) []string {
	if set == nil || !set.Config.Gateway.TLS.On() {
		return nil
	}
	var all []string
	files := filesOf(set.Path(), set.Config.Gateway.TLS)
	for _, file := range []string{files.Certificate, files.Key, files.ClientRoots} {
		if file != "" {
			all = append(all, file)
		}
	}
	return all
}
