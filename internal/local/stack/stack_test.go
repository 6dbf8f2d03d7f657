package stack

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/local/binaries"
	"github.com/leaky-tokens/leaky-tokens/internal/local/supervisor"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/ports"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

func environment(values map[string]string) func(string) string {
	return func(name string) string { return values[name] }
}

// plan is the stack of the built-in configuration changed by text and the environment.
func plan(t *testing.T, dir, text string, env map[string]string) *Plan {
	t.Helper()
	path := ""
	if text != "" {
		path = filepath.Join(t.TempDir(), "leaky.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cfg, err := config.Load(path, environment(env))
	if err != nil {
		t.Fatalf("load configuration: %v", err)
	}
	p, err := New(Config{Leaky: cfg, StateDir: dir, Getenv: environment(env), Secrets: true})
	if err != nil {
		t.Fatalf("new plan: %v", err)
	}
	return p
}

// folder is one that another user reaches, with a path short enough for sockets.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "st")
	if err == nil {
		err = os.Chmod(dir, 0o711)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func freeAddress(t *testing.T) string {
	t.Helper()
	found, err := ports.Free(1)
	if err != nil {
		t.Fatal(err)
	}
	return found[0]
}

type fakePrograms struct{}

func (fakePrograms) EnvoyBin() (string, error)                   { return "/opt/envoy", nil }
func (fakePrograms) PostgresBin() (string, error)                { return "/opt/pg/bin", nil }
func (fakePrograms) RedisServer(context.Context) (string, error) { return "/opt/valkey", nil }
func (fakePrograms) PrometheusBin() (string, error)              { return "/opt/prometheus/bin", nil }
func (fakePrograms) AlertmanagerBin() (string, error)            { return "/opt/alertmanager/bin", nil }

func fakeParts(t *testing.T, p *Plan) map[string]supervisor.Part {
	t.Helper()
	all, err := p.Parts(t.Context(), Commands{Programs: fakePrograms{}, Self: "/opt/leaky", Config: "/etc/leaky.yaml"})
	if err != nil {
		t.Fatalf("parts: %v", err)
	}
	if _, err := supervisor.New(supervisor.Config{Parts: all, Log: slog.New(slog.DiscardHandler)}); err != nil {
		t.Fatalf("the supervisor refuses the parts: %v", err)
	}
	byName := map[string]supervisor.Part{}
	for _, part := range all {
		byName[part.Name] = part
	}
	return byName
}

func TestWhatIsStarted(t *testing.T) {
	t.Parallel()
	all := topology.Names(topology.Parts())
	for _, tc := range []struct {
		name, text string
		env        map[string]string
		external   []string
		absent     []string
	}{
		{name: "everything by default"},
		{name: "stores of the environment", env: map[string]string{"LEAKY_POSTGRES_URL": "postgres://u:p@db:5432/x",
			"LEAKY_CLICKHOUSE_URL": "http://ch:8123/y"},
			external: []string{"postgres", "clickhouse"}},
		{name: "a store of the file", text: "stores: {redis: \"redis://r:6379\"}", external: []string{"redis"}},
		{name: "a real provider needs no stub", env: map[string]string{"LEAKY_PROVIDER_OPENAI_URL": "https://api.example.com",
			"LEAKY_PROVIDER_ANTHROPIC_URL": "https://api.example.com"},
			absent: []string{"stub-openai"}},
		{name: "localhost is this machine", env: map[string]string{"LEAKY_PROVIDER_OPENAI_URL": "http://localhost:8093"}},
		{name: "another port is not the stub", env: map[string]string{"LEAKY_PROVIDER_GEMINI_URL": "http://127.0.0.1:8099"},
			absent: []string{"stub-gemini"}},
		{name: "monitors that are off", text: "monitoring: {prometheus: \"off\", alertmanager: \"off\"}",
			absent: []string{"prometheus", "alertmanager"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			got := fakeParts(t, plan(t, t.TempDir(), tc.text, tc.env))
			for _, name := range all {
				part, ok := got[name]
				if want := !slices.Contains(tc.absent, name); ok != want {
					t.Errorf("%s: want there %v, got %v", name, want, ok)
				}
				if want := slices.Contains(tc.external, name); part.External != want {
					t.Errorf("%s: want external %v, got %v", name, want, part.External)
				}
				if strings.Contains(part.Address, "p@") {
					t.Errorf("%s: the address shows a password: %s", name, part.Address)
				}
			}
		})
	}
}

func TestOurOwnURLsInTheEnvironmentStayOurs(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	env := map[string]string{}
	for _, e := range plan(t, dir, "", nil).Exports() {
		env[e.Name] = e.Value
	}
	for name, part := range fakeParts(t, plan(t, dir, "", env)) {
		if part.External {
			t.Errorf("%s: want started, got external after eval of leaky env", name)
		}
	}
}

func TestEachPartGetsOnlyWhatItNeeds(t *testing.T) {
	t.Parallel()
	env := map[string]string{"PATH": "/bin", "HOME": "/h", "MY_KEY": "provider-secret", "LEAKY_ADMIN_PASSWORD": "admin-secret",
		"AWS_SECRET":         "x",
		"LEAKY_POSTGRES_URL": "postgres://u:pg-secret@db/x", "LEAKY_REDIS_URL": "redis://:redis-secret@r"}
	text := "providers:\n  openai: {protocol: openai, url: \"http://127.0.0.1:8093\", api_key_env: MY_KEY}\nmodels:\n  - {name: gpt-4o, provider: openai}\n"
	got := fakeParts(t, plan(t, t.TempDir(), text, env))
	for secret, allowed := range map[string][]string{
		"provider-secret": {"xds"}, "admin-secret": {"identity"}, "AWS_SECRET": nil,
		"pg-secret": {"identity", "tokensvc"}, "redis-secret": {"identity", "ratelimit"},
	} {
		var holders []string
		for name, part := range got {
			if strings.Contains(strings.Join(part.Env, "\n"), secret) {
				holders = append(holders, name)
			}
			if strings.Contains(strings.Join(part.Args, " "), secret) {
				t.Errorf("%s: %s is on the command line", name, secret)
			}
		}
		slices.Sort(holders)
		slices.Sort(allowed)
		if diff := cmp.Diff(allowed, holders); diff != "" {
			t.Errorf("who gets %s (-want +got):\n%s", secret, diff)
		}
	}
	if want := []string{"HOME=/h", "PATH=/bin"}; !slices.Equal(want, slices.Sorted(slices.Values(got["envoy"].Env))) {
		t.Errorf("envoy: want only %v, got %v", want, got["envoy"].Env)
	}
}

func TestListenSettings(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ name, value, want string }{
		{"another port", "127.0.0.1:7000", ""},
		{"IPv6 loopback", "[::1]:7000", ""},
		{"every address", "0.0.0.0:5432", "only loopback"},
		{"another machine", "10.0.0.1:5432", "only loopback"},
		{"no port", "127.0.0.1", "write host:port"},
		{"port 0", "127.0.0.1:0", "write 127.0.0.1:port"},
		{"socket", "unix:/x", "write 127.0.0.1:port"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			cfg, err := config.Load("", environment(nil))
			if err != nil {
				t.Fatal(err)
			}
			_, err = New(Config{Leaky: cfg, StateDir: t.TempDir(), Getenv: environment(map[string]string{"LEAKY_POSTGRES_LISTEN": tc.value}),
				Secrets: true})
			if tc.want == "" && err != nil {
				t.Errorf("want no error, got %v", err)
			}
			if tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), "LEAKY_POSTGRES_LISTEN")) {
				t.Errorf("want an error with LEAKY_POSTGRES_LISTEN and %q, got %v", tc.want, err)
			}
		})
	}
}

func TestBusyPortIsNamedWithItsSetting(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() }) // the subtests outlive this function
	busy := ln.Addr().String()
	for _, tc := range []struct{ name, text, setting string }{
		{"gateway", "gateway: {listen: %q}", "gateway.listen in leaky.yaml"},
		{"admin", "envoy: {admin: %q}", "envoy.admin in leaky.yaml"},
		{"metrics", "envoy: {metrics: %q}", "envoy.metrics in leaky.yaml"},
		{"service", "services: {tokensvc: {http: %q}}", "services.tokensvc.http in leaky.yaml"},
		{"grpc", "services: {xds: {grpc: %q}}", "services.xds.grpc in leaky.yaml"},
		{"store", "", "LEAKY_REDIS_LISTEN in the environment"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			text, env := "", map[string]string{"LEAKY_REDIS_LISTEN": busy}
			if tc.text != "" {
				text, env = fmt.Sprintf(tc.text, busy), nil
			}
			ports, err := plan(t, t.TempDir(), text, env).Ports()
			if err != nil {
				t.Fatal(err)
			}
			only := slices.DeleteFunc(ports, func(p Port) bool { return p.Address != busy })
			err = CheckPorts(only)
			if err == nil || !strings.Contains(err.Error(), tc.setting) || !strings.Contains(err.Error(), busy) {
				t.Fatalf("want an error with %q and %q, got %v", busy, tc.setting, err)
			}
			if pid := fmt.Sprintf("pid %d", os.Getpid()); !strings.Contains(err.Error(), pid) {
				t.Errorf("want the holder %q, got %v", pid, err)
			}
		})
	}
}

func TestTwoPartsOnOnePort(t *testing.T) {
	t.Parallel()
	at := freeAddress(t)
	err := CheckPorts([]Port{{Part: "a", Address: at, Setting: "x"}, {Part: "b", Address: at, Setting: "y"}})
	if err == nil || !strings.Contains(err.Error(), "change x or y") {
		t.Errorf("want an error naming both settings, got %v", err)
	}
}

func TestExports(t *testing.T) {
	t.Parallel()
	got := map[string]string{}
	for _, e := range plan(t, t.TempDir(), "gateway: {listen: \"0.0.0.0:8080\"}",
		map[string]string{"LEAKY_NATS_URL": "nats://o'neil:$x@h"}).Exports() {
		got[e.Name] = e.Value
	}
	for name, want := range map[string]string{"LEAKY_GATEWAY_URL": "http://127.0.0.1:8080", "LEAKY_IDENTITY_URL": "http://127.0.0.1:8081",
		"LEAKY_XDS_URL": "http://127.0.0.1:8888", "LEAKY_STUB_OPENAI_URL": "http://127.0.0.1:8093", "LEAKY_NATS_URL": "nats://o'neil:$x@h"} {
		if got[name] != want {
			t.Errorf("%s: want %s, got %s", name, want, got[name])
		}
	}
	for _, value := range []string{"plain", "o'neil:$x `id` \"q\" \\", "", "two\nlines", "-n"} {
		out, err := exec.Command("sh", "-c", "X="+ShellQuote(value)+"; printf %s \"$X\"").Output()
		if err != nil || string(out) != value {
			t.Errorf("a shell reads %q back as %q, %v", value, out, err)
		}
	}
}

func TestPostgresAndRedis(t *testing.T) {
	t.Parallel()
	store, err := binaries.New(binaries.Config{CacheDir: config.CacheDir(os.Getenv)})
	if err == nil {
		err = store.Ensure(t.Context(), binaries.Postgres, binaries.Redis)
	}
	if err != nil {
		t.Fatalf("fetch parts: %v", err)
	}
	dir := folder(t)
	if err := OpenStateDir(dir); err != nil {
		t.Fatal(err)
	}
	p := plan(t, dir, "", map[string]string{"LEAKY_POSTGRES_LISTEN": freeAddress(t), "LEAKY_REDIS_LISTEN": freeAddress(t),
		"PATH": os.Getenv("PATH")})
	bin, err := store.PostgresBin()
	if err != nil {
		t.Fatal(err)
	}
	valkey, err := store.RedisServer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	pg, rd := p.store("postgres"), p.store("redis")
	round := func(work func()) {
		s, err := supervisor.New(supervisor.Config{Parts: []supervisor.Part{p.postgres(pg, bin), p.redis(rd, valkey)},
			LogDir: LogDir(dir), RunDir: RunDir(dir), Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- s.Run(t.Context()) }()
		client := supervisor.NewClient(RunDir(dir))
		waiting, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		pids := awaitParts(t, waiting, client, dir)
		work()
		if _, err := client.Down(t.Context()); err != nil {
			t.Errorf("down: %v", err)
		}
		if err := <-done; err != nil {
			t.Errorf("supervisor: %v", err)
		}
		for name, pid := range pids {
			if syscall.Kill(pid, 0) == nil {
				t.Errorf("%s (pid %d) is left", name, pid)
			}
		}
	}
	round(func() { writeBoth(t, pg.url, rd.url) })
	round(func() { readBoth(t, pg.url, rd.url) })
}

func awaitParts(t *testing.T, ctx context.Context, client *supervisor.Client, dir string) map[string]int {
	t.Helper()
	for {
		o, err := client.Status(ctx)
		if err == nil && o.Ready() {
			pids := map[string]int{}
			for _, p := range o.Parts {
				pids[p.Name] = p.PID
			}
			return pids
		}
		select {
		case <-ctx.Done():
			log, _ := os.ReadFile(supervisor.LogPath(LogDir(dir), "postgres"))
			t.Fatalf("not ready: %+v, %v\n%s", o, err, bytes.TrimSpace(log))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func writeBoth(t *testing.T, pgURL, redisURL string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), pgURL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	if _, err := conn.Exec(t.Context(), "CREATE TABLE kept AS SELECT 42 AS n"); err != nil {
		t.Fatal(err)
	}
	var verifier string
	if err := conn.QueryRow(t.Context(), "SELECT rolpassword FROM pg_authid WHERE rolname='leaky'").Scan(&verifier); err != nil ||
		!strings.HasPrefix(verifier, "SCRAM-SHA-256$") {
		t.Errorf("password: want a SCRAM verifier, got %.14s, %v", verifier, err)
	}
	if other, err := pgx.Connect(t.Context(), strings.Replace(pgURL, "leaky:", "leaky:wrong", 1)); err == nil {
		t.Errorf("a wrong password is let in")
		_ = other.Close(t.Context())
	}
	options, err := redis.ParseURL(redisURL)
	if err != nil {
		t.Fatal(err)
	}
	client := redis.NewClient(options)
	defer client.Close()
	if err := client.Set(t.Context(), "kept", "42", 0).Err(); err != nil {
		t.Fatal(err)
	}
	if got := client.ConfigGet(t.Context(), "append*").Val(); got["appendonly"] != "yes" || got["appendfsync"] != "everysec" {
		t.Errorf("want an append-only file synced every second, got %v", got)
	}
	options.Password = ""
	open := redis.NewClient(options)
	defer open.Close()
	if err := open.Ping(t.Context()).Err(); err == nil || !strings.Contains(err.Error(), "NOAUTH") {
		t.Errorf("without a password: want NOAUTH, got %v", err)
	}
}

func readBoth(t *testing.T, pgURL, redisURL string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), pgURL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	var n int
	if err := conn.QueryRow(t.Context(), "SELECT n FROM kept").Scan(&n); err != nil || n != 42 {
		t.Errorf("postgres after a restart: want 42, got %d, %v", n, err)
	}
	options, err := redis.ParseURL(redisURL)
	if err != nil {
		t.Fatal(err)
	}
	client := redis.NewClient(options)
	defer client.Close()
	if got, err := client.Get(t.Context(), "kept").Result(); err != nil || got != "42" {
		t.Errorf("redis after a restart: want 42, got %q, %v", got, err)
	}
}

// TestWhatIsRememberedHasItsMemory: decisions that are kept for `leaky explain` are beside what a service
// may take, or it would collect garbage without end.
func TestWhatIsRememberedHasItsMemory(t *testing.T) {
	t.Parallel()
	got := fakeParts(t, plan(t, t.TempDir(), "limits: {explain_last: 20000}", nil))
	for name, want := range map[string]string{"ratelimit": "GOMEMLIMIT=149028864", "extauthz": "GOMEMLIMIT=67108864"} {
		if !slices.Contains(got[name].Env, want) {
			t.Errorf("%s: want %s, got %v", name, want, got[name].Env)
		}
	}
}
