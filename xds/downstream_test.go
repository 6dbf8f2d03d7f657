package xds_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io/fs"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/settings"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// certificate makes a self-signed one and puts it and its key into files.
func certificate(t *testing.T, certFile, keyFile, name string, ends time.Time) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	made := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: ends, IsCA: true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, made, made, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
	rewrite(t, keyFile, string(keyPEM))
	rewrite(t, certFile, string(certPEM))
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

// shown is the name in the certificate that the gateway shows to a client; an error: none that it
// lets in.
func shown(g *gateway, own ...tls.Certificate) (string, error) {
	dialer := &net.Dialer{Timeout: 10 * time.Second}
	conn, err := tls.DialWithDialer(dialer, "tcp", strings.TrimPrefix(g.url, "http://"),
		&tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12, // the name is what is looked at
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { // whatever is asked for
				if len(own) == 0 {
					return &tls.Certificate{}, nil
				}
				return &own[0], nil
			}})
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("GET /actuator/health HTTP/1.0\r\n\r\n")); err != nil {
		return "", err
	}
	if _, err := conn.Read(make([]byte, 1)); err != nil { // TLS 1.3 refuses a client only then
		return "", err
	}
	return conn.ConnectionState().PeerCertificates[0].Subject.CommonName, nil
}

// TestDownstreamTLS shows the certificate of the files, a new one as soon as it is there, and the
// one before while they hold nothing good.
func TestDownstreamTLS(t *testing.T) {
	t.Parallel()
	g, path := fromFile(t, nowhere)
	cert, key := filepath.Join(g.dir, "tls.crt"), filepath.Join(g.dir, "tls.key")
	certificate(t, cert, key, "one.example", time.Now().Add(time.Hour))
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	rewrite(t, path, strings.Replace(string(text), `listen: "127.0.0.1:0"`, `listen: "127.0.0.1:0", tls: {certificate: tls.crt, key: tls.key}`, 1))
	wantShown := func(name string) {
		t.Helper()
		testenv.Eventually(t, "the certificate of "+name, func() bool {
			got, err := shown(g)
			return err == nil && got == name
		})
	}
	wantShown("one.example")
	certificate(t, cert, key, "two.example", time.Now().Add(time.Hour))
	wantShown("two.example")
	certificate(t, cert, key, "late.example", time.Now().Add(-time.Minute))
	testenv.Eventually(t, "the reason", func() bool {
		problem := g.xds.Problem()
		return problem != nil && strings.Contains(problem.Error(), "expired at")
	})
	wantShown("two.example")
	certificate(t, cert, key, "three.example", time.Now().Add(time.Hour))
	wantShown("three.example")
	if problem := g.xds.Problem(); problem != nil && strings.Contains(problem.Error(), "tls") {
		t.Errorf("want no problem, got %v", problem)
	}
}

// TestACertificateMayComeLate: leaky.yaml that names it waits for it, and is refused for nobody.
func TestACertificateMayComeLate(t *testing.T) {
	t.Parallel()
	g, path := fromFile(t, nowhere)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	rewrite(t, path, strings.Replace(string(text), `listen: "127.0.0.1:0"`, `listen: "127.0.0.1:0", tls: {certificate: tls.crt, key: tls.key}`, 1))
	testenv.Eventually(t, "what is missing is told", func() bool {
		f, problem := g.status(t).Refused, g.xds.Problem()
		return f != nil && f.Node == "" && strings.Contains(f.Reason, "tls.crt") && problem != nil && strings.Contains(problem.Error(), "tls.crt")
	})
	if _, err := os.Stat(filepath.Join(g.dir, settings.Folder, "refused")); !errors.Is(err, fs.ErrNotExist) || g.files.Problem() != nil {
		t.Errorf("want it refused for no other part, got %v, %v", err, g.files.Problem())
	}
	certificate(t, filepath.Join(g.dir, "tls.crt"), filepath.Join(g.dir, "tls.key"), "one.example", time.Now().Add(time.Hour))
	testenv.Eventually(t, "the certificate is shown", func() bool {
		got, err := shown(g)
		return err == nil && got == "one.example" && g.status(t).Refused == nil && g.xds.Problem() == nil
	})
}

// TestWhatEnvoyCannotRunIsRefusedForAll: no try helps a listener without an address, which the other parts
// would follow for ever while Envoy stays with what was before.
func TestWhatEnvoyCannotRunIsRefusedForAll(t *testing.T) {
	t.Parallel()
	g, path := fromFile(t, nowhere)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	rewrite(t, path, strings.Replace(string(text), `listen: "127.0.0.1:0"`, `listen: ":0"`, 1))
	if _, err := g.files.Accept(); err != nil { // another address is held else
		t.Fatal(err)
	}
	testenv.Eventually(t, "the mistake is told", func() bool {
		f := g.status(t).Refused
		return f != nil && f.Node == "" && strings.Contains(f.Reason, "SocketAddress.Address")
	})
	if err := g.xds.Problem(); err != nil {
		t.Errorf("want it to wait for nothing, got %v", err)
	}
	other := settings.New(path, g.dir, func(string) string { return "" }, slog.New(slog.DiscardHandler))
	follows, err := other.Open()
	if err != nil {
		t.Fatal(err)
	}
	if _, refused := errors.AsType[*settings.RefusedError](other.Problem()); !refused || follows.Config.Gateway.Listen != "127.0.0.1:0" {
		t.Errorf("want another part to start with what Envoy runs, got %s, %v", follows.Config.Gateway.Listen, other.Problem())
	}
}

// TestClientCertificates are asked for by a switch.
func TestClientCertificates(t *testing.T) {
	t.Parallel()
	for mode, c := range map[string]struct{ none, own, other bool }{
		config.ClientsOff:      {true, true, true},
		config.ClientsOptional: {true, true, false},
		config.ClientsRequired: {false, true, false},
	} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			var own, other tls.Certificate
			g := startWith(t, func(g *gateway, cfg *config.Config) {
				at := func(name string) string { return filepath.Join(g.dir, name) }
				certificate(t, at("tls.crt"), at("tls.key"), "gateway.example", time.Now().Add(time.Hour))
				own = certificate(t, at("own.crt"), at("own.key"), "own.example", time.Now().Add(time.Hour))
				other = certificate(t, at("other.crt"), at("other.key"), "other.example", time.Now().Add(time.Hour))
				cfg.Gateway.TLS = config.GatewayTLS{Certificate: at("tls.crt"), Key: at("tls.key"), Clients: mode, ClientRoots: at("own.crt")}
			}, nil)
			for name, who := range map[string]struct {
				certificates []tls.Certificate
				let          bool
			}{"none": {nil, c.none}, "own": {[]tls.Certificate{own}, c.own}, "other": {[]tls.Certificate{other}, c.other}} {
				if _, err := shown(g, who.certificates...); (err == nil) != who.let {
					t.Errorf("%s: want it let in: %v, got %v", name, who.let, err)
				}
			}
		})
	}
}
