//go:build long

package helm

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/ports"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/toolcache"
)

// operator is where the definitions of ServiceMonitor and PrometheusRule are.
const operator = "github.com/prometheus-operator/prometheus-operator@v0.85.0"

// cluster is a Kubernetes API server with its etcd. It has no nodes and no controllers: what it took
// stays as it was taken, and release.finish ends what somebody waits for.
type cluster struct {
	url        string
	token      string
	kubeconfig string
	client     *http.Client
}

// startCluster starts one that knows the kinds of the Prometheus operator, too.
func startCluster(t *testing.T) *cluster {
	t.Helper()
	dir := t.TempDir()
	at, err := ports.Free(3)
	if err != nil {
		t.Fatal(err)
	}
	store, peer := "http://"+at[0], "http://"+at[1]
	plain := &cluster{url: store, client: http.DefaultClient}
	testenv.Program(t, exec.Command(program(t, "etcd", "go.etcd.io/etcd/server/v3", "go.etcd.io/etcd/server/v3"),
		"--data-dir", filepath.Join(dir, "etcd"), "--unsafe-no-fsync", "--logger=zap", "--log-level=warn",
		"--listen-client-urls", store, "--advertise-client-urls", store,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "default="+peer),
		func(ctx context.Context) error { return plain.call(ctx, "GET", "/health", "", nil, nil) })

	c := &cluster{url: "https://" + at[2], token: rand.Text(), kubeconfig: filepath.Join(dir, "kubeconfig")}
	_, port, _ := strings.Cut(at[2], ":")
	certificate, key, tokens := filepath.Join(dir, "apiserver.crt"), filepath.Join(dir, "accounts.pem"), filepath.Join(dir, "tokens.csv")
	write(t, tokens, c.token+",admin,admin,system:masters\n")
	write(t, key, privateKey(t))
	write(t, c.kubeconfig, fmt.Sprintf(`{"apiVersion": "v1", "kind": "Config", "current-context": "test",
"clusters": [{"name": "test", "cluster": {"server": %q, "certificate-authority": %q}}],
"users": [{"name": "test", "user": {"token": %q}}],
"contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}]}`, c.url, certificate, c.token))
	testenv.Program(t, exec.Command(program(t, "kube-apiserver", "k8s.io/kubernetes", "k8s.io/kubernetes/cmd/kube-apiserver"),
		"--etcd-servers", store, "--bind-address", "127.0.0.1", "--advertise-address", "127.0.0.1", "--secure-port", port,
		"--endpoint-reconciler-type=none", "--cert-dir", dir, "--token-auth-file", tokens, "--authorization-mode=RBAC",
		"--service-cluster-ip-range", "10.96.0.0/16", "--service-account-issuer", "https://kubernetes.default.svc",
		"--service-account-key-file", key, "--service-account-signing-key-file", key),
		func(ctx context.Context) error { return c.ready(ctx, certificate) })
	c.learn(t)
	return c
}

// program builds a program of another module, whose versions testdata/NAME/go.mod pins, the first
// time: the API server takes a quarter of an hour of processor.
func program(t *testing.T, name, module, pkg string) string {
	t.Helper()
	source := filepath.Join("testdata", name)
	out, err := exec.CommandContext(t.Context(), "go", "-C", source, "list", "-m", "-f", "{{.Version}}", module).Output()
	if err != nil {
		t.Fatal(err)
	}
	version := strings.TrimSpace(string(out))
	number := strings.SplitN(strings.TrimPrefix(version, "v"), ".", 3)
	flags := "-s -w"
	for variable, value := range map[string]string{"gitVersion": version, "gitMajor": number[0], "gitMinor": number[1]} {
		flags += " -X k8s.io/component-base/version." + variable + "=" + value // what the API server says it is
	}
	folder := toolcache.Folder(t, filepath.Join("tools", name+"-"+version), func(into string) []string {
		return []string{"env", "CGO_ENABLED=0", "GOFLAGS=", "go", "-C", source, "build", "-trimpath", "-ldflags", flags,
			"-o", filepath.Join(into, name), pkg}
	})
	return filepath.Join(folder, name)
}

// ready reports what keeps the server from answering; it trusts the certificate that the server made itself.
func (c *cluster) ready(ctx context.Context, certificate string) error {
	text, err := os.ReadFile(certificate)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(text)
	c.client = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}}
	return c.call(ctx, "GET", "/readyz", "", nil, nil)
}

// learn gives the server the kinds of the Prometheus operator.
func (c *cluster) learn(t *testing.T) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "mod", "download", "-json", operator).Output()
	if err != nil {
		t.Fatal(err)
	}
	var module struct{ Dir string }
	if err := json.Unmarshal(out, &module); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"servicemonitors", "prometheusrules"} {
		text, err := os.ReadFile(filepath.Join(module.Dir, "example", "prometheus-operator-crd", "monitoring.coreos.com_"+kind+".yaml"))
		if err != nil {
			t.Fatal(err)
		}
		c.create(t, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", string(text))
		testenv.Eventually(t, kind+" are known", func() bool {
			return c.call(t.Context(), "GET", "/apis/monitoring.coreos.com/v1/"+kind, "", nil, nil) == nil
		})
	}
}

// create makes an object of a YAML text, each field of which Kubernetes has to know.
func (c *cluster) create(t *testing.T, path, text string) {
	t.Helper()
	if err := c.call(t.Context(), "POST", path+"?fieldValidation=Strict", "application/yaml", []byte(text), nil); err != nil {
		t.Fatal(err)
	}
}

// call sends one request; what is no 2xx is an error with the server's words.
func (c *cluster) call(ctx context.Context, method, path, kind string, body []byte, dst any) error {
	req, err := http.NewRequestWithContext(ctx, method, c.url+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	req.Header.Set("Content-Type", kind)
	req.Header.Set("Accept", "application/json")
	res, err := c.client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode/100 != 2 {
		return fmt.Errorf("%s %s: status %d: %s", method, path, res.StatusCode, text)
	}
	if dst != nil {
		return json.Unmarshal(text, dst)
	}
	return nil
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// privateKey is one for the tokens of service accounts, which nobody here uses.
func privateKey(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))
}
