package stack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/leaky-tokens/leaky-tokens/envoy"
	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/local/supervisor"
	"github.com/leaky-tokens/leaky-tokens/internal/mtls"
	"github.com/leaky-tokens/leaky-tokens/internal/netaddr"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

// envoy is the gateway itself. It gets no store URLs and no secrets: what it needs comes from xds.
func (p *Plan) envoy(bin string) supervisor.Part {
	file := p.path("run", "envoy.json")
	return supervisor.Part{
		Name: topology.Envoy, Address: p.cfg.Gateway.Listen, Path: bin, Env: p.baseEnv(), After: p.behindEnvoy(),
		Dir:  p.dir, // relative socket paths are resolved against it
		User: p.user, Caps: p.lowPort(),
		// custom_response is work in progress upstream, and Envoy says so with each push.
		Args: append(envoy.Args(envoy.ArgsConfig{Bootstrap: file, Concurrency: p.cfg.Envoy.Concurrency,
			Drain: p.cfg.Gateway.MaxStreamDuration}), "--component-log-level", "misc:error"),
		Prepare: func(context.Context) error { return p.prepareEnvoy(file) },
		// An admin that does not answer has nothing to wait for, and what did not end in time is cut.
		Drain: func(ctx context.Context) { _ = p.DrainEnvoy(ctx) },
		// The admin says LIVE once the listeners are there; the second look is for one that could not bind.
		Ready: both(httpReady(p.adminClient(), p.adminURL()+"/ready"), tcpOpen(dialable(p.cfg.Gateway.Listen))),
	}
}

func (p *Plan) admin() netaddr.Addr { return adminAddress(p.cfg, p.dir) }

// adminAddress is where Envoy's admin is dialled. The configuration was checked; an address that
// cannot be read is one where nobody answers.
func adminAddress(cfg *config.Config, dir string) netaddr.Addr {
	a, err := netaddr.Parse(cfg.Envoy.Admin)
	if err != nil {
		return netaddr.Addr{Network: "unix"}
	}
	return a.In(dir)
}

func (p *Plan) adminURL() string { return envoy.AdminURL(p.admin()) }

func (p *Plan) adminClient() *http.Client {
	return &http.Client{Timeout: p.client().Timeout, Transport: &http.Transport{DisableKeepAlives: true, DialContext: p.admin().DialContext}}
}

// behindEnvoy are the parts that must serve before it and end after it, as far as they are there.
func (p *Plan) behindEnvoy() []string {
	envoy, _ := topology.Find(topology.Envoy)
	return slices.DeleteFunc(envoy.After, func(name string) bool { return !p.included(name) })
}

// DrainEnvoy closes the listeners of the Envoy in the state folder and waits until no request is in
// progress: SIGTERM alone cuts every stream.
func (p *Plan) DrainEnvoy(ctx context.Context) error {
	return drainEnvoy(ctx, p.adminClient(), p.adminURL())
}

func drainEnvoy(ctx context.Context, client *http.Client, admin string) error {
	if _, err := ask(ctx, client, http.MethodPost, admin+"/drain_listeners"); err != nil {
		return fmt.Errorf("close Envoy's listeners: %w", err)
	}
	for {
		text, err := ask(ctx, client, http.MethodGet, admin+"/stats?usedonly&filter="+url.QueryEscape(`^http\.[^.]*\.downstream_rq_active$`))
		if err != nil && ctx.Err() == nil {
			return fmt.Errorf("count requests in progress: %w", err)
		}
		if err == nil && idle(text) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("requests are still in progress: %w", context.Cause(ctx))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// idle reads "name: count" lines; the admin's own request is one of its counter "http.admin".
func idle(stats string) bool {
	for line := range strings.Lines(stats) {
		name, count, _ := strings.Cut(strings.TrimSpace(line), ": ")
		if name != "http.admin.downstream_rq_active" && count != "0" && count != "" {
			return false
		}
	}
	return true
}

func ask(ctx context.Context, client *http.Client, method, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s answered %s", url, resp.Status)
	}
	return string(text), err
}

func (p *Plan) prepareEnvoy(file string) error {
	if err := errors.Join(os.MkdirAll(p.spoolDir(), 0o700), give(p.spoolDir(), p.user)); err != nil {
		return fmt.Errorf("make spool folder: %w", err)
	}
	text, err := Bootstrap(p.cfg, p.dir)
	if err != nil {
		return err
	}
	if err := hand(file, text, p.user); err != nil {
		return fmt.Errorf("write bootstrap: %w", err)
	}
	return nil
}

// Bootstrap is the bootstrap file, as JSON, of an Envoy that works in the state folder dir. It is
// bound to as many files as this process may open.
func Bootstrap(cfg *config.Config, dir string) ([]byte, error) {
	xds, err := netaddr.Parse(cfg.Services.XDS.GRPC)
	if err != nil {
		return nil, fmt.Errorf("services.xds.grpc: %w", err)
	}
	metrics, err := netaddr.Parse(cfg.Envoy.Metrics)
	if err != nil {
		return nil, fmt.Errorf("envoy.metrics: %w", err)
	}
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "localhost"
	}
	bootstrap := envoy.BootstrapConfig{XDS: xds.In(dir), Admin: adminAddress(cfg, dir), Metrics: metrics, NodeID: "gateway-" + host,
		Bounds: envoy.Bounds{Connections: cfg.Envoy.Connections, Heap: cfg.Envoy.MaxHeap, Files: descriptors()}}
	if cfg.TLS.Mutual() && xds.Network == "tcp" {
		bootstrap.TLS = envoy.FilesOfXDS(mtls.Dir(dir), mtls.ID(topology.XDS))
	}
	return envoy.Bootstrap(bootstrap)
}

// descriptors is how many files Envoy may have open: as many as the supervisor; 0: unknown.
func descriptors() uint64 {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0
	}
	return limit.Cur
}

// dialable is a listen address as a client dials it.
func dialable(listen string) string { return httpURL(listen)[len("http://"):] }
