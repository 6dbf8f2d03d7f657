package xds

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
)

// inPlace are what may stand in a file's place by mistake, and is neither waited for nor read to its end.
func inPlace() map[string]func(path string) error {
	return map[string]func(path string) error{
		"a pipe":   func(path string) error { return syscall.Mkfifo(path, 0o600) },
		"a device": func(path string) error { return os.Symlink("/dev/zero", path) },
	}
}

// TestWhatIsNoFileHoldsUpNoKey: the key that was read before is used on, and one that never was is told.
func TestWhatIsNoFileHoldsUpNoKey(t *testing.T) {
	t.Parallel()
	for name, put := range inPlace() {
		path := filepath.Join(t.TempDir(), "openai.key")
		if err := os.WriteFile(path, []byte("secret\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		read := func(k *keys) (string, error) { return k.read("", "openai", config.ProviderKey{APIKeyFile: path}) }
		known := &keys{getenv: os.Getenv, last: map[string]string{}}
		if key, err := read(known); err != nil || key != "secret" {
			t.Fatalf("got %q, %v", key, err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if err := put(path); err != nil {
			t.Fatal(err)
		}
		if key, err := read(known); err != nil || key != "secret" {
			t.Errorf("%s: want the key of before, got %q, %v", name, key, err)
		}
		if key, err := read(&keys{getenv: os.Getenv, last: map[string]string{}}); err == nil {
			t.Errorf("%s: want it told, got %q", name, key)
		}
	}
}

// TestWhatIsNoFileHoldsUpNoCertificate, whichever of the two files it replaces.
func TestWhatIsNoFileHoldsUpNoCertificate(t *testing.T) {
	t.Parallel()
	for name, put := range inPlace() {
		for _, file := range []string{"tls.crt", "tls.key"} {
			dir := t.TempDir()
			selfSigned(t, dir)
			files := config.GatewayTLS{Certificate: filepath.Join(dir, "tls.crt"), Key: filepath.Join(dir, "tls.key"), Clients: config.ClientsOff}
			certs := newCertificates()
			good, stale, err := certs.read("", files)
			if err != nil || stale != "" {
				t.Fatalf("got %q, %v", stale, err)
			}
			path := filepath.Join(dir, file)
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			if err := put(path); err != nil {
				t.Fatal(err)
			}
			if got, stale, err := certs.read("", files); err != nil || stale == "" || *got != *good {
				t.Errorf("%s as %s: want the certificate of before and why, got %q, %v", name, file, stale, err)
			}
			if _, _, err := newCertificates().read("", files); err == nil {
				t.Errorf("%s as %s: want it told where there is none of before", name, file)
			}
		}
	}
}

// selfSigned puts a certificate and its key into tls.crt and tls.key.
func selfSigned(t *testing.T, dir string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	made := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, made, made, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{"tls.crt": {Type: "CERTIFICATE", Bytes: der}, "tls.key": {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
