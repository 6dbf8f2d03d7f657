package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// The test binary is its own child: LEAKY_CHILD says what it does.
func TestMain(m *testing.M) {
	switch os.Getenv("LEAKY_CHILD") {
	case "":
		os.Exit(m.Run())
	case "obey", "stubborn":
		childWait(os.Getenv("LEAKY_CHILD"))
	case "crash":
		fmt.Println("boom")
		os.Exit(3)
	case "supervise":
		childSupervise()
	}
}

// childWait notes its start, says that it is ready, and waits for SIGTERM.
func childWait(mode string) {
	name, dir := os.Getenv("LEAKY_NAME"), os.Getenv("LEAKY_DIR")
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	note(dir, "start "+name)
	if err := os.WriteFile(filepath.Join(dir, name+".ready"), nil, 0o600); err != nil {
		os.Exit(4)
	}
	for {
		<-signals
		if mode == "obey" {
			note(dir, "stop "+name)
			os.Exit(0)
		}
	}
}

func note(dir, line string) {
	f, err := os.OpenFile(filepath.Join(dir, "journal"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		os.Exit(4)
	}
	defer f.Close()
	if _, err := f.WriteString(line + "\n"); err != nil {
		os.Exit(4)
	}
}

// childSupervise is a supervisor of its own, to be killed.
func childSupervise() {
	dir := os.Getenv("LEAKY_DIR")
	s, err := New(Config{Parts: []Part{child(dir, "victim", "stubborn")}, LogDir: dir, RunDir: dir, Log: slog.New(slog.DiscardHandler)})
	if err == nil {
		err = s.Run(context.Background())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(4)
	}
}

// covered tells a child where its coverage goes, if it is counted.
func covered() string { return "GOCOVERDIR=" + os.Getenv("GOCOVERDIR") }

func child(dir, name, mode string, after ...string) Part {
	ready := filepath.Join(dir, name+".ready")
	return Part{
		Name: name, Path: os.Args[0], After: after, Env: []string{"LEAKY_CHILD=" + mode, "LEAKY_NAME=" + name, "LEAKY_DIR=" + dir, covered()},
		Prepare: func(context.Context) error {
			if err := os.Remove(ready); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
			return nil
		},
		Ready: func(context.Context) error {
			_, err := os.Stat(ready)
			return err
		},
	}
}

// patient is a grace that a child needs never use up, however busy the machine is.
const patient = time.Minute

// begin runs a supervisor over the parts until the test ends.
func begin(t *testing.T, dir string, parts ...Part) *Client {
	t.Helper()
	return beginWith(t, Config{Parts: parts, LogDir: dir, RunDir: dir, StateDir: dir, Log: slog.New(slog.DiscardHandler), StopGrace: patient})
}

func beginWith(t *testing.T, c Config) *Client {
	t.Helper()
	s, err := New(c)
	if err != nil {
		t.Fatalf("new supervisor: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("supervisor ended with %v", err)
		}
	})
	client := NewClient(c.RunDir)
	testenv.Eventually(t, "the control socket answers", func() bool {
		_, err := client.Status(t.Context())
		return err == nil
	})
	return client
}

func (c *Client) part(t *testing.T, name string) Status {
	t.Helper()
	o, err := c.Status(t.Context())
	if err != nil {
		t.Fatalf("status: %v", err)
	}
	for _, p := range o.Parts {
		if p.Name == name {
			return p
		}
	}
	t.Fatalf("no part %s in %v", name, o.Parts)
	return Status{}
}

// awaitState gives the part as it was when it was in the state: it may have left it since.
func (c *Client) awaitState(t *testing.T, name string, want State) (s Status) {
	t.Helper()
	testenv.Eventually(t, name+" is "+string(want), func() bool {
		s = c.part(t, name)
		return s.State == want
	})
	return s
}

func alive(pid int) bool { return syscall.Kill(pid, 0) == nil }

// shortDir is a folder whose path leaves room for a socket's name.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sup")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func TestStartsAndStopsInOrder(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	edge := child(dir, "edge", "obey", "service")
	edge.Drain = func(context.Context) { note(dir, "drain edge") }
	client := begin(t, dir, child(dir, "store", "obey"), child(dir, "service", "obey", "store"), edge,
		Part{Name: "elsewhere", Address: "db.example:5432", External: true})
	last := client.awaitState(t, "edge", StateReady)
	if s := client.part(t, "elsewhere").State; s != StateExternal {
		t.Errorf("external part: want %s, got %s", StateExternal, s)
	}
	if last.PID == 0 || last.RSS == 0 {
		t.Errorf("a running part has a pid and memory, got %+v", last)
	}
	was, err := client.Down(t.Context())
	if err != nil || !was {
		t.Fatalf("down: want true, nil; got %v, %v", was, err)
	}
	journal, err := os.ReadFile(filepath.Join(dir, "journal"))
	if err != nil {
		t.Fatal(err)
	}
	want := "start store\nstart service\nstart edge\ndrain edge\nstop edge\nstop service\nstop store\n"
	if string(journal) != want {
		t.Errorf("order: want\n%sgot\n%s", want, journal)
	}
	if alive(last.PID) {
		t.Errorf("process %d is left", last.PID)
	}
	if was, err := client.Down(t.Context()); err != nil || was {
		t.Errorf("second down: want false, nil; got %v, %v", was, err)
	}
	if _, err := client.Status(t.Context()); !errors.Is(err, ErrDown) {
		t.Errorf("status after down: want %v, got %v", ErrDown, err)
	}
}

func TestCrashedPartStartsAgain(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	client := begin(t, dir, child(dir, "broken", "crash"), child(dir, "sound", "obey"))
	testenv.Eventually(t, "three restarts", func() bool { return client.part(t, "broken").Restarts >= 3 })
	broken := client.awaitState(t, "broken", StateBackoff)
	if want := "exited with 3"; broken.Message != want {
		t.Errorf("message: want %q, got %q", want, broken.Message)
	}
	if sound := client.awaitState(t, "sound", StateReady); sound.Restarts != 0 {
		t.Errorf("the other part: want no restart, got %d", sound.Restarts)
	}
	var out strings.Builder
	if err := Tail(t.Context(), &out, LogPath(dir, "broken"), 1, false); err != nil || out.String() != "boom\n" {
		t.Errorf("log: want boom, got %q, %v", out.String(), err)
	}
}

func TestOperations(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	client := begin(t, dir, child(dir, "a", "obey"))
	first := client.awaitState(t, "a", StateReady)

	killed, err := client.Kill(t.Context(), "a")
	if err != nil || killed.PID == first.PID {
		t.Fatalf("kill: want another or no pid, got %+v, %v", killed, err)
	}
	second := client.awaitState(t, "a", StateReady)
	if second.PID == first.PID || second.Restarts != 1 || alive(first.PID) {
		t.Errorf("after kill: want a new pid and 1 restart, got %+v (was %d)", second, first.PID)
	}

	restarted, err := client.Restart(t.Context(), "a")
	if err != nil || restarted.Up() {
		t.Fatalf("restart: want a part on its way, got %+v, %v", restarted, err)
	}
	third := client.awaitState(t, "a", StateReady)
	if third.PID == second.PID || third.Restarts != 1 {
		t.Errorf("after restart: want a new pid and still 1 crash, got %+v", third)
	}

	for range 2 { // stop is idempotent
		if s, err := client.Stop(t.Context(), "a"); err != nil || s.State != StateStopped || s.PID != 0 {
			t.Fatalf("stop: want %s, got %+v, %v", StateStopped, s, err)
		}
	}
	if alive(third.PID) {
		t.Errorf("process %d is left after stop", third.PID)
	}
	if _, err := client.Kill(t.Context(), "a"); err == nil || !strings.Contains(err.Error(), "not running") {
		t.Errorf("kill of a stopped part: want an error, got %v", err)
	}
	if s := client.part(t, "a"); s.State != StateStopped {
		t.Errorf("stop keeps down: want %s, got %s", StateStopped, s.State)
	}
	if _, err := client.Start(t.Context(), "a"); err != nil {
		t.Fatalf("start: %v", err)
	}
	if s, err := client.WaitReady(t.Context(), "a"); err != nil || s.State != StateReady {
		t.Errorf("after start: want ready, got %+v, %v", s, err)
	}
}

func TestStubbornPartIsKilled(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	client := beginWith(t, Config{Parts: []Part{child(dir, "a", "stubborn")}, LogDir: dir, RunDir: dir, StateDir: dir,
		Log: slog.New(slog.DiscardHandler), StopGrace: time.Second})
	pid := client.awaitState(t, "a", StateReady).PID
	if _, err := client.Stop(t.Context(), "a"); err != nil {
		t.Fatalf("stop: %v", err)
	}
	if alive(pid) {
		t.Errorf("process %d survived", pid)
	}
}

func TestChildrenDieWithTheSupervisor(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	p := Part{Name: "supervisor", Path: os.Args[0], Env: []string{"LEAKY_CHILD=supervise", "LEAKY_DIR=" + dir, covered()}}
	outer := begin(t, shortDir(t), p)
	inner := NewClient(dir)
	testenv.Eventually(t, "the inner supervisor runs", func() bool {
		o, err := inner.Status(t.Context())
		return err == nil && o.Ready()
	})
	victim := inner.part(t, "victim").PID
	if _, err := outer.Kill(t.Context(), "supervisor"); err != nil {
		t.Fatalf("kill: %v", err)
	}
	if _, err := outer.Stop(t.Context(), "supervisor"); err != nil {
		t.Fatalf("stop: %v", err)
	}
	testenv.Eventually(t, "the orphan dies", func() bool { return !alive(victim) })
}

func TestDownEndsAStuckSupervisor(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	outer := begin(t, shortDir(t), Part{Name: "supervisor", Path: os.Args[0], Env: []string{"LEAKY_CHILD=supervise", "LEAKY_DIR=" + dir, covered()}})
	inner := NewClient(dir)
	inner.patience = 100 * time.Millisecond
	testenv.Eventually(t, "the inner supervisor runs", func() bool {
		o, err := inner.Status(t.Context())
		return err == nil && o.Ready()
	})
	victim, stuck := inner.part(t, "victim").PID, outer.part(t, "supervisor").PID
	if err := syscall.Kill(stuck, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if was, err := inner.Down(t.Context()); err != nil || !was {
		t.Fatalf("down: want true, nil; got %v, %v", was, err)
	}
	testenv.Eventually(t, "supervisor and part are gone", func() bool { return !alive(stuck) && !alive(victim) })
}

func TestControlErrors(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	client := begin(t, dir, child(dir, "ratelimit", "obey"), child(dir, "meter", "obey"), Part{Name: "postgres", Address: "db:5432",
		External: true})
	for _, tc := range []struct{ name, part, want string }{
		{"near miss", "ratelimt", `did you mean "ratelimit"?`},
		{"far off", "zzzzzzzzzzzz", "parts: ratelimit, meter, postgres"},
		{"path tricks", "../../x", "no part is named"},
		{"external", "postgres", "runs elsewhere (db:5432)"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			if _, err := client.Stop(t.Context(), tc.part); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("want an error with %q, got %v", tc.want, err)
			}
		})
	}
	t.Run("unknown path", func(t *testing.T) {
		t.Parallel()
		if err := client.call(t.Context(), http.MethodPost, "/v2/x", nil); err == nil || !strings.Contains(err.Error(), "404") {
			t.Errorf("want 404, got %v", err)
		}
	})
	t.Run("second supervisor", func(t *testing.T) {
		t.Parallel()
		second := begin(t, shortDir(t), Part{Name: "second", Path: os.Args[0], Env: []string{"LEAKY_CHILD=supervise", "LEAKY_DIR=" + dir, covered()}})
		testenv.Eventually(t, "it fails", func() bool { return strings.Contains(second.part(t, "second").Message, "exited with 4") })
	})
}

func TestNewRefusesWrongOrder(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name  string
		parts []Part
		want  string
	}{
		{"after a later one", []Part{{Name: "a", After: []string{"b"}}, {Name: "b"}}, "a comes after b"},
		{"twice", []Part{{Name: "a"}, {Name: "a"}}, "twice"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			if _, err := New(Config{Parts: tc.parts, Log: slog.New(slog.DiscardHandler)}); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("want an error with %q, got %v", tc.want, err)
			}
		})
	}
}

// TestAWarningIsShownBesideReady: a part that serves and needs a person's eye is up, and says why.
func TestAWarningIsShownBesideReady(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	part := child(dir, "warned", "obey")
	probe := part.Ready
	part.Ready = func(ctx context.Context) error {
		if err := probe(ctx); err != nil {
			return err
		}
		return Warning("leaky.yaml is held")
	}
	client := begin(t, dir, part)
	if s := client.awaitState(t, "warned", StateReady); !s.Up() || s.Message != "leaky.yaml is held" {
		t.Errorf("want ready with a message, got %+v", s)
	}
}
