package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/leaky-tokens/leaky-tokens/envoy"
	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/local/binaries"
	"github.com/leaky-tokens/leaky-tokens/internal/netaddr"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/ports"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/stacktest"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

// system is one thing under measurement.
type system struct {
	name  string
	url   string
	key   string
	pids  map[string][]int // by part; see groupOf
	stack *stacktest.Stack // of the whole product only
	user  string           // account id, of the whole product only
}

// start brings up the three systems, all in front of the same stub; stop ends them.
func start(ctx context.Context, dir string) (systems []system, stop func(), err error) {
	var stops []func()
	all := func() {
		for _, f := range slices.Backward(stops) {
			f()
		}
	}
	defer func() {
		if err != nil {
			all()
		}
	}()
	whole, end, err := startWhole(ctx, filepath.Join(dir, "whole"))
	stops = append(stops, end)
	if err != nil {
		return nil, nil, err
	}
	store, err := binaries.New(binaries.Config{CacheDir: config.CacheDir(os.Getenv)})
	if err != nil {
		return nil, nil, err
	}
	bin, err := store.EnvoyBin()
	if err != nil {
		return nil, nil, err
	}
	stub := whole.stack.Stub["openai"]
	bare, end, err := startBare(ctx, filepath.Join(dir, "bare"), bin, strings.TrimPrefix(stub, "http://"))
	stops = append(stops, end)
	if err != nil {
		return nil, nil, err
	}
	chain, end, err := startChain(ctx, filepath.Join(dir, "chain"), bin, stub, whole.stack.Bin)
	stops = append(stops, end)
	if err != nil {
		return nil, nil, err
	}
	return []system{bare, chain, whole}, all, nil
}

// startWhole is the product as a user starts it, with one Envoy worker.
func startWhole(ctx context.Context, dir string) (system, func(), error) {
	nothing := func() {}
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return system{}, nothing, err
	}
	stack, err := stacktest.New(ctx, dir, 1)
	if err != nil {
		return system{}, nothing, err
	}
	end := func() { _, _ = stack.Leaky(context.WithoutCancel(ctx), "down") }
	if out, err := stack.Up(ctx); err != nil {
		return system{}, end, fmt.Errorf("%w\n%s", err, out)
	}
	who, err := stack.NewAccount(ctx, "VAST")
	if err != nil {
		return system{}, end, err
	}
	s := system{name: "whole", url: stack.Gateway, key: who.Key, pids: map[string][]int{}, stack: stack, user: who.ID}
	running, err := processes(ctx, stack)
	for _, p := range running {
		if groupOf(p.Name) != "stubs" { // the provider is not ours to count
			s.pids[p.Name] = []int{p.PID}
		}
	}
	return s, end, err
}

func groupOf(part string) string {
	name, _ := config.Instance(part)
	switch of, _ := topology.Find(name); of.Kind {
	case topology.Proxy:
		return "envoy"
	case topology.Stub:
		return "stubs"
	case topology.Store:
		return "stores"
	}
	return "services"
}

// process is one line of `leaky ps -o json`.
type process struct {
	Name string `json:"name"`
	PID  int    `json:"pid"`
	RSS  int64  `json:"rssBytes"`
}

func processes(ctx context.Context, stack *stacktest.Stack) ([]process, error) {
	out, err := stack.Leaky(ctx, "ps", "-o", "json")
	if err != nil {
		return nil, err
	}
	var listed []process
	if err := json.Unmarshal([]byte(out), &listed); err != nil {
		return nil, fmt.Errorf("leaky ps: %w: %.200s", err, out)
	}
	return listed, nil
}

const bareText = `
admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}
static_resources:
  listeners:
  - address: {socket_address: {address: 127.0.0.1, port_value: %s}}
    filter_chains:
    - filters:
      - name: hcm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: in
          route_config: {virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: stub, timeout: 0s}}]}]}
          http_filters:
          - name: router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
  clusters:
  - name: stub
    type: STATIC
    load_assignment: {cluster_name: stub, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1,
	port_value: %s}}}}]}]}
`

// startBare is an Envoy that only routes.
func startBare(ctx context.Context, dir, bin, stub string) (system, func(), error) {
	nothing := func() {}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return system{}, nothing, err
	}
	at, err := ports.Free(1)
	if err != nil {
		return system{}, nothing, err
	}
	path := filepath.Join(dir, "envoy.yaml")
	if err := os.WriteFile(path, fmt.Appendf(nil, bareText, port(at[0]), port(stub)), 0o600); err != nil {
		return system{}, nothing, err
	}
	pid, end, err := spawn(ctx, dir, nil, bin, envoy.Args(envoy.ArgsConfig{Bootstrap: path, Concurrency: 1})...)
	if err != nil {
		return system{}, end, err
	}
	s := system{name: "bare", url: "http://" + at[0], pids: map[string][]int{"envoy": {pid}}}
	return s, end, s.wait(ctx)
}

func port(addr string) string { return addr[strings.LastIndexByte(addr, ':')+1:] }

// startChain is the product's own Envoy configuration, from its own xds, with services
// that answer at once.
func startChain(ctx context.Context, dir, bin, stub, leaky string) (system, func(), error) {
	var stops []func()
	stop := func() {
		for _, f := range slices.Backward(stops) {
			f()
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return system{}, stop, err
	}
	stack, err := stacktest.New(ctx, dir, 1)
	if err != nil {
		return system{}, stop, err
	}
	cfg, err := stack.Loaded()
	if err != nil {
		return system{}, stop, err
	}
	self, err := os.Executable()
	if err != nil {
		return system{}, stop, err
	}
	if err := os.MkdirAll(filepath.Join(stack.Dir, "spool"), 0o700); err != nil {
		return system{}, stop, err
	}
	noopPID, end, err := spawn(ctx, stack.Dir, nil, self, "-noop", stack.Dir)
	stops = append(stops, end)
	if err != nil {
		return system{}, stop, err
	}
	// There is no NATS here: xds goes on without one.
	xdsPID, end, err := spawn(ctx, stack.Dir, append(stack.Env, "LEAKY_PROVIDER_OPENAI_URL="+stub, "LEAKY_NATS_URL=nats://127.0.0.1:1"), leaky,
		"serve", "xds")
	stops = append(stops, end)
	if err != nil {
		return system{}, stop, err
	}
	addr, err := netaddr.Parse(cfg.Services.XDS.GRPC)
	if err != nil {
		return system{}, stop, err
	}
	bootstrap, err := envoy.Bootstrap(envoy.BootstrapConfig{XDS: addr.In(stack.Dir), Admin: netaddr.Addr{Network: "tcp", Host: "127.0.0.1"},
		NodeID: "bench"})
	if err != nil {
		return system{}, stop, err
	}
	path := filepath.Join(dir, "bootstrap.json")
	if err := os.WriteFile(path, bootstrap, 0o600); err != nil {
		return system{}, stop, err
	}
	pid, end, err := spawn(ctx, stack.Dir, nil, bin, envoy.Args(envoy.ArgsConfig{Bootstrap: path, Concurrency: 1})...)
	stops = append(stops, end)
	if err != nil {
		return system{}, stop, err
	}
	s := system{name: "chain", url: stack.Gateway, key: "any", pids: map[string][]int{"envoy": {pid}, "no-op": {noopPID}, "xds": {xdsPID}}}
	return s, stop, s.wait(ctx)
}

// spawn starts a program that dies with us.
func spawn(ctx context.Context, dir string, env []string, path string, args ...string) (int, func(), error) {
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir, cmd.Env = dir, env
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	logFile, err := os.Create(filepath.Join(dir, filepath.Base(path)+"-"+fmt.Sprint(len(args))+".log"))
	if err != nil {
		return 0, func() {}, err
	}
	cmd.Stdout, cmd.Stderr = logFile, logFile
	if err := cmd.Start(); err != nil {
		return 0, func() {}, err
	}
	return cmd.Process.Pid, func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = logFile.Close()
	}, nil
}

// wait polls until the system answers a call.
func (s system) wait(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		_, _, _, err := one(ctx, http.DefaultClient, s, jsonShape())
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("%s does not answer", s.name), err)
		case <-tick.C:
		}
	}
}
