package stack

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/local/supervisor"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

// Programs says where the programs that are not ours are; *parts.Store does.
type Programs interface {
	EnvoyBin() (string, error)
	PostgresBin() (string, error) // folder of initdb and postgres
	RedisServer(context.Context) (string, error)
	PrometheusBin() (string, error)   // folder of prometheus
	AlertmanagerBin() (string, error) // folder of prometheus-alertmanager
}

// Commands is how the stack is run.
type Commands struct {
	Programs Programs
	Self     string // path of the leaky binary
	Config   string // path of leaky.yaml; empty: the built-in one
}

// Parts is the stack as the supervisor runs it, in start order.
func (p *Plan) Parts(ctx context.Context, c Commands) ([]supervisor.Part, error) {
	var all []supervisor.Part
	for _, name := range p.names() {
		if !p.included(name) {
			continue
		}
		part, err := p.part(ctx, name, c)
		if err != nil {
			return nil, err
		}
		all = append(all, part)
	}
	return all, nil
}

func (p *Plan) part(ctx context.Context, name string, c Commands) (supervisor.Part, error) {
	if s := p.store(name); s.external {
		return supervisor.Part{Name: name, Address: hostOf(s.url), External: true}, nil
	}
	switch name {
	case topology.Postgres:
		bin, err := c.Programs.PostgresBin()
		return p.postgres(p.store(name), bin), err
	case topology.Redis:
		bin, err := c.Programs.RedisServer(ctx)
		return p.redis(p.store(name), bin), err
	case topology.Envoy:
		bin, err := c.Programs.EnvoyBin()
		return p.envoy(bin), err
	case topology.Prometheus:
		bin, err := c.Programs.PrometheusBin()
		return p.prometheus(bin), err
	case topology.Alertmanager:
		bin, err := c.Programs.AlertmanagerBin()
		return p.alertmanager(bin), err
	}
	return p.leaky(name, c), nil
}

func hostOf(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return "elsewhere"
	}
	return u.Host
}

// leaky is one of our own services, run as `leaky serve NAME`.
func (p *Plan) leaky(name string, c Commands) supervisor.Part {
	part := supervisor.Part{Name: name, Path: p.self(c.Self), Args: []string{"serve", name}, User: p.user, Env: p.serviceEnv(name,
		c.Config), Dir: p.dir,
		After: after(name)}
	switch s := p.store(name); name {
	case topology.NATS:
		part.Address, part.Ready = s.listen.String(), natsReady(s.url)
	case topology.ClickHouse:
		part.Address = s.listen.String()
		part.Ready = httpReady(p.client(), "http://"+part.Address+"/ping")
	default:
		e, _ := p.service(name)
		part.Address = e.HTTP
		part.Ready = p.serviceReady(name, e.HTTP)
	}
	return part
}

// after is what must have been ready before a service starts for the first time. Services
// wait for each other by themselves; this keeps the first start quiet and the end in order.
func after(part string) []string {
	name, _ := config.Instance(part)
	of, _ := topology.Find(name)
	if of.Kind == topology.Store {
		return nil
	}
	return append(of.Stores, of.After...)
}

func (p *Plan) client() *http.Client {
	return &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
}

// redis is Valkey with an append-only file. Its settings hold the password, so they go
// through a file that only we can read instead of the command line.
func (p *Plan) redis(s store, bin string) supervisor.Part {
	dir, conf := p.path(s.Name), p.path("run", "redis.conf")
	prepare := func(context.Context) error {
		if err := errors.Join(os.MkdirAll(dir, 0o700), give(dir, p.user)); err != nil {
			return fmt.Errorf("make redis folder: %w", err)
		}
		secret, err := password(p.dir, s.Name, false)
		if err != nil {
			return err
		}
		if secret == "" {
			return errors.New("the password of redis is gone; run `leaky down` and `leaky up`")
		}
		lines := []string{"bind " + s.listen.Host, fmt.Sprintf("port %d", s.listen.Port), "protected-mode yes", "requirepass " + secret,
			"daemonize no",
			"dir " + quoteRedis(dir), "appendonly yes", "appendfsync everysec", `save ""`, "maxmemory-policy noeviction", "loglevel notice", ""}
		if err := hand(conf, []byte(strings.Join(lines, "\n")), p.user); err != nil {
			return fmt.Errorf("write redis settings: %w", err)
		}
		return nil
	}
	return supervisor.Part{Name: s.Name, Address: s.listen.String(), Path: bin, Args: []string{conf}, Env: p.baseEnv(), Dir: p.dir,
		User:    p.user,
		Prepare: prepare, Ready: redisReady(s.url)}
}

func quoteRedis(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

func newPassword() ([]byte, error) {
	secret := make([]byte, 24)
	if _, err := rand.Read(secret); err != nil {
		return nil, err
	}
	return []byte(hex.EncodeToString(secret)), nil
}
