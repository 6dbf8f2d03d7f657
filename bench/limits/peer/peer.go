// Package peer builds and runs envoyproxy/ratelimit's own server (bench/limits/upstream)
// as a process beside ours, for what compares the two.
package peer

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Build makes the server's binary in dir and returns its path. It needs the modules that
// the server's go.mod names: the first time they come from the module proxy.
func Build(ctx context.Context, dir string) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	bin := filepath.Join(dir, "upstream")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", bin, ".")
	cmd.Dir = filepath.Join(strings.TrimSpace(string(out)), "bench", "limits", "upstream")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=readonly", "GOWORK=off")
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build envoyproxy/ratelimit: %w\n%s", err, text)
	}
	return bin, nil
}

// Config of a Process.
type Config struct {
	Bin    string // Build's
	Redis  string // host:port
	Limits string // path of the limits file
	Prefix string // before every key
	// Env holds settings of upstream's, such as REDIS_POOL_SIZE=10.
	Env []string
}

// Process is a running server.
type Process struct {
	Addr string // of its gRPC service
	PID  int

	cmd   *exec.Cmd
	stdin io.Closer
	log   *strings.Builder
}

// Start runs the server until Stop, or until this process ends.
func Start(c Config) (*Process, error) {
	cmd := exec.Command(c.Bin, "-redis", c.Redis, "-config", c.Limits, "-prefix", c.Prefix)
	cmd.Env = append(os.Environ(), append([]string{"USE_STATSD=false", "GODEBUG="}, c.Env...)...)
	p := &Process{cmd: cmd, log: &strings.Builder{}}
	cmd.Stderr = p.log
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start envoyproxy/ratelimit: %w", err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start envoyproxy/ratelimit: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start envoyproxy/ratelimit: %w", err)
	}
	p.stdin, p.PID = stdin, cmd.Process.Pid
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		p.Stop()
		return nil, fmt.Errorf("start envoyproxy/ratelimit: it ended: %s", p.log)
	}
	p.Addr = strings.TrimSpace(line)
	return p, nil
}

// Stop ends the server and waits for it.
func (p *Process) Stop() {
	p.stdin.Close()
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}
