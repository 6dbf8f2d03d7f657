//go:build long

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/stacktest"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// TestBadPushesChangeNothing pushes what must not be taken, by command and by editing the file,
// while clients call: no call fails, the reason is told, and Envoy runs the version from before.
func TestBadPushesChangeNothing(t *testing.T) {
	who := newAccount(t, "VAST")
	text, err := os.ReadFile(running.Config)
	if err != nil {
		t.Fatal(err)
	}
	whole := string(text)
	edit := func(old, with string) string {
		if !strings.Contains(whole, old) {
			t.Fatalf("%q is not in leaky.yaml", old)
		}
		return strings.Replace(whole, old, with, 1)
	}
	limits, err := os.ReadFile(limitsFile())
	if err != nil {
		t.Fatal(err)
	}
	tls := func(certificate, key string) string {
		return edit("gateway: {", fmt.Sprintf("gateway: {tls: {certificate: %q, key: %q}, ", certificate, key))
	}
	certs := filepath.Dir(running.Config) // xds is another user, and reads here
	late, lateKey := selfSigned(t, certs, "late", time.Now().Add(-time.Hour))
	good, _ := selfSigned(t, certs, "good", time.Now().Add(time.Hour))
	before := settled(t)
	stop := load(t, who)
	for _, c := range []struct{ name, text, told string }{
		{"an unknown key", edit("gateway:", "gatway:"), "gatway"},
		// Not at the end of a line: a push of what reads well is meant, and says what is gone.
		{"half a file", whole[:strings.LastIndex(whole[:len(whole)/2], "{")+1], "leaky.yaml:"},
		{"nothing", "", "the file says nothing"},
		{"50 MB", strings.Repeat("# large\n", 50<<17), "more than 4194304 bytes"},
		{"a YAML bomb", "a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n" + whole, ": unknown key"},
		{"tabs", edit("  default: USER", "\tdefault: USER"), "cannot start any token"},
		{"a key twice", whole + "\ntiers: {default: USER}\n", `"tiers" already defined`},
		{"the address of a cloud's credentials", edit(`protocol: gemini, url: "http://`, `protocol: gemini, url: "http://169.254.169.254/`), "no provider is at 169.254.169.254"},
		{"an address that cannot be bound", edit(`gateway: {listen: "127.0.0.1:`, `gateway: {listen: "192.0.2.77:`), "192.0.2.77"},
		{"a certificate that does not fit its key", tls(good, lateKey), "private key does not match public key"},
		{"a certificate that has expired", tls(late, lateKey), "expired at"},
		{"a certificate that is not there", tls(filepath.Join(certs, "gone"), lateKey), "no such file"},
		{"a model of a provider that is gone", edit("  qwen: {protocol: openai", "  qwen2: {protocol: openai"), `"qwen" is not known`},
		{"a limits file that is not there", edit("limits: {file: limits.yaml", "limits: {file: gone.yaml"), "gone.yaml"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			file := filepath.Join(dir, "leaky.yaml")
			for path, text := range map[string]string{file: c.text, filepath.Join(dir, "limits.yaml"): string(limits)} {
				if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			out, err := running.Leaky(t.Context(), "push", file, "-m", c.name)
			if err == nil || !strings.Contains(out, c.told) {
				t.Errorf("want the push refused with %q, got %v %s", c.told, err, out)
			}
			after := state(t)
			if last := after.Configuration.LastPush; last == nil || !strings.Contains(last.Reason, c.told) {
				t.Errorf("want the reason in leaky status, got %+v", after)
			}
			if now, err := os.ReadFile(running.Config); err != nil || string(now) != whole {
				t.Errorf("want the file as before, got %v", err)
			}
			unchanged(t, before)
			// The same by an editor.
			if err := os.WriteFile(running.Config, []byte(c.text), 0o644); err != nil {
				t.Fatal(err)
			}
			testenv.Eventually(t, "the reason in leaky status", func() bool {
				s := state(t)
				return !s.Ready && strings.Contains(strings.Join(s.Reasons, "\n"), c.told)
			})
			unchanged(t, before)
			if err := os.WriteFile(running.Config, []byte(whole), 0o644); err != nil {
				t.Fatal(err)
			}
			testenv.Eventually(t, "all is well again", func() bool { return state(t).Ready })
		})
	}
	if out, err := running.Leaky(t.Context(), "restart", "xds"); err != nil {
		t.Errorf("restart xds: %v %s", err, out)
	}
	calls, failed := stop()
	if t.Logf("%d calls meanwhile, %d failed", calls, len(failed)); len(failed) > 0 || calls < 100 {
		t.Errorf("want no call failed, got %d of %d: %q", len(failed), calls, failed[:min(len(failed), 5)])
	}
	if out, err := running.Leaky(t.Context(), "restart", "envoy"); err != nil {
		t.Errorf("restart envoy: %v %s", err, out)
	}
	unchanged(t, before)
}

// selfSigned puts a certificate and its key into files and gives their paths.
func selfSigned(t *testing.T, dir, name string, ends time.Time) (certificate, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	made := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{name}, NotBefore: ends.Add(-24 * time.Hour), NotAfter: ends}
	der, err := x509.CreateCertificate(rand.Reader, made, made, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	certificate, key = filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key")
	for path, block := range map[string]*pem.Block{certificate: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: pkcs8}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o644); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.Remove(path) })
	}
	return certificate, key
}

// load calls the gateway without a pause until the function it gives is called, which tells how
// many calls there were and which failed.
func load(t *testing.T, who stacktest.Account) (stop func() (calls int64, failed []string)) {
	t.Helper()
	var (
		calls   atomic.Int64
		mu      sync.Mutex
		failed  []string
		clients sync.WaitGroup
		end     = make(chan struct{})
	)
	for range 4 {
		clients.Go(func() {
			for {
				select {
				case <-end:
					return
				default:
				}
				status, _, text, err := running.Send(t.Context(), "POST", "/v1/chat/completions", who.Key,
					map[string]any{"model": "gpt-4o", "max_tokens": 8, "messages": []any{map[string]any{"role": "user", "content": "hi"}}})
				calls.Add(1)
				if err != nil || status != http.StatusOK {
					mu.Lock()
					failed = append(failed, strings.TrimSpace(string(text)))
					mu.Unlock()
				}
			}
		})
	}
	return func() (int64, []string) {
		close(end)
		clients.Wait()
		return calls.Load(), failed
	}
}
