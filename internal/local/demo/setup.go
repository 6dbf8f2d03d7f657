package demo

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"

	"github.com/leaky-tokens/leaky-tokens/internal/local/demo/judge"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
	"github.com/leaky-tokens/leaky-tokens/internal/local/supervisor"
	"github.com/leaky-tokens/leaky-tokens/internal/netaddr"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

// Stack fills a Config with where the stack of a configuration and a state folder is.
// The connection it opens lives as long as the process.
func Stack(cfg *config.Config, dir string) (Config, error) {
	admin, err := adminCredentials(dir)
	if err != nil {
		return Config{}, err
	}
	addr, err := netaddr.Parse(cfg.Services.RateLimit.GRPC)
	if err != nil {
		return Config{}, fmt.Errorf("address of the limiter: %w", err)
	}
	conn, err := grpc.NewClient(addr.In(dir).Target(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return Config{}, fmt.Errorf("dial the limiter: %w", err)
	}
	parts := supervisor.NewClient(filepath.Join(dir, "run"))
	return Config{Gateway: "http://" + reachable(cfg.Gateway.Listen), Targets: targets(cfg), Limiter: limitpb.NewLimiterClient(conn),
		Admin:     admin,
		FirstByte: cfg.Gateway.FirstByteTimeout,
		MaxBody:   cfg.Gateway.MaxBodyBytes, Tiers: []string{"USER", "SILVER", "GOLD"}, Parts: partsOf(parts), Control: parts,
		Limiters: limiterURLs(cfg),
		Price:    cfg.Purchases.Price, Payments: paymentStub(cfg)}, nil
}

func adminCredentials(dir string) (Credentials, error) {
	path := filepath.Join(dir, "secrets", "admin.json")
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Credentials{}, fmt.Errorf("%s is not there; %w", path, errDown)
	}
	if err != nil {
		return Credentials{}, fmt.Errorf("read the first administrator's credentials: %w", err)
	}
	var c Credentials
	if err := json.Unmarshal(text, &c); err != nil || c.Username == "" || c.Password == "" {
		return Credentials{}, fmt.Errorf("read %s: username and password are expected", path)
	}
	return c, nil
}

// targets are the providers whose address is a stub of this stack; others cost money. The demo
// speaks two of the three protocols. What a stub has served does not say through which provider, so
// that of several at one stub one is driven: the one that the stub is named after, else the first.
func targets(cfg *config.Config) []judge.Target {
	found := map[string]judge.Target{} // by stub
	for _, part := range topology.Having(func(p topology.Part) bool { return p.Provider != "" }) {
		for _, name := range slices.Sorted(maps.Keys(cfg.Providers)) {
			p := cfg.Providers[name]
			if p.URL != "http://"+cfg.Services.Named(part.Name).HTTP || p.Protocol == config.ProtocolAnthropic {
				continue
			}
			t := judge.Target{Provider: name, Protocol: judge.Protocol(p.Protocol), Path: "/v1/chat/completions", Stub: p.URL, Part: part.Name}
			if part.Name == topology.StubQwen {
				t.Path = "/compatible-mode/v1/chat/completions"
			}
			t.Outage, t.StreamOutage = outageOf(&t, cfg.Limits.Outage)
			for _, m := range cfg.Models {
				if m.Provider == name && m.Kind == config.KindChat {
					t.Models = append(t.Models, m.Name)
				}
			}
			if _, another := found[p.URL]; len(t.Models) > 0 && (!another || "stub-"+name == part.Name) {
				found[p.URL] = t
			}
		}
	}
	return slices.SortedFunc(maps.Values(found), func(a, b judge.Target) int { return cmp.Compare(a.Provider, b.Provider) })
}

// outageOf is what the routes of a target do while Redis is away.
func outageOf(t *judge.Target, o config.Outage) (whole, stream config.OutageMode) {
	switch {
	case t.Protocol == judge.ProtocolGemini:
		return o.For("gemini-generate"), o.For("gemini-stream")
	case t.Part == topology.StubQwen:
		return o.For("qwen-chat"), o.For("qwen-chat")
	}
	return o.For("openai-chat"), o.For("openai-chat")
}

// paymentStub is where purchases are paid, if that is the stack's own stub.
func paymentStub(cfg *config.Config) string {
	if url := "http://" + cfg.Services.StubPayment.HTTP; cfg.Purchases.Payment.URL == url {
		return url
	}
	return ""
}

func limiterURLs(cfg *config.Config) []string {
	var urls []string
	for _, at := range cfg.Services.RateLimit.All() {
		urls = append(urls, "http://"+reachable(at.HTTP))
	}
	return urls
}

// reachable turns a listening address into one to dial.
func reachable(listen string) string {
	host, port, err := net.SplitHostPort(listen)
	if ip := net.ParseIP(host); err == nil && (host == "" || ip != nil && ip.IsUnspecified()) {
		return net.JoinHostPort("127.0.0.1", port)
	}
	return listen
}

func partsOf(client *supervisor.Client) func(context.Context) (map[string]judge.Part, error) {
	return func(ctx context.Context) (map[string]judge.Part, error) {
		overview, err := client.Status(ctx)
		if err != nil {
			return nil, err
		}
		parts := map[string]judge.Part{}
		for _, p := range overview.Parts {
			parts[p.Name] = judge.Part{PID: p.PID, Restarts: p.Restarts}
		}
		return parts, nil
	}
}
