package e2e

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/stacktest"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

const (
	strangerVariable = "LEAKY_TEST_STRANGER" // the test binary is then a process of another user
	strangerID       = 1234
	providerKey      = "sk-nobody-but-envoy-may-know-this"
)

// findings are what a process of another user found; each is a breach.
type findings []string

// stranger looks for what a process of another user must not find, at addresses given as
// arguments, and prints it.
func stranger(addresses []string) {
	found := findings{}
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	for _, at := range addresses {
		if path, ok := strings.CutPrefix(at, "file:"); ok {
			if text, err := os.ReadFile(path); err == nil {
				found = append(found, fmt.Sprintf("%s is open: %d bytes", path, len(text)))
			}
			if conn, err := net.Dial("unix", path); err == nil {
				conn.Close()
				found = append(found, path+" takes connections")
			}
			continue
		}
		found = append(found, secretsOf(at)...)
		found = append(found, pagesOf(at, key)...)
	}
	_ = json.NewEncoder(os.Stdout).Encode(found)
}

// secretsOf asks a port for secrets as Envoy asks xds.
func secretsOf(at string) (found findings) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	conn, err := grpc.NewClient("passthrough:///"+at, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil
	}
	defer conn.Close()
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	if err != nil {
		return nil
	}
	const secrets = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
	if err := stream.Send(&discoveryv3.DeltaDiscoveryRequest{Node: &corev3.Node{Id: "gateway", Cluster: "leaky-gateway"}, TypeUrl: secrets,
		ResourceNamesSubscribe: []string{"provider-openai", "tls-gateway", "*"}}); err != nil {
		return nil
	}
	if answer, err := stream.Recv(); err == nil {
		found = append(found, fmt.Sprintf("%s answers ADS with %d secrets", at, len(answer.GetResources())))
	}
	return found
}

// pagesOf asks a port for what only parts of the gateway, or an administrator, may ask.
func pagesOf(at string, key ed25519.PrivateKey) (found findings) {
	client := &http.Client{Timeout: 3 * time.Second}
	for _, page := range []struct{ method, path string }{
		{"GET", "/config_dump"}, {"GET", "/certs"}, {"POST", "/logging?level=debug"}, {"POST", "/drain_listeners"}, {"POST", "/reopen_logs"},
		{"GET", "/api/v1/auth/api-keys/validate"}, {"GET", "/internal/revocations"}, {"GET", "/api/v1/admin/users"}, {"GET", "/api/v1/me"},
		{"GET", "/api/v1/tokens/quota"}, {"GET", "/api/v1/analytics/usage"}, {"POST", "/api/v1/auth/login"},
	} {
		r, err := http.NewRequest(page.method, "http://"+at+page.path, strings.NewReader(`{"username":"admin","password":"guess"}`))
		if err != nil {
			continue
		}
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("X-Api-Key", "leaky_11111111-2222-4333-8444-555555555555_000000000000000000000000000000000000000000000000")
		for _, audience := range []string{"identity", "tokensvc", "analytics"} {
			who := principal.Principal{UserID: uuid.NewString(), Roles: []string{principal.RoleAdmin, principal.RoleUser}, Tier: "ADMIN"}
			if signed, err := principal.NewSigner(key).Mint(who, audience, time.Now()); err == nil {
				r.Header.Add(attributes.HeaderIdentity, signed)
			}
		}
		resp, err := client.Do(r)
		if err != nil {
			continue // no HTTP, or nobody there
		}
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
		resp.Body.Close()
		if strings.Contains(string(text), providerKey) {
			found = append(found, fmt.Sprintf("%s%s shows a provider's key", at, page.path))
		}
		// The gateway and ClickHouse ask for credentials; every other port knows nothing of these paths.
		// xds shows files of the configuration by GET, and so knows each path and no other method.
		if !slices.Contains([]int{http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusUnauthorized, http.StatusForbidden},
			resp.StatusCode) {
			found = append(found, fmt.Sprintf("%s %s%s answers %d %.200s", page.method, at, page.path, resp.StatusCode, text))
		}
	}
	return found
}

// asStranger runs stranger as another user.
func asStranger(t *testing.T, addresses []string) findings {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("only root can be another user: run this as root")
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", addresses...)
	cmd.Env, cmd.Dir = []string{strangerVariable + "=1"}, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: strangerID, Gid: strangerID}}
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("run as user %d: %v", strangerID, err)
	}
	var found findings
	if err := json.Unmarshal(out, &found); err != nil {
		t.Fatalf("%s: %v", out, err)
	}
	return found
}

// closedStack is a stack of its own whose provider has a key.
func closedStack(t *testing.T) *stacktest.Stack {
	t.Helper()
	s, err := stacktest.New(t.Context(), testenv.Folder(t), 1, stacktest.Built(running.Bin),
		stacktest.Edit("openai: {protocol: openai,", "openai: {protocol: openai, api_key_env: OPENAI_API_KEY,"))
	if err != nil {
		t.Fatal(err)
	}
	s.Env = append(s.Env, "OPENAI_API_KEY="+providerKey)
	t.Cleanup(func() { _, _ = s.Leaky(context.Background(), "down") })
	if out, err := s.Up(t.Context()); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return s
}

// TestAnotherUserOfTheMachineFindsNothing: no secret, no admin, no API, on no port and in no file.
func TestAnotherUserOfTheMachineFindsNothing(t *testing.T) {
	s := closedStack(t)
	var addresses []string
	if err := filepath.WalkDir(s.Dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			addresses = append(addresses, "file:"+path)
		}
		return nil // what is gone meanwhile is not there
	}); err != nil {
		t.Fatal(err)
	}
	ports := listening(t, s)
	if len(addresses) < 20 || len(ports) < 15 {
		t.Fatalf("want the files and the ports of a whole stack, got %d and %v", len(addresses), ports)
	}
	for _, breach := range asStranger(t, append(addresses, ports...)) {
		t.Error(breach)
	}
}

// listening are the TCP ports of the stack's processes.
func listening(t *testing.T, s *stacktest.Stack) (ports []string) {
	t.Helper()
	out, err := s.Leaky(t.Context(), "ps", "-o", "json")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var parts []struct {
		Name string `json:"name"`
		PID  int    `json:"pid"`
	}
	if err := json.Unmarshal([]byte(out), &parts); err != nil {
		t.Fatal(err)
	}
	owned := map[string]bool{}
	for _, p := range parts {
		if info, err := os.Stat(fmt.Sprintf("/proc/%d", p.PID)); err != nil || info.Sys().(*syscall.Stat_t).Uid == 0 {
			t.Errorf("%s runs as root (%v)", p.Name, err)
		}
		links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", p.PID))
		for _, link := range links {
			if target, err := os.Readlink(link); err == nil {
				owned[target] = true
			}
		}
	}
	text, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) { // proc_net(5): address in field 1, state 0A in 3, inode in 9
		f := strings.Fields(line)
		var port int
		if len(f) < 10 || f[3] != "0A" || !owned["socket:["+f[9]+"]"] {
			continue
		}
		if _, err := fmt.Sscanf(f[1][strings.IndexByte(f[1], ':')+1:], "%X", &port); err == nil {
			ports = append(ports, fmt.Sprintf("127.0.0.1:%d", port))
		}
	}
	slices.Sort(ports)
	return slices.Compact(ports)
}

// TestAFreedPortGivesNobodyTrust: who takes the port of extauthz while it restarts, and answers
// there with keys of their own, signs nobody's identity.
func TestAFreedPortGivesNobodyTrust(t *testing.T) {
	s := closedStack(t)
	cfg, err := s.Loaded()
	if err != nil {
		t.Fatal(err)
	}
	signer := principal.NewSigner(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)))
	forged, err := signer.Mint(principal.Principal{UserID: uuid.NewString(), Roles: []string{principal.RoleAdmin}, Tier: "ADMIN"},
		"identity", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	port, socket := cfg.Services.ExtAuthz.HTTP, filepath.Join(s.Dir, "run", "identity.sock")
	inner := &http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		}}}
	taken := 0
	for range 20 {
		kill(t, s, "extauthz")
		squatter := squat(port, signer.JWKS())
		if squatter != nil {
			taken++
		}
		for what, client := range map[string]*http.Client{"http://identity": inner, "http://" + cfg.Services.Identity.HTTP: http.DefaultClient} {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, what+"/api/v1/admin/users", http.NoBody)
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set(attributes.HeaderIdentity, forged)
			resp, err := client.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != http.StatusUnauthorized && resp.StatusCode != http.StatusNotFound {
				t.Fatalf("%s takes an identity that somebody else signed: %d", what, resp.StatusCode)
			}
		}
		if squatter != nil {
			squatter.Close()
		}
		if out, err := s.Leaky(t.Context(), "start", "extauthz"); err != nil { // not after a pause that grows
			t.Fatalf("%v: %s", err, out)
		}
	}
	t.Logf("the port was taken %d times of 20", taken)
	if taken == 0 {
		t.Error("the port was never free: this proves nothing")
	}
}

// kill ends a part, which may still be on its way up.
func kill(t *testing.T, s *stacktest.Stack, part string) {
	t.Helper()
	testenv.Eventually(t, part+" killed", func() bool {
		_, err := s.Leaky(t.Context(), "kill", part)
		return err == nil
	})
}

// squat takes the port as soon as it is free, and answers everything with a key set.
func squat(at string, keys []byte) *http.Server {
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		ln, err := net.Listen("tcp", at)
		if err != nil {
			continue
		}
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(keys) })}
		go func() { _ = server.Serve(ln) }()
		return server
	}
	return nil
}
