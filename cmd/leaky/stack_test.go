package main

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"

	"github.com/leaky-tokens/leaky-tokens/internal/local/stack"
	"github.com/leaky-tokens/leaky-tokens/internal/local/supervisor"
)

// The test binary is leaky itself when LEAKY_TEST_MAIN says so.
func TestMain(m *testing.M) {
	if os.Getenv("LEAKY_TEST_MAIN") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// leaky runs the command line with the state folder and returns stdout, stderr and success.
func leaky(t *testing.T, dir string, env []string, args ...string) (string, string, bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], args...)
	cmd.Env = append([]string{"LEAKY_TEST_MAIN=1", "PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "LEAKY_STATE_DIR=" + dir,
		"GOCOVERDIR=" + os.Getenv("GOCOVERDIR")}, env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	return out.String(), errs.String(), err == nil
}

func stateDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "lk")
	if err == nil {
		err = os.Chmod(dir, 0o711)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// sleeper runs a supervisor over two /bin/sleep processes in the state folder.
func sleeper(t *testing.T, dir string) {
	t.Helper()
	if err := stack.OpenStateDir(dir); err != nil {
		t.Fatal(err)
	}
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	s, err := supervisor.New(supervisor.Config{LogDir: stack.LogDir(dir), RunDir: stack.RunDir(dir), StateDir: dir,
		Log: slog.New(slog.DiscardHandler),
		Parts: []supervisor.Part{{Name: "redis", Path: sleep, Args: []string{"1000"}, Address: "127.0.0.1:6379"}, {Name: "meter", Path: sleep,
			Args: []string{"1000"}, After: []string{"redis"}}}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("supervisor: %v", err)
		}
	})
	waiting, stop := context.WithTimeout(t.Context(), 20*time.Second)
	defer stop()
	for c := supervisor.NewClient(stack.RunDir(dir)); waiting.Err() == nil; {
		if o, err := c.Status(waiting); err == nil && o.Ready() {
			return
		}
	}
	t.Fatal("the parts never became ready")
}

func TestLifeOfAPart(t *testing.T) {
	t.Parallel()
	dir := stateDir(t)
	sleeper(t, dir)
	parts := func() map[string]supervisor.Status {
		out, errs, ok := leaky(t, dir, nil, "ps", "-o", "json")
		var list []supervisor.Status
		if err := json.Unmarshal([]byte(out), &list); !ok || err != nil {
			t.Fatalf("ps: %v, %v, %s", ok, err, errs)
		}
		byName := map[string]supervisor.Status{}
		for _, p := range list {
			byName[p.Name] = p
		}
		return byName
	}
	first := parts()["meter"]
	if first.State != supervisor.StateReady || first.PID == 0 || first.RSS == 0 || first.Since.IsZero() {
		t.Fatalf("meter: want ready with pid, memory and time, got %+v", first)
	}
	for _, step := range []struct {
		args []string
		want string // in the output
		then supervisor.State
	}{
		{[]string{"stop", "meter"}, "meter is stopped", supervisor.StateStopped},
		{[]string{"stop", "meter"}, "meter is stopped", supervisor.StateStopped},
		{[]string{"start", "meter"}, "meter is ready", supervisor.StateReady},
		{[]string{"restart", "meter"}, "meter is ready", supervisor.StateReady},
		{[]string{"kill", "meter"}, "meter is killed", ""},
		{[]string{"start", "meter"}, "meter is ready", supervisor.StateReady},
	} {
		out, errs, ok := leaky(t, dir, nil, step.args...)
		if !ok || !strings.Contains(out, step.want) {
			t.Fatalf("%v: want %q, got %q, %s", step.args, step.want, out, errs)
		}
		if got := parts()["meter"].State; step.then != "" && got != step.then {
			t.Errorf("%v: want %s, got %s", step.args, step.then, got)
		}
	}
	table, _, ok := leaky(t, dir, nil, "ps")
	if !ok || !strings.HasPrefix(table, "PART") || !strings.Contains(table, "127.0.0.1:6379") {
		t.Errorf("ps: want a table with the address, got %q", table)
	}
	if out, errs, ok := leaky(t, dir, nil, "status"); !ok || !strings.Contains(out, "All 2 parts are ready.") {
		t.Errorf("status: want all well, got %q %q", out, errs)
	}
	if _, errs, ok := leaky(t, dir, nil, "restart", "redos"); ok || !strings.Contains(errs, `did you mean "redis"?`) {
		t.Errorf("unknown part: want a suggestion, got %v %q", ok, errs)
	}
	if out, _, ok := leaky(t, dir, nil, "down"); !ok || !strings.Contains(out, "Stopped") {
		t.Errorf("down: got %v %q", ok, out)
	}
	if out, _, ok := leaky(t, dir, nil, "down"); !ok || !strings.Contains(out, "Nothing is running") {
		t.Errorf("second down: got %v %q", ok, out)
	}
}

func TestWithoutAStack(t *testing.T) {
	t.Parallel()
	dir := stateDir(t)
	if err := os.MkdirAll(stack.LogDir(dir), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(supervisor.LogPath(stack.LogDir(dir), "nats"), []byte("one\ntwo\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	bad := filepath.Join(t.TempDir(), "bad.yaml")
	if err := os.WriteFile(bad, []byte("gateway:\n  listn: 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	for _, tc := range []struct {
		name      string
		args, env []string
		ok        bool
		want      string // in stdout or stderr
	}{
		{"ps", []string{"ps"}, nil, false, "nothing is running"},
		{"status", []string{"status"}, nil, false, "nothing is running"},
		{"accept of a mistake", []string{"--config", bad, "accept"}, nil, false, "bad.yaml:2:3"},
		{"stop", []string{"stop", "nats"}, nil, false, "nothing is running"},
		{"logs", []string{"logs", "nats", "-n", "1"}, nil, true, "two\n"},
		{"logs of a part that never ran", []string{"logs", "redis"}, nil, false, "never ran"},
		{"logs of no part", []string{"logs", "nat"}, nil, false, `did you mean "nats"?`},
		{"logs of a path", []string{"logs", "../../etc/passwd"}, nil, false, "no part is named"},
		{"logs with a negative count", []string{"logs", "nats", "--lines=-1"}, nil, false, "must not be negative"},
		{"env", []string{"env"}, nil, true, "export LEAKY_GATEWAY_URL='http://127.0.0.1:8080'\n"},
		{"env quotes", []string{"env"}, []string{"LEAKY_NATS_URL=nats://a'b@h:1"}, true, `export LEAKY_NATS_URL='nats://a'\''b@h:1'`},
		{"check", []string{"check"}, nil, true, "is valid"},
		{"check of a mistake", []string{"check", bad}, nil, false, "bad.yaml:2:3"},
		{"check of no file", []string{"check", bad + "x"}, nil, false, "no such file"},
		{"an empty LEAKY_CONFIG is none", []string{"check"}, []string{"LEAKY_CONFIG="}, true, "built-in"},
		{"up with a mistake", []string{"--config", bad, "up"}, nil, false, "bad.yaml:2:3"},
		{"up on a busy port", []string{"up"}, []string{"LEAKY_NATS_LISTEN=" + ln.Addr().String()}, false, "change it with LEAKY_NATS_LISTEN"},
		{"up on a public port", []string{"up"}, []string{"LEAKY_REDIS_LISTEN=0.0.0.0:6379"}, false, "only loopback"},
		{"up --clean of a foreign folder", []string{"up", "--clean"}, []string{"LEAKY_STATE_DIR=" + filepath.Dir(os.Args[0])}, false,
			"not ours to empty"},
		{"version", []string{"version"}, nil, true, "Envoy 1.40.0"},
		{"unknown command", []string{"upp"}, nil, false, "up"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			out, errs, ok := leaky(t, dir, tc.env, tc.args...)
			if ok != tc.ok || !strings.Contains(out+errs, tc.want) {
				t.Errorf("want success %v and %q, got %v\n%s%s", tc.ok, tc.want, ok, out, errs)
			}
			if strings.Contains(out+errs, "panic:") {
				t.Errorf("it panics: %s", errs)
			}
		})
	}
}

func TestEveryCommandHasHelp(t *testing.T) {
	t.Parallel()
	var c cli
	parser, err := kong.New(&c, served())
	if err != nil {
		t.Fatal(err)
	}
	leaves := parser.Model.Leaves(false)
	if len(leaves) < 12 {
		t.Fatalf("want at least 12 commands, got %d", len(leaves))
	}
	for _, leaf := range leaves {
		if leaf.Help == "" || leaf.Detail == "" {
			t.Errorf("%s: want a line of help and more with --help, got %q, %q", leaf.Path(), leaf.Help, leaf.Detail)
		}
	}
}
