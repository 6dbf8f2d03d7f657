package main

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/leaky-tokens/leaky-tokens/extauthz"
	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/internal/grpcbatch"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

// Servers that are measured.
const (
	serverEmpty = "empty"           // our server library, and a constant answer
	serverGRPC  = "grpc-go"         // grpc-go, and a constant answer
	serverAuthz = topology.ExtAuthz // the service
)

// server is one of them in a process of its own.
type server struct {
	socket string
	cmd    *exec.Cmd
	ask    *bufio.Writer
	answer *bufio.Reader
}

func startServer(ctx context.Context, kind, socket, identity string) (*server, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, "-serve", kind, "-socket", socket, "-identity", identity)
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1", "GOGC=400") // one core; the collector's pace as in service
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s := &server{socket: socket, cmd: cmd, ask: bufio.NewWriter(in), answer: bufio.NewReader(out)}
	_, err = s.cpu() // it answers once it serves
	return s, err
}

func (s *server) stop() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
}

// collect makes the server collect its garbage.
func (s *server) collect() error {
	_, err := s.tell('g')
	return err
}

// cpu is the processor time that the server has used. It tells by itself, to the
// microsecond: /proc counts hundredths of a second.
func (s *server) cpu() (time.Duration, error) {
	line, err := s.tell('c')
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(strings.TrimSpace(line), 10, 64)
	return time.Duration(n), err
}

// tell sends one letter and waits for a line.
func (s *server) tell(what byte) (string, error) {
	if err := errors.Join(s.ask.WriteByte(what), s.ask.Flush()); err != nil {
		return "", err
	}
	line, err := s.answer.ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("ask the server: %w", err)
	}
	return line, nil
}

// serve is the process of a server. It ends with its standard input.
func serve(ctx context.Context, o options) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	ln, err := net.Listen("unix", o.socket)
	if err != nil {
		return err
	}
	run, err := newServer(o)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return run(ctx, ln) })
	go func() {
		defer stop()
		for in := bufio.NewReader(os.Stdin); ; {
			what, err := in.ReadByte()
			if err != nil {
				return
			}
			if what == 'g' {
				runtime.GC()
			}
			var used syscall.Rusage
			_ = syscall.Getrusage(syscall.RUSAGE_SELF, &used)
			fmt.Println(used.Utime.Nano() + used.Stime.Nano())
		}
	}()
	return group.Wait()
}

// newServer composes a server that is ready when the function returns.
func newServer(o options) (func(context.Context, net.Listener) error, error) {
	log := slog.New(slog.DiscardHandler)
	if o.serve == serverAuthz {
		return newExtAuthz(o, log)
	}
	answer, err := constant()
	if err != nil {
		return nil, err
	}
	if o.serve == serverGRPC {
		s := grpc.NewServer(grpc.InitialConnWindowSize(1 << 20))
		auth.RegisterAuthorizationServer(s, emptyGRPC{answer: answer})
		return func(_ context.Context, ln net.Listener) error { return s.Serve(ln) }, nil
	}
	wire, err := proto.Marshal(answer)
	if err != nil {
		return nil, err
	}
	s, err := grpcbatch.New(grpcbatch.Config{Handler: empty{wire}, Methods: []string{auth.Authorization_Check_FullMethodName}, Log: log})
	if err != nil {
		return nil, err
	}
	return s.Serve, nil
}

func newExtAuthz(o options, log *slog.Logger) (func(context.Context, net.Listener) error, error) {
	cfg, err := config.Parse(nil)
	if err != nil {
		return nil, err
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	cfg.Auth.KeyTTL = 2 * time.Minute // a cached case measures the cache
	s, err := extauthz.New(extauthz.Config{Identity: o.identity, Auth: cfg.Auth, Tiers: cfg.Tiers, SigningKey: key, Log: log,
		Metrics: prometheus.NewRegistry()})
	if err != nil {
		return nil, err
	}
	running, fail := make(chan error, 1), time.After(10*time.Second)
	ctx, stop := context.WithCancel(context.Background())
	go func() { running <- s.Run(ctx) }()
	for s.Ready(ctx) != nil {
		select {
		case err := <-running:
			stop()
			return nil, err
		case <-fail:
			stop()
			return nil, errors.New("extauthz is not ready")
		case <-time.After(5 * time.Millisecond):
		}
	}
	return func(serving context.Context, ln net.Listener) error {
		defer stop()
		return s.Serve(serving, ln)
	}, nil
}

// constant is an answer of the size that extauthz gives.
func constant() (*auth.CheckResponse, error) {
	who, err := structpb.NewStruct(map[string]any{attributes.User: "00000000-0000-4000-8000-000000000000",
		attributes.Key: "00000000-0000-4000-8000-000000000000", attributes.Tier: "USER", attributes.Roles: "USER"})
	return &auth.CheckResponse{Status: &status.Status{}, DynamicMetadata: who,
		HttpResponse: &auth.CheckResponse_OkResponse{OkResponse: &auth.OkHttpResponse{
			HeadersToRemove: []string{"x-api-key", "x-goog-api-key", "authorization", "cookie", attributes.HeaderIdentity, attributes.HeaderUserID,
				attributes.HeaderUserRoles}}}}, err
}

type empty struct{ answer []byte }

// Serve implements grpcbatch.Handler.
func (e empty) Serve(_ context.Context, calls []*grpcbatch.Call) {
	for _, c := range calls {
		c.Answer(e.answer)
	}
}

type emptyGRPC struct {
	auth.UnimplementedAuthorizationServer
	answer *auth.CheckResponse
}

// Check implements the service.
func (e emptyGRPC) Check(context.Context, *auth.CheckRequest) (*auth.CheckResponse, error) {
	return e.answer, nil
}
