package xds_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/leaky-tokens/leaky-tokens/envoy"
	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/spool"
	"github.com/leaky-tokens/leaky-tokens/internal/discovery"
	"github.com/leaky-tokens/leaky-tokens/internal/mtls"
	"github.com/leaky-tokens/leaky-tokens/internal/netaddr"
	"github.com/leaky-tokens/leaky-tokens/internal/settings"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/envoytest"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/xds"
)

const (
	goodKey  = "Bearer good"
	otherKey = "Bearer other" // with anything behind it: of another caller, one for each text
)

// gateway is a real Envoy configured by a real xds, with small services behind it whose
// answers a test decides.
type gateway struct {
	url   string
	dir   string
	envoy *envoytest.Envoy
	xds   *xds.XDS
	spool string
	limit *limiter
	auth  *authorizer
	back  *backend
	path  string           // leaky.yaml, may be empty
	files *settings.Source // of path
	at    string           // where xds listens
	again bool             // startXDS takes the place of one that ended

	bounds envoy.Bounds
	client http.Client // of its own: who closes the connections of http.DefaultTransport closes other tests' too

	processes *discovery.Tracker // which register; nil: none do

	series  *prometheus.Registry // of xds
	stopXDS func()
}

// start makes a gateway; edit may change its configuration first.
func start(t *testing.T, edit func(*config.Config), env map[string]string) *gateway {
	t.Helper()
	return startWith(t, func(_ *gateway, c *config.Config) {
		if edit != nil {
			edit(c)
		}
	}, env)
}

// startWith is start for an edit that needs the gateway's folder.
func startWith(t *testing.T, edit func(*gateway, *config.Config), env map[string]string) *gateway {
	t.Helper()
	g := &gateway{dir: shortDir(t), limit: &limiter{}, auth: &authorizer{}, back: &backend{}, client: http.Client{Transport: &http.Transport{}}}
	t.Cleanup(g.client.CloseIdleConnections)
	provider := httptest.NewServer(g.back)
	t.Cleanup(provider.Close)
	cfg, err := config.Parse([]byte("gateway: {listen: '127.0.0.1:0'}\n"))
	if err != nil {
		t.Fatal(err)
	}
	for name, p := range cfg.Providers {
		p.URL = provider.URL
		cfg.Providers[name] = p
	}
	host := strings.TrimPrefix(provider.URL, "http://")
	for _, e := range []*config.Endpoint{&cfg.Services.Identity, &cfg.Services.TokenSvc, &cfg.Services.Analytics, &cfg.Services.StubOpenAI,
		&cfg.Services.StubGemini, &cfg.Services.StubQwen} {
		e.HTTP, e.Inner = host, ""
	}
	cfg.Services.ExtAuthz.GRPC = serveGRPC(t, "unix:"+filepath.Join(g.dir, "a.sock"),
		func(s *grpc.Server) { authv3.RegisterAuthorizationServer(s, g.auth) })
	cfg.Services.RateLimit.GRPC = serveGRPC(t, "unix:"+filepath.Join(g.dir, "r.sock"),
		func(s *grpc.Server) { rlsv3.RegisterRateLimitServiceServer(s, g.limit) })
	cfg.Limits.Timeout, cfg.Auth.CheckTimeout = 10*time.Second, 10*time.Second // the machine may have much else to do
	edit(g, cfg)
	g.spool = filepath.Join(g.dir, cfg.Envoy.Spool)
	g.startXDS(t, cfg, env)
	return g
}

func (g *gateway) startXDS(t *testing.T, cfg *config.Config, env map[string]string) {
	t.Helper()
	getenv, log := func(k string) string { return env[k] }, slog.New(slog.NewTextHandler(testWriter{t}, nil))
	set := &settings.Settings{Config: cfg}
	var err error
	if g.path == "" {
		set.Limits, err = limits.Load(cfg.Limits.File)
	} else {
		g.files = settings.New(g.path, g.dir, getenv, log)
		set, err = g.files.Open()
	}
	if err != nil {
		t.Fatal(err)
	}
	x, err := xds.New(xds.Config{Settings: set, Files: g.files, StateDir: g.dir, Poll: 20 * time.Millisecond, Linger: 700 * time.Millisecond,
		Getenv: getenv, Metrics: g.registry(), Log: log, Registry: g.processes})
	if err != nil {
		t.Fatal(err)
	}
	at := "127.0.0.1:0"
	if g.again {
		at = g.at
	}
	ln, err := net.Listen("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.TLS.Mutual() {
		ln = tls.NewListener(ln, mtls.Server(g.dir, "xds", mtls.Callers("xds")...))
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- x.Run(ctx, ln) }()
	g.stopXDS = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("xds: %v", err)
		}
	})
	t.Cleanup(g.stopXDS)
	g.xds = x
	if g.again {
		return // the Envoy that runs connects by itself
	}
	addr, err := netaddr.Parse(ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c := envoytest.Config{XDS: addr, Bounds: g.bounds}
	if cfg.TLS.Mutual() {
		c.TLS = xds.BootstrapTLS(g.dir)
	}
	g.at = addr.String()
	g.envoy = envoytest.Start(t, c)
	g.url = g.envoy.URL(t, "gateway")
}

// registry is a fresh one for each xds of the gateway.
func (g *gateway) registry() *prometheus.Registry {
	g.series = prometheus.NewRegistry()
	return g.series
}

// shortDir is a folder whose path leaves room for a Unix socket's name.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "x")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Logf("%s", strings.TrimSpace(string(p)))
	return len(p), nil
}

func serveGRPC(t *testing.T, text string, register func(*grpc.Server)) string {
	t.Helper()
	addr, err := netaddr.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := addr.Listen()
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	register(s)
	go s.Serve(ln)
	t.Cleanup(s.Stop)
	return text
}

// answer is what a client got.
type answer struct {
	status int
	header http.Header
	body   string
}

func (g *gateway) do(t *testing.T, method, path, body string, headers ...string) answer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var r io.Reader = http.NoBody
	if body != "" {
		r = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, g.url+path, r)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", goodKey)
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i+1 < len(headers); i += 2 {
		if headers[i+1] == "" {
			req.Header.Del(headers[i])
			continue
		}
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := g.client.Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %s: read: %v", method, path, err)
	}
	return answer{resp.StatusCode, resp.Header, string(text)}
}

func (g *gateway) rawLine(t *testing.T, id string) (raw string, l spool.Line) {
	t.Helper()
	testenv.Eventually(t, "a spool line of "+id, func() bool {
		text, _ := os.ReadFile(g.spool) // not there before the first line
		for raw = range strings.Lines(string(text)) {
			if strings.Contains(raw, id) && strings.HasSuffix(raw, "\n") {
				return true
			}
		}
		return false
	})
	l, err := spool.Parse([]byte(strings.TrimSuffix(raw, "\n")))
	if err != nil {
		t.Fatalf("parse %s: %v", raw, err)
	}
	return raw, l
}

// authorizer knows one credential.
type authorizer struct {
	authv3.UnimplementedAuthorizationServer
	mu   sync.Mutex
	last *authv3.CheckRequest
	fail bool
}

func (a *authorizer) Check(_ context.Context, r *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.last = r
	if a.fail {
		return nil, fmt.Errorf("broken on purpose")
	}
	asked := r.GetAttributes()
	credential := asked.GetRequest().GetHttp().GetHeaders()["authorization"]
	known, user := credential == goodKey, "u-1"
	if strings.HasPrefix(credential, otherKey) {
		known, user = true, credential
	}
	rule := asked.GetContextExtensions()[attributes.ContextRule]
	if rule == "" {
		return nil, fmt.Errorf("a route without a rule")
	}
	if !known && rule != attributes.RulePublic {
		return &authv3.CheckResponse{Status: &status.Status{Code: int32(code.Code_UNAUTHENTICATED)},
			HttpResponse: &authv3.CheckResponse_DeniedResponse{
				DeniedResponse: &authv3.DeniedHttpResponse{Status: &typev3.HttpStatus{Code: typev3.StatusCode_Unauthorized}, Body: `{"who":"authz"}`,
					Headers: []*corev3.HeaderValueOption{header("content-type", "application/x-authz"), header("www-authenticate", "Bearer")}}}}, nil
	}
	ok := &authv3.OkHttpResponse{HeadersToRemove: []string{"authorization", "x-api-key"}}
	if audience := asked.GetContextExtensions()[attributes.ContextAudience]; audience != "" && known {
		ok.Headers = []*corev3.HeaderValueOption{header(attributes.HeaderIdentity, "signed-for-"+audience), header(attributes.HeaderUserID,
			"u-1")}
	}
	if !known {
		return &authv3.CheckResponse{Status: &status.Status{}, HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: ok}}, nil
	}
	if strings.Contains(asked.GetRequest().GetHttp().GetPath(), "key=") {
		ok.QueryParametersToRemove = []string{"key"}
	}
	md, err := structpb.NewStruct(map[string]any{attributes.User: user, attributes.Team: "red", attributes.Key: "k-1",
		attributes.Tier: "USER", attributes.Roles: "USER"})
	return &authv3.CheckResponse{Status: &status.Status{}, DynamicMetadata: md,
		HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: ok}}, err
}

func header(name, value string) *corev3.HeaderValueOption {
	return &corev3.HeaderValueOption{Header: &corev3.HeaderValue{Key: name, Value: value}}
}

// limiter answers as decide says and keeps the last question.
type limiter struct {
	rlsv3.UnimplementedRateLimitServiceServer
	mu     sync.Mutex
	asked  []*rlsv3.RateLimitRequest
	decide func(*rlsv3.RateLimitRequest) (*rlsv3.RateLimitResponse, error)
}

func (l *limiter) set(f func(*rlsv3.RateLimitRequest) (*rlsv3.RateLimitResponse, error)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.decide = f
}

func (l *limiter) ShouldRateLimit(_ context.Context, r *rlsv3.RateLimitRequest) (*rlsv3.RateLimitResponse, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked = append(l.asked, r)
	if l.decide == nil {
		return &rlsv3.RateLimitResponse{OverallCode: rlsv3.RateLimitResponse_OK}, nil
	}
	return l.decide(r)
}

// last is the last question, as "key=value,key=value" for each descriptor.
func (l *limiter) last() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []string
	if len(l.asked) == 0 {
		return nil
	}
	for _, d := range l.asked[len(l.asked)-1].GetDescriptors() {
		var entries []string
		for _, e := range d.GetEntries() {
			entries = append(entries, e.GetKey()+"="+e.GetValue())
		}
		out = append(out, strings.Join(entries, ","))
	}
	return out
}

func (l *limiter) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.asked)
}

// admit is a hold of 100 tokens, with more members.
func admit(more map[string]any) func(*rlsv3.RateLimitRequest) (*rlsv3.RateLimitResponse, error) {
	return func(*rlsv3.RateLimitRequest) (*rlsv3.RateLimitResponse, error) {
		fields := map[string]any{attributes.Account: "user:u-1", attributes.Held: 100, attributes.Input: 40, attributes.Model: "gpt-4o",
			attributes.Stream: "false"}
		for k, v := range more {
			fields[k] = v
		}
		md, err := structpb.NewStruct(fields)
		return &rlsv3.RateLimitResponse{OverallCode: rlsv3.RateLimitResponse_OK, DynamicMetadata: md,
			ResponseHeadersToAdd: []*corev3.HeaderValue{{Key: "x-leaky-held", Value: "100"}}}, err
	}
}

// backend is the provider and every service: it keeps what reached it.
type backend struct {
	mu    sync.Mutex
	seen  []call
	reply http.HandlerFunc
}

type call struct {
	method, uri, host, body string
	header                  http.Header
}

func (b *backend) set(f http.HandlerFunc) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reply = f
}

func (b *backend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	b.mu.Lock()
	b.seen = append(b.seen, call{r.Method, r.URL.RequestURI(), r.Host, string(body), r.Header.Clone()})
	reply := b.reply
	b.mu.Unlock()
	if reply != nil {
		reply(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(map[string]any{"ok": true})
}

func (b *backend) last(t *testing.T) call {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.seen) == 0 {
		t.Fatal("nothing reached the backend")
	}
	return b.seen[len(b.seen)-1]
}

func (b *backend) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.seen)
}

// got reports whether a call came whose body holds the text.
func (b *backend) got(text string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.ContainsFunc(b.seen, func(c call) bool { return strings.Contains(c.body, text) })
}

// rawRequest sends bytes as they are and returns everything that comes back.
func rawRequest(t *testing.T, url, text string) string {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, text); err != nil {
		t.Logf("write: %v", err) // Envoy may have answered and closed already
	}
	answer, err := io.ReadAll(conn)
	if err != nil && len(answer) == 0 {
		t.Fatalf("read: %v", err)
	}
	return string(answer)
}
