package compose

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/envoytest"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/ports"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/stacktest"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

const folder = "../../deploy/compose"

// world is this machine in place of the containers.
type world struct {
	*testing.T
	project  *types.Project
	leaky    string
	envoy    string
	state    string
	paths    *strings.Replacer // of the containers to those of the machine
	finished map[string]bool   // has come to its end, or is healthy
	running  map[string]bool
}

// TestTheComposeFileServes starts the parts as compose.yaml has it and makes a call through Envoy.
func TestTheComposeFileServes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	testenv.Within(t, 4*time.Minute, "every part healthy", func() bool {
		for name, s := range w.project.Services {
			if !w.finished[name] && w.mayStart(s) {
				w.advance(s)
			}
		}
		return len(w.finished) == len(w.project.Services)
	})
	stack := &stacktest.Stack{Gateway: "http://" + w.paths.Replace("0.0.0.0:8080"), Dir: w.state}
	if err := stack.Through(http.DefaultTransport); err != nil {
		t.Fatal(err)
	}
	who, err := stack.NewAccount(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ask := map[string]any{"model": "gpt-4o", "messages": []map[string]string{{"role": "user", "content": "Hello"}}}
	testenv.Eventually(t, "a call is served", func() bool { // repeated, as clients do, where nobody can decide just now
		status, err := stack.Call(t.Context(), "POST", "/v1/chat/completions", who.Key, ask, nil)
		if err != nil || status != http.StatusOK && status != http.StatusServiceUnavailable {
			t.Fatalf("want 200, got %d, %v", status, err)
		}
		return status == http.StatusOK
	})
	testenv.Eventually(t, "the call on the books", func() bool {
		var page struct{ Items []struct{ Status int } }
		err := stack.Must(t.Context(), http.StatusOK, "GET", "/api/v1/analytics/usage?provider=openai", who.Key, nil, &page)
		served := slices.DeleteFunc(page.Items, func(one struct{ Status int }) bool { return one.Status != http.StatusOK })
		return err == nil && len(served) == 1
	})
}

func newWorld(t *testing.T) *world {
	t.Helper()
	options, err := cli.NewProjectOptions([]string{filepath.Join(folder, "compose.yaml")}, cli.WithOsEnv)
	if err != nil {
		t.Fatal(err)
	}
	project, err := options.LoadProject(t.Context()) // validates it by the schema of the compose specification
	if err != nil {
		t.Fatal(err)
	}
	w := &world{T: t, project: project, state: filepath.Join(t.TempDir(), "s"), finished: map[string]bool{}, running: map[string]bool{}}
	w.leaky = filepath.Join(t.TempDir(), "leaky")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", w.leaky, "../../cmd/leaky").CombinedOutput(); err != nil {
		t.Fatalf("build leaky: %v\n%s", err, out)
	}
	if w.envoy, err = envoytest.Binary(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, store := range []string{"postgres", "redis", "nats", "clickhouse"} {
		w.finished[store] = true // those of the test environment
	}
	w.place()
	return w
}

// place makes the state folder, secrets and leaky.yaml, with a free port for each of the containers'.
func (w *world) place() {
	w.Helper()
	text, err := os.ReadFile(filepath.Join(folder, "leaky.yaml"))
	if err != nil {
		w.Fatal(err)
	}
	pairs := []string{"/var/lib/leaky-tokens", w.state, "/etc/leaky/leaky.yaml", w.file("leaky.yaml", "")}
	listens := regexp.MustCompile(`0\.0\.0\.0:\d+`).FindAllString(string(text), -1)
	free, err := ports.Free(len(listens))
	if err != nil {
		w.Fatal(err)
	}
	for i, at := range listens {
		pairs = append(pairs, at, free[i])
		for _, stub := range []string{"stub-openai", "stub-payment"} {
			pairs = append(pairs, stub+strings.TrimPrefix(at, "0.0.0.0"), free[i])
		}
	}
	client, _ := testenv.Redis(w.T)
	for name, content := range map[string]string{
		"postgres_url": testenv.PostgresURL(w.T), "redis_url": "redis://" + client.Options().Addr, "nats_url": testenv.NATS(w.T),
		"clickhouse_url": testenv.ClickHouse(w.T), "keys_secret": "a secret of more than 16 bytes", "admin_password": "an uncommon 7 word",
	} {
		pairs = append(pairs, "/run/secrets/"+name, w.file(name, content))
	}
	w.paths = strings.NewReplacer(pairs...)
	if err := os.MkdirAll(w.state, 0o700); err != nil {
		w.Fatal(err)
	}
	w.file("leaky.yaml", w.paths.Replace(string(text)))
}

func (w *world) file(name, content string) string {
	w.Helper()
	path := filepath.Join(filepath.Dir(w.leaky), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		w.Fatal(err)
	}
	return path
}

func (w *world) mayStart(s types.ServiceConfig) bool {
	for before := range s.DependsOn {
		if !w.finished[before] {
			return false
		}
	}
	return true
}

// advance starts a part, and afterwards asks by its health check whether it has come up.
func (w *world) advance(s types.ServiceConfig) {
	w.Helper()
	if !w.running[s.Name] {
		w.running[s.Name] = true
		w.start(s)
		return
	}
	if s.Restart == types.RestartPolicyNo { // it was waited for
		w.finished[s.Name] = true
		return
	}
	check := []string{"/leaky", "probe", s.Name} // Envoy's image has no leaky; its port is asked here
	if s.HealthCheck != nil {
		check = s.HealthCheck.Test[1:]
	}
	probe := w.command(w.Context(), w.leaky, check[1:], w.project.Services["xds"])
	if probe.Run() == nil {
		w.finished[s.Name] = true
	}
}

func (w *world) start(s types.ServiceConfig) {
	w.Helper()
	binary := w.leaky
	if s.Name == "envoy" {
		binary = w.envoy
	}
	ctx, stop := context.WithCancel(context.Background())
	cmd := w.command(ctx, binary, s.Command, s)
	log, err := os.Create(filepath.Join(w.state, s.Name+".log"))
	if err != nil {
		w.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	if s.Restart == types.RestartPolicyNo {
		defer stop()
		if err := cmd.Run(); err != nil {
			w.log(s.Name)
			w.Fatalf("%s: %v", s.Name, err)
		}
		return
	}
	if err := cmd.Start(); err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() {
		stop()
		_ = cmd.Wait() // it was told to end
		if w.Failed() {
			w.log(s.Name)
		}
	})
}

// command is a container's, with its environment and no other.
func (w *world) command(ctx context.Context, binary string, args []string, s types.ServiceConfig) *exec.Cmd {
	var replaced []string
	for _, arg := range args {
		replaced = append(replaced, w.paths.Replace(arg))
	}
	cmd := exec.CommandContext(ctx, binary, replaced...)
	cmd.Dir = w.state
	cmd.Env = []string{"LEAKY_STATE_DIR=" + w.state} // as the image has it
	for name, value := range s.Environment {
		if value != nil {
			cmd.Env = append(cmd.Env, fmt.Sprintf("%s=%s", name, w.paths.Replace(*value)))
		}
	}
	return cmd
}

func (w *world) log(name string) {
	text, err := os.ReadFile(filepath.Join(w.state, name+".log"))
	if err == nil && len(text) > 0 {
		w.Logf("%s:\n%s", name, text[max(0, len(text)-2000):])
	}
}
