package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
	"github.com/leaky-tokens/leaky-tokens/internal/local/binaries"
	layout "github.com/leaky-tokens/leaky-tokens/internal/local/stack"
	"github.com/leaky-tokens/leaky-tokens/internal/local/supervisor"
	"github.com/leaky-tokens/leaky-tokens/internal/secretfile"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/ports"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/ledger"
)

// replicas is how many processes of the token service there can be.
const replicas = 2

// The tier has a cap, as in the product: a purchase then reads the pool before it is taken.
const configText = `
services:
  extauthz: {http: %[1]q}
  tokensvc: {http: %[2]q, replicas: [{http: %[3]q}]}
  stub_payment: {http: %[4]q}
purchases: {payment: {url: "http://%[4]s"}}
monitoring: {prometheus: "off", alertmanager: "off"}
tiers: {default: USER, levels: {USER: {priority: 10, quota_max_tokens: 1000000000000000}}}
`

// stack is the part of the product that sells and books, run as `leaky up` runs it. This
// process stands in for extauthz: it signs who buys.
type stack struct {
	sockets [replicas]func(ctx context.Context, network, address string) (net.Conn, error)
	signer  *principal.Signer
	db      *pgxpool.Pool
	nats    *nats.Conn
	client  *supervisor.Client
	stops   []func()
}

func start(ctx context.Context, dir string) (s *stack, err error) {
	s = &stack{}
	defer func() {
		if err != nil {
			s.stop()
		}
	}()
	if err := os.Chmod(dir, 0o711); err != nil { // Postgres may run as another user below it
		return s, err
	}
	bin, file, state := filepath.Join(dir, "leaky"), filepath.Join(dir, "leaky.yaml"), filepath.Join(dir, "s")
	build := exec.CommandContext(ctx, "go", "build", "-o", bin, "github.com/leaky-tokens/leaky-tokens/cmd/leaky")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return s, fmt.Errorf("build leaky: %w\n%s", err, out)
	}
	at, err := ports.Free(6)
	if err != nil {
		return s, err
	}
	for i := range replicas { // who calls is asked for on the socket alone
		socket := filepath.Join(layout.RunDir(state), config.PartName(topology.TokenSvc, i)+".sock")
		s.sockets[i] = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		}
	}
	if err := os.WriteFile(file, fmt.Appendf(nil, configText, at[0], at[1], at[2], at[3]), 0o600); err != nil {
		return s, err
	}
	getenv := func(name string) string { // nothing of the caller's own stack
		switch name {
		case "LEAKY_POSTGRES_LISTEN":
			return at[4]
		case "LEAKY_NATS_LISTEN":
			return at[5]
		case "PATH", "HOME", "TMPDIR", "LEAKY_CACHE_DIR":
			return os.Getenv(name)
		}
		return ""
	}
	plan, err := s.supervise(ctx, bin, file, state, getenv)
	if err != nil {
		return s, err
	}
	return s, s.connect(ctx, plan)
}

// sign makes the key and leaves its public half where the token service looks.
func (s *stack) sign(state string) error {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	s.signer = principal.NewSigner(key)
	return secretfile.Replace(filepath.Join(state, "secrets", "callers-keys.json"), s.signer.JWKS())
}

// supervise runs the parts that are needed and returns when all are ready.
func (s *stack) supervise(ctx context.Context, bin, file, state string, getenv func(string) string) (*layout.Plan, error) {
	cfg, err := config.Load(file, getenv)
	if err != nil {
		return nil, err
	}
	if err := layout.OpenStateDir(state); err != nil {
		return nil, err
	}
	if err := s.sign(state); err != nil { // before the folder is handed to the parts
		return nil, err
	}
	plan, err := layout.New(layout.Config{Leaky: cfg, StateDir: state, Getenv: getenv, Secrets: true})
	if err != nil {
		return nil, err
	}
	programs, err := binaries.New(binaries.Config{CacheDir: config.CacheDir(os.Getenv), Progress: os.Stderr})
	if err != nil {
		return nil, err
	}
	if err := programs.Ensure(ctx, plan.NeededParts()...); err != nil {
		return nil, err
	}
	all, err := plan.Parts(ctx, layout.Commands{Programs: programs, Self: bin, Config: file})
	if err != nil {
		return nil, err
	}
	books, _ := topology.Find(topology.TokenSvc)
	names := append(books.Stores, topology.StubPayment, books.Name, config.PartName(books.Name, 1))
	all = slices.DeleteFunc(all, func(p supervisor.Part) bool { return !slices.Contains(names, p.Name) })
	sup, err := supervisor.New(supervisor.Config{Parts: all, LogDir: layout.LogDir(state), RunDir: layout.RunDir(state), StateDir: state,
		Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	running, end := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = sup.Run(running) // what it says is in the parts' logs
	}()
	s.stops = append(s.stops, func() {
		end()
		<-ended
	})
	s.client = supervisor.NewClient(layout.RunDir(state))
	for _, name := range names {
		if err := s.ready(ctx, name); err != nil {
			return nil, fmt.Errorf("%w\n%s", err, logTail(state, name))
		}
	}
	return plan, nil
}

// ready waits for a part, and first for the supervisor itself.
func (s *stack) ready(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	for {
		_, err := s.client.WaitReady(ctx, name)
		if !errors.Is(err, supervisor.ErrDown) || ctx.Err() != nil {
			return err
		}
		<-time.After(20 * time.Millisecond)
	}
}

func logTail(state, name string) string {
	text, _ := os.ReadFile(filepath.Join(layout.LogDir(state), name+".log"))
	return string(text[max(0, len(text)-2000):])
}

func (s *stack) connect(ctx context.Context, plan *layout.Plan) error {
	urls := map[string]string{}
	for _, e := range plan.Exports() {
		urls[e.Name] = e.Value
	}
	cfg, err := pgxpool.ParseConfig(urls["LEAKY_POSTGRES_URL"] + "&search_path=tokensvc") // the owner sees each part's schema
	if err != nil {
		return err
	}
	cfg.MaxConns = 72 // 64 writers of the ledger at once
	if s.db, err = pgxpool.NewWithConfig(ctx, cfg); err != nil {
		return err
	}
	s.stops = append(s.stops, s.db.Close)
	if s.nats, err = nats.Connect(urls["LEAKY_NATS_URL"], nats.ReconnectBufSize(-1)); err != nil {
		return err
	}
	s.stops = append(s.stops, s.nats.Close)
	_, err = s.db.Exec(ctx, `CREATE TABLE bench_bare (id uuid PRIMARY KEY, user_id uuid NOT NULL, provider varchar(50) NOT NULL, tokens bigint NOT NULL, created_at timestamptz NOT NULL)`)
	return err
}

// turn starts or stops a replica.
func (s *stack) turn(ctx context.Context, replica int, on bool) error {
	name := config.PartName(topology.TokenSvc, replica)
	if !on {
		_, err := s.client.Stop(ctx, name)
		return err
	}
	if _, err := s.client.Start(ctx, name); err != nil {
		return err
	}
	return s.ready(ctx, name)
}

// pids are the processes to charge CPU time to.
func (s *stack) pids(ctx context.Context) (map[string][]int, error) {
	o, err := s.client.Status(ctx)
	if err != nil {
		return nil, err
	}
	found := map[string][]int{}
	for _, p := range o.Parts {
		if name, _ := config.Instance(p.Name); p.PID > 0 {
			found[name] = append(found[name], p.PID)
		}
	}
	return found, nil
}

func (s *stack) verify(ctx context.Context) error {
	wrong, err := ledger.Verify(ctx, s.db)
	if err != nil {
		return err
	}
	if len(wrong) > 0 {
		return fmt.Errorf("the books do not balance: %s", strings.Join(wrong[:min(3, len(wrong))], "; "))
	}
	return nil
}

// settings are what the numbers depend on.
func (s *stack) settings(ctx context.Context) (text string, err error) {
	err = s.db.QueryRow(ctx, `SELECT 'Postgres ' || current_setting('server_version') || ', fsync ' || current_setting('fsync') || ', synchronous_commit ' || current_setting('synchronous_commit')`).Scan(&text)
	return text, err
}

func (s *stack) stop() {
	for _, f := range slices.Backward(s.stops) {
		f()
	}
}

// profile writes this process's CPU profile to a file, if one is named, until it is stopped.
func profile(path string) (stop func(), err error) {
	if path == "" {
		return func() {}, nil
	}
	file, err := os.Create(filepath.Clean(path))
	if err != nil {
		return nil, err
	}
	return func() { pprof.StopCPUProfile(); file.Close() }, pprof.StartCPUProfile(file)
}
