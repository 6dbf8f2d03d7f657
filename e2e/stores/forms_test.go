package stores

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/stacktest"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

// TestEveryFormOfAStoreStartsTheStack brings the whole product up on one form of each store after the
// other. `leaky up` ends well only when every part is ready and one call, by an account that was
// registered for it, was served, held, settled, and shows in the reports.
func TestEveryFormOfAStoreStartsTheStack(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "leaky")
	certificate, roots := localhost(t)
	three := testenv.NATSOfThree(t)
	redis, _ := testenv.RedisOfThree(t)
	for _, tc := range []struct {
		name  string
		env   []string
		quiet bool // it is looked at, too, what is said while Postgres is away
	}{
		{"redis cluster of three, postgres behind a pooler, nats cluster of three", []string{
			"LEAKY_REDIS_URL=" + redis, "LEAKY_POSTGRES_URL=" + testenv.PgBouncer(t), "LEAKY_NATS_URL=" + three.URL()}, false},
		{"redis by sentinel, nats elsewhere", []string{"LEAKY_REDIS_URL=" + testenv.RedisBySentinel(t), "LEAKY_NATS_URL=" + testenv.NATS(t)}, false},
		{"redis by tls", []string{"LEAKY_REDIS_URL=" + testenv.RedisByTLS(t, certificate), "SSL_CERT_FILE=" + roots}, false},
		{"redis on a socket", []string{"LEAKY_REDIS_URL=" + testenv.RedisOnSocket(t)}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := testenv.Folder(t)
			var options []stacktest.Option
			if _, err := os.Stat(bin); err == nil {
				options = append(options, stacktest.Built(bin))
			}
			s, err := stacktest.New(t.Context(), dir, 1, options...)
			if err != nil {
				t.Fatal(err)
			}
			if len(options) == 0 {
				if err := os.Link(s.Bin, bin); err != nil {
					t.Fatal(err)
				}
			}
			s.Env = append(s.Env, tc.env...)
			defer func() {
				if out, err := s.Leaky(context.WithoutCancel(t.Context()), "down"); err != nil {
					t.Error(out)
				}
			}()
			if out, err := s.Up(t.Context()); err != nil || !strings.Contains(out, "Proof: a call") {
				t.Fatalf("%v\n%s", err, out)
			}
			if out, err := s.Leaky(t.Context(), "status"); err != nil {
				t.Error(out)
			}
			if tc.quiet {
				defer someTraffic(t, s)()
				outage{topology.Postgres, false, []string{topology.TokenSvc, topology.Identity}}.oneLine(t, s, 8*time.Second)
			}
		})
	}
	outlived(t, three)
}

// outlived: in a cluster of three the streams have three copies, so that one server less is none.
func outlived(t *testing.T, three *testenv.NATSCluster) {
	t.Helper()
	nc, err := nats.Connect(three.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := usage.EnsureStream(t.Context(), js)
	if err != nil {
		t.Fatal(err)
	}
	if info := stream.CachedInfo(); info.Config.Replicas != 3 || info.State.Msgs == 0 {
		t.Fatalf("want three copies of what was published, got %d of %d messages", info.Config.Replicas, info.State.Msgs)
	}
	three.Stop(0)
	testenv.Eventually(t, "a message is stored with one server less", func() bool {
		_, err := js.Publish(t.Context(), "leaky.usage.v1.test", []byte("{}"))
		return err == nil
	})
}

// localhost makes a certificate for localhost, and a file of roots that trusts it.
func localhost(t *testing.T) (tls.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	roots := filepath.Join(testenv.Folder(t), "roots.pem")
	if err := os.WriteFile(roots, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644); err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, roots
}
