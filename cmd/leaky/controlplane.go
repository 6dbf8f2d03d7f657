package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/user"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
	"github.com/leaky-tokens/leaky-tokens/xds"
	"github.com/leaky-tokens/leaky-tokens/xds/history"
	"github.com/leaky-tokens/leaky-tokens/xds/server"
)

// askTimeout bounds one question to xds or NATS.
const askTimeout = 5 * time.Second

// controlPlane is the running xds, and the history of what it published.
type controlPlane struct {
	local
	url     string
	http    *http.Client
	history *history.History // nil: historyProblem says why
	nats    *nats.Conn

	historyProblem error
}

// openControlPlane finds both. The files may be wrong just now: where xds is, is known from the
// last good ones.
func openControlPlane(ctx context.Context, c *cli) (*controlPlane, error) {
	l, err := openLastGood(c, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	url, transport, err := l.peers().API(topology.XDS, l.cfg.Services.XDS)
	if err != nil {
		return nil, err
	}
	p := &controlPlane{local: l, url: url, http: &http.Client{Transport: transport, Timeout: askTimeout}}
	p.history, p.historyProblem = p.openHistory(ctx)
	return p, nil
}

// openFiles opens the control plane of a stack whose configuration can be changed, and tells what is
// live there. The caller closes it.
func openFiles(ctx context.Context, c *cli) (*controlPlane, xds.Status, error) {
	p, err := openControlPlane(ctx, c)
	if err != nil {
		return nil, xds.Status{}, err
	}
	live, err := p.status(ctx)
	if err == nil && live.Path == "" {
		err = errors.New("the stack runs the built-in configuration, which never changes: leaky down, then leaky --config FILE up")
	}
	if err != nil {
		p.close()
		return nil, xds.Status{}, err
	}
	return p, live, nil
}

func (p *controlPlane) openHistory(ctx context.Context) (*history.History, error) {
	plan, err := p.plan(false)
	if err != nil {
		return nil, err
	}
	natsPart, _ := topology.Find(topology.NATS)
	for _, e := range plan.Exports() {
		if e.Name != natsPart.Variable("URL") || e.Value == "" {
			continue
		}
		if p.nats, err = nats.Connect(e.Value, nats.Name("leaky"), nats.Timeout(askTimeout)); err != nil {
			return nil, fmt.Errorf("reach NATS, which keeps the versions: %w", err)
		}
		ctx, cancel := context.WithTimeout(ctx, askTimeout)
		defer cancel()
		return history.Open(ctx, p.nats)
	}
	return nil, errors.New("the address of NATS, which keeps the versions, is not known: is the stack up (leaky up)?")
}

func (p *controlPlane) close() {
	p.http.CloseIdleConnections()
	if p.nats != nil {
		p.nats.Close()
	}
}

// versions are those of the history, the oldest first.
func (p *controlPlane) versions(ctx context.Context) ([]history.Version, error) {
	if p.historyProblem != nil {
		return nil, p.historyProblem
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return p.history.List(ctx)
}

// status is what xds says is live.
func (p *controlPlane) status(ctx context.Context) (s xds.Status, err error) {
	return s, p.get(ctx, "/v1/config", &s)
}

// envoys are those that are connected, with what they took.
func (p *controlPlane) envoys(ctx context.Context) ([]server.Client, error) {
	var page struct{ Clients []server.Client }
	err := p.get(ctx, "/v1/clients", &page)
	return page.Clients, err
}

func (p *controlPlane) get(ctx context.Context, path string, into any) error {
	if err := httpapi.Get(ctx, p.http, p.url+path, into); err != nil {
		return fmt.Errorf("ask xds (is the stack up? leaky ps): %w", err)
	}
	return nil
}

// whoAmI is the person at the command line, for the history.
func whoAmI() string {
	name := os.Getenv("SUDO_USER")
	if me, err := user.Current(); err == nil && name == "" {
		name = me.Username
	}
	if host, err := os.Hostname(); err == nil {
		name += "@" + host
	}
	return name
}
