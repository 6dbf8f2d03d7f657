package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/pprof"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/local/binaries"
	"github.com/leaky-tokens/leaky-tokens/internal/redisconn"
	"github.com/leaky-tokens/leaky-tokens/ratelimit"
)

// limitsFile holds limits nobody meets, for upstream or with our algorithm.
func limitsFile(ours bool) string {
	var b strings.Builder
	b.WriteString("domain: leaky\ndescriptors:\n  - key: count\n    value: requests\n    descriptors:\n")
	rule := func(indent, name string) {
		fmt.Fprintf(&b, "%srate_limit: {name: %s, unit: hour, requests_per_unit: 1000000000}\n", indent, name)
		if ours {
			b.WriteString(indent + "metadata: {rate_limit_policy: {algorithm: leaky_bucket, burst: 1000000000}}\n")
		}
	}
	for _, key := range []string{"user", "key", "remote_address"} {
		fmt.Fprintf(&b, "      - key: %s\n", key)
		rule("        ", "per-"+key)
		if key == "user" {
			b.WriteString("        descriptors:\n          - key: route\n")
			rule("            ", "per-user-and-route")
		}
	}
	return b.String()
}

// process is a program this one started and that ends with it.
type process struct {
	addr string
	pid  int
	stop func() error
}

// startRedis runs a Redis without persistence, so that the disk is not measured.
func startRedis(ctx context.Context, dir string) (*process, error) {
	store, err := binaries.New(binaries.Config{CacheDir: config.CacheDir(os.Getenv), Progress: os.Stderr})
	if err != nil {
		return nil, err
	}
	if err := store.Ensure(ctx, binaries.Redis); err != nil {
		return nil, err
	}
	bin, err := store.RedisServer(ctx)
	if err != nil {
		return nil, err
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	addr := free.Addr().String()
	free.Close()
	cmd := exec.Command(bin, "--bind", "127.0.0.1", "--port", strconv.Itoa(free.Addr().(*net.TCPAddr).Port), "--save", "", "--appendonly",
		"no", "--dir", dir)
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start redis: %w", err)
	}
	p := &process{addr: addr, pid: cmd.Process.Pid, stop: func() error {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return nil
	}}
	client := redis.NewClient(&redis.Options{Addr: addr})
	defer client.Close()
	for try := 0; ; try++ {
		if err = client.Ping(ctx).Err(); err == nil {
			return p, nil
		}
		if try == 100 {
			return nil, errors.Join(fmt.Errorf("start redis: %w", err), p.stop())
		}
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// startOurs runs this program again, as our server.
func startOurs(o options, redisAddr string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, "-serve", "redis://"+redisAddr, "-profile", o.profile)
	cmd.Env = append(os.Environ(), "GOGC=400") // the collector's pace as in service
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		return nil, errors.Join(errors.New("our server ended"), cmd.Wait())
	}
	return &process{addr: strings.TrimSpace(line), pid: cmd.Process.Pid, stop: func() error {
		stdin.Close()
		return cmd.Wait()
	}}, nil
}

type noEvents struct{}

func (noEvents) Publish(context.Context, usage.Event) error { return nil }

// serve is our server: the service as leaky serve ratelimit runs it, until standard input ends.
func serve(ctx context.Context, o options) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	redisconn.SetLogger(log)
	set, err := limits.Parse([]byte(limitsFile(true)))
	if err != nil {
		return err
	}
	service, err := ratelimit.New(ratelimit.Config{Policy: ratelimit.Policy{Limits: set, Tiers: config.Tiers{Default: "USER"}},
		RedisURL: o.serve, Prefix: "our:",
		Publisher: noEvents{}, Log: log, Metrics: prometheus.NewRegistry(), Timeout: time.Second, Longest: time.Minute,
		Holds: config.Holds{Margin: time.Minute, SettledKept: time.Minute}})
	if err != nil {
		return err
	}
	defer service.Close()
	if o.profile != "" {
		file, err := os.Create(filepath.Clean(o.profile))
		if err != nil {
			return err
		}
		defer file.Close()
		if err := pprof.StartCPUProfile(file); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	fmt.Println(ln.Addr())
	return service.Listen(ctx, ln)
}
