package stack

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/leaky-tokens/leaky-tokens/envoy"
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
		Dir: p.dir, // relative socket paths are resolved against it
		// custom_response is work in progress upstream, and Envoy says so with each push.
		Args: append(envoy.Args(envoy.ArgsConfig{Bootstrap: file, Concurrency: p.cfg.Envoy.Concurrency}), "--component-log-level",
			"misc:error"),
		Prepare: func(context.Context) error { return p.prepareEnvoy(file) },
		Drain:   func(ctx context.Context) { drainEnvoy(ctx, p.client(), httpURL(p.cfg.Envoy.Admin)) },
		// The admin says LIVE once the listeners are there; the second look is for one that could not bind.
		Ready: both(httpReady(p.client(), httpURL(p.cfg.Envoy.Admin)+"/ready"), tcpOpen(dialable(p.cfg.Gateway.Listen))),
	}
}

// behindEnvoy are the parts that must serve before it and end after it, as far as they are there.
func (p *Plan) behindEnvoy() []string {
	envoy, _ := topology.Find(topology.Envoy)
	return slices.DeleteFunc(envoy.After, func(name string) bool { return !p.included(name) })
}

// drainEnvoy closes the listeners and waits until no request is in progress: SIGTERM alone cuts
// every stream. An admin that does not answer has nothing to wait for.
func drainEnvoy(ctx context.Context, client *http.Client, admin string) {
	if _, err := ask(ctx, client, http.MethodPost, admin+"/drain_listeners"); err != nil {
		return
	}
	for {
		text, err := ask(ctx, client, http.MethodGet, admin+"/stats?usedonly&filter="+url.QueryEscape(`^http\.[^.]*\.downstream_rq_active$`))
		if err != nil || idle(text) {
			return
		}
		select {
		case <-ctx.Done():
			return
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
	if err := os.MkdirAll(p.spoolDir(), 0o700); err != nil {
		return fmt.Errorf("make spool folder: %w", err)
	}
	xds, err := netaddr.Parse(p.cfg.Services.XDS.GRPC)
	if err != nil {
		return fmt.Errorf("services.xds.grpc: %w", err)
	}
	admin, err := netaddr.Parse(p.cfg.Envoy.Admin)
	if err != nil {
		return fmt.Errorf("envoy.admin: %w", err)
	}
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "localhost"
	}
	bootstrap := envoy.BootstrapConfig{XDS: xds.In(p.dir), Admin: admin, NodeID: "gateway-" + host,
		Bounds: envoy.Bounds{Connections: p.cfg.Envoy.Connections, Heap: p.cfg.Envoy.MaxHeap, Files: descriptors()}}
	if p.mutual(topology.XDS) && xds.Network == "tcp" {
		bootstrap.TLS = envoy.FilesOfXDS(mtls.Dir(p.dir), mtls.ID(topology.XDS))
	}
	text, err := envoy.Bootstrap(bootstrap)
	if err != nil {
		return err
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return fmt.Errorf("write bootstrap: %w", err)
	}
	return nil
}

// descriptors is how many files Envoy may have open, all that the system grants; 0: unknown. Go
// gives a child the limit that its parent was started with, unless the parent has set one.
func descriptors() uint64 {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0
	}
	limit.Cur = limit.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0
	}
	return limit.Cur
}

// spoolDir is where Envoy writes its usage log; Envoy makes no folders.
func (p *Plan) spoolDir() string {
	spool := p.cfg.Envoy.Spool
	if !filepath.IsAbs(spool) {
		spool = p.path(spool)
	}
	return filepath.Dir(spool)
}

// dialable is a listen address as a client dials it.
func dialable(listen string) string { return httpURL(listen)[len("http://"):] }
