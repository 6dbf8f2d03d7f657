package stack

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/leaky-tokens/leaky-tokens/envoy"
	"github.com/leaky-tokens/leaky-tokens/internal/netaddr"
	"github.com/leaky-tokens/leaky-tokens/internal/supervisor"
)

// envoy is the gateway itself. It gets no store URLs and no secrets: what it needs comes from xds.
func (p *Plan) envoy(bin string) supervisor.Part {
	file := p.path("run", "envoy.json")
	return supervisor.Part{
		Name: "envoy", Address: p.cfg.Gateway.Listen, Path: bin, Env: p.baseEnv(), After: []string{"xds", "extauthz", "ratelimit", "meter"},
		Dir: p.dir, // relative socket paths are resolved against it
		// ai_protocol_manager is work in progress upstream (docs/design says why we use it); Envoy says so per route and push.
		Args:    append(envoy.Args(envoy.ArgsConfig{Bootstrap: file, Concurrency: p.cfg.Envoy.Concurrency}), "--component-log-level", "misc:error"),
		Prepare: func(context.Context) error { return p.prepareEnvoy(file) },
		// The admin says LIVE once the listeners are there; the second look is for one that could not bind.
		Ready: both(httpReady(p.client(), httpURL(p.cfg.Envoy.Admin)+"/ready"), tcpOpen(dialable(p.cfg.Gateway.Listen))),
	}
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
	text, err := envoy.Bootstrap(envoy.BootstrapConfig{XDS: xds.In(p.dir), Admin: admin, NodeID: "gateway-" + host})
	if err != nil {
		return err
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return fmt.Errorf("write bootstrap: %w", err)
	}
	return nil
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
