package mtls

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/big"
	"net/url"
	"path/filepath"
	"sync"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/retry"
	"github.com/leaky-tokens/leaky-tokens/internal/secretfile"
)

const (
	rootLifetime = 10 * 365 * 24 * time.Hour
	// early is how long before it was made a certificate is valid, for clocks that differ.
	early = time.Minute
	// leastWait is how long after a failure a renewal is tried again.
	leastWait = time.Second
)

// Pair is a part's certificate and private key, PEM.
type Pair struct{ Certificate, Key []byte }

// Authority issues the parts' certificates. Only xds has one; replicas that share a state
// folder share its key.
type Authority struct {
	dir      string
	lifetime time.Duration
	log      *slog.Logger
	said     *retry.Troubles
	parts    []string
	root     tls.Certificate
	roots    []byte

	mu    sync.Mutex
	pairs map[string]Pair
	due   time.Time // when the next renewal is

	expires time.Time // when the first certificate does
}

// NewAuthority loads the root of a state folder, or makes one, and issues what the parts
// lack, and the Envoys of others by their names. lifetime is that of a part's certificate.
func NewAuthority(stateDir string, lifetime time.Duration, log *slog.Logger, others ...string) (*Authority, error) {
	a := &Authority{dir: stateDir, lifetime: lifetime, log: log, said: retry.NewTroubles(log), pairs: map[string]Pair{},
		parts: Parts()}
	for _, envoy := range others {
		a.parts = append(a.parts, Other(envoy))
	}
	text, err := secretfile.LoadOrCreate(filepath.Join(Dir(stateDir), "root.pem"), newRoot)
	if err != nil {
		return nil, fmt.Errorf("root certificate: %w", err)
	}
	if a.root, err = tls.X509KeyPair(text, text); err != nil {
		return nil, fmt.Errorf("root certificate: %w", err)
	}
	a.roots = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.root.Certificate[0]})
	if err := secretfile.Replace(RootsFile(stateDir), a.roots); err != nil {
		return nil, fmt.Errorf("write root certificate: %w", err)
	}
	_, err = a.renew(false)
	return a, err
}

// Roots is the root certificate, PEM.
func (a *Authority) Roots() []byte { return a.roots }

// Pair is a part's present certificate.
func (a *Authority) Pair(part string) Pair {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.pairs[part]
}

// Expires is when the first of the certificates does; one that is missing, and could not be made, has
// expired.
func (a *Authority) Expires() time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.expires
}

// Renew issues every part a new certificate now.
func (a *Authority) Renew() error {
	_, err := a.renew(true)
	return err
}

// Run renews each certificate at half of its life until ctx ends, and calls renewed after each round that
// made one. One that fails, such as on a full disk, is tried again each second: the other half of its life
// is there for that.
func (a *Authority) Run(ctx context.Context, renewed func()) {
	for {
		a.mu.Lock()
		wait := max(time.Until(a.due), leastWait)
		a.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		const failed = "certificates are not renewed, the present ones stay"
		fresh, err := a.renew(false)
		if err != nil {
			a.said.Say(ctx, slog.LevelError, failed, err)
		} else {
			a.said.Over(ctx, failed, "all certificates are renewed again")
		}
		if fresh {
			a.log.LogAttrs(ctx, slog.LevelInfo, "certificates renewed")
			renewed()
		}
	}
}

// renew issues what is missing or past half of its life, or everything. It reports whether a part has
// another certificate than before, which one may though others failed.
func (a *Authority) renew(all bool) (fresh bool, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var errs []error
	now := time.Now()
	a.due, a.expires = now.Add(a.lifetime/2), now.Add(a.lifetime)
	for _, part := range a.parts {
		path := CertificateFile(a.dir, part)
		text, half, end, err := a.present(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			a.log.LogAttrs(context.Background(), slog.LevelWarn, "a certificate is made anew", slog.String("part", part), slog.Any("reason", err))
		}
		if err != nil {
			end = now
		}
		if all || err != nil || !now.Before(half) {
			half = now // to be tried again, unless it succeeds
			if text, err = a.issue(part, now); err == nil {
				err = secretfile.Replace(path, text)
			}
			if err == nil {
				half, end = now.Add(a.lifetime/2), now.Add(a.lifetime)
			}
		}
		if end.Before(a.expires) {
			a.expires = end
		}
		if half.Before(a.due) {
			a.due = half
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("issue the certificate of %s: %w", part, err))
			continue
		}
		certificate, key := split(text)
		fresh = fresh || !bytes.Equal(certificate, a.pairs[part].Certificate)
		a.pairs[part] = Pair{Certificate: certificate, Key: key}
	}
	return fresh, errors.Join(errs...)
}

// present is a certificate that is there and of this root, when half of its life is over,
// and when all of it.
func (a *Authority) present(path string) (text []byte, half, end time.Time, err error) {
	if text, err = secretfile.Load(path); err != nil {
		return nil, half, end, err
	}
	pair, err := tls.X509KeyPair(text, text)
	if err != nil {
		return nil, half, end, err
	}
	if err := pair.Leaf.CheckSignatureFrom(a.root.Leaf); err != nil {
		return nil, half, end, err
	}
	made := pair.Leaf.NotBefore.Add(early)
	life := min(pair.Leaf.NotAfter.Sub(made), a.lifetime) // a life that was shortened counts at once
	return text, made.Add(life / 2), pair.Leaf.NotAfter, nil
}

// issue makes a key and a certificate for both ends of connections.
func (a *Authority) issue(part string, now time.Time) ([]byte, error) {
	id, err := url.Parse(ID(part))
	if err != nil {
		return nil, err
	}
	return sign(&x509.Certificate{Subject: pkix.Name{CommonName: part}, URIs: []*url.URL{id}, NotBefore: now.Add(-early),
		NotAfter: now.Add(a.lifetime),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true},
		a.root.Leaf, a.root.PrivateKey)
}

func newRoot() ([]byte, error) {
	now := time.Now()
	return sign(&x509.Certificate{Subject: pkix.Name{CommonName: "leaky-tokens"}, NotBefore: now.Add(-early), NotAfter: now.Add(rootLifetime),
		KeyUsage: x509.KeyUsageCertSign, IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true}, nil, nil)
}

// sign makes a P-256 key and its certificate, PEM; without a parent it signs itself.
func sign(c, parent *x509.Certificate, by any) ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	if parent == nil {
		parent, by = c, key
	}
	if c.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)); err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), by)
	if err != nil {
		return nil, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY",
		Bytes: private})...), nil
}

// split takes apart what sign made.
func split(text []byte) (certificate, key []byte) {
	first, rest := pem.Decode(text)
	if first == nil {
		return nil, nil
	}
	return pem.EncodeToMemory(first), rest
}
