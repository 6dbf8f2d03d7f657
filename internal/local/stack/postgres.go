package stack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/leaky-tokens/leaky-tokens/internal/local/supervisor"
)

// maxSocketPath leaves room for Postgres' own name of the socket in sun_path (107 bytes).
const maxSocketPath = 107 - len("/.s.PGSQL.65535")

// postgres is the database as a part. It refuses to run as root, so then it runs as nobody.
func (p *Plan) postgres(s store, bin string) supervisor.Part {
	db := database{bin: bin, dir: p.path(s.Name), password: passwordFile(p.dir, s.Name), user: unprivileged(), env: p.baseEnv()}
	socket := filepath.Join(db.dir, "run")
	if len(socket) > maxSocketPath {
		socket = "" // loopback is enough
	}
	return supervisor.Part{
		Name: s.Name, Address: s.listen.String(), Path: filepath.Join(bin, "postgres"), Env: db.env, Dir: db.dir, User: db.user,
		Args: []string{"-D", db.data(), "-c", "listen_addresses=" + s.listen.Host, "-c", "port=" + strconv.Itoa(s.listen.Port),
			"-c", "unix_socket_directories=" + socket, "-c", "max_connections=200", "-c", "shared_buffers=64MB",
			"-c", "log_lock_waits=on"},
		Prepare: db.prepare, Ready: both(postgresReady(s.url), p.rolesReady(s)),
		StopSignal:  syscall.SIGINT,  // fast shutdown: rolls back, ends sessions
		DeathSignal: syscall.SIGQUIT, // immediate shutdown takes its own children along; SIGKILL leaves them a moment
	}
}

// database is a data folder and the programs that make it.
type database struct {
	bin, dir, password string
	user               *syscall.Credential
	env                []string
}

func (d database) data() string { return filepath.Join(d.dir, "data") }

// prepare makes the data folder on first start. It appears under its name only when complete.
func (d database) prepare(ctx context.Context) error {
	for _, dir := range []string{d.dir, filepath.Join(d.dir, "run")} {
		if err := d.folder(dir); err != nil {
			return err
		}
	}
	if _, err := os.Stat(filepath.Join(d.data(), "PG_VERSION")); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	password, err := os.ReadFile(d.password)
	if err != nil {
		return fmt.Errorf("initialise postgres: %w", err)
	}
	fresh := d.data() + ".new"
	if err := os.RemoveAll(fresh); err != nil {
		return fmt.Errorf("initialise postgres: %w", err)
	}
	// The user who runs initdb may not read our file, so it gets one of its own for a moment.
	copied := filepath.Join(d.dir, "password")
	if err := d.hand(copied, password); err != nil {
		return err
	}
	defer os.Remove(copied)
	if err := d.run(ctx, "", "initdb", "-D", fresh, "-U", "leaky", "--pwfile="+copied, "--auth=scram-sha-256",
		"--encoding=UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"); err != nil {
		return err
	}
	if err := d.run(ctx, "CREATE DATABASE leaky\n", "postgres", "--single", "-D", fresh, "postgres"); err != nil {
		return err
	}
	if err := os.Rename(fresh, d.data()); err != nil {
		return fmt.Errorf("initialise postgres: %w", err)
	}
	return nil
}

func (d database) folder(path string) error {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return fmt.Errorf("make %s: %w", path, err)
	}
	return d.own(path)
}

// hand writes a file that only the database's user can read.
func (d database) hand(path string, content []byte) error {
	if err := os.WriteFile(path, content, 0o600); err != nil {
		return fmt.Errorf("make %s: %w", path, err)
	}
	return d.own(path)
}

func (d database) own(path string) error {
	if d.user == nil {
		return nil
	}
	if err := os.Chown(path, int(d.user.Uid), int(d.user.Gid)); err != nil {
		return fmt.Errorf("make %s: %w", path, err)
	}
	return nil
}

// run executes one of Postgres' programs as its user with input on stdin.
func (d database) run(ctx context.Context, input, program string, args ...string) error {
	cmd := exec.CommandContext(ctx, filepath.Join(d.bin, program), args...)
	cmd.Env, cmd.Dir = d.env, d.dir
	cmd.Stdin = strings.NewReader(input)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: d.user, Setpgid: true}
	err := cmd.Run()
	// Single-user mode exits with 0 after a failed statement.
	if text := out.String(); err != nil || strings.Contains(text, "ERROR:") || strings.Contains(text, "FATAL:") {
		return fmt.Errorf("initialise postgres: %s: %w", program, errors.Join(err, complaint(text)))
	}
	return nil
}

// complaint is the line of a program's output that says what is wrong.
func complaint(output string) error {
	var last string
	for line := range strings.Lines(output) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		if last = line; strings.Contains(strings.ToLower(line), "error:") || strings.Contains(line, "FATAL:") {
			break
		}
	}
	return errors.New(last)
}
