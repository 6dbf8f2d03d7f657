// Package stack is beside the request path: it says what `leaky up` runs (which parts,
// where they listen, what environment each gets, how to tell that they serve) for
// package supervisor to run.
package stack

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/netaddr"
)

// Names are all parts that can be there, without replicas, in start order. The meter comes before Envoy so
// that it ends after it and settles what Envoy wrote last.
func Names() []string {
	return []string{"postgres", "redis", "nats", "clickhouse", "xds", "identity", "extauthz", "ratelimit", "tokensvc", "analytics",
		"stub-openai", "stub-gemini", "stub-qwen", "stub-payment", "meter", "envoy"}
}

// Config is what a plan is made from.
type Config struct {
	Leaky    *config.Config
	StateDir string
	Getenv   func(string) string
	Secrets  bool // make the passwords of our own stores when there are none yet
}

// Plan is the stack that one configuration asks for.
type Plan struct {
	cfg    *config.Config
	dir    string
	getenv func(string) string
	stores [4]store // postgres, redis, nats, clickhouse
}

// store is one of the four; its URL is known to every service that needs it.
type store struct {
	name     string
	urlVar   string // environment variable with its URL
	listen   netaddr.Addr
	url      string // with the password
	external bool   // runs elsewhere
}

// New reads the addresses and the passwords of our own stores; it starts nothing.
func New(c Config) (*Plan, error) {
	p := &Plan{cfg: c.Leaky, dir: c.StateDir, getenv: c.Getenv}
	configured := [4]string{c.Leaky.Stores.Postgres, c.Leaky.Stores.Redis, c.Leaky.Stores.NATS, c.Leaky.Stores.ClickHouse}
	for i, s := range [4]struct{ name, listen string }{
		{"postgres", "127.0.0.1:5432"}, {"redis", "127.0.0.1:6379"}, {"nats", "127.0.0.1:4222"}, {"clickhouse", "127.0.0.1:8123"},
	} {
		st := store{name: s.name, urlVar: storeVar(s.name, "URL")}
		if value := c.Getenv(storeVar(s.name, "LISTEN")); value != "" {
			s.listen = value
		}
		var err error
		if st.listen, err = loopback(s.listen); err != nil {
			return nil, fmt.Errorf("%s: %w", storeVar(s.name, "LISTEN"), err)
		}
		own, err := p.ownURL(s.name, st.listen, c.Secrets && configured[i] == "")
		if err != nil {
			return nil, err
		}
		// `eval "$(leaky env)"` puts our own URLs into the environment; those are still ours to start.
		st.url = own
		if configured[i] != "" && configured[i] != own {
			st.url, st.external = configured[i], true
		}
		p.stores[i] = st
	}
	return p, nil
}

func storeVar(name, what string) string { return "LEAKY_" + strings.ToUpper(name) + "_" + what }

// ownURL is the URL of a store that we run, with a password made on first use. Without
// create, a password that is not there yet gives an empty URL.
func (p *Plan) ownURL(name string, at netaddr.Addr, create bool) (string, error) {
	password, err := password(p.dir, name, create)
	if err != nil || password == "" {
		return "", err
	}
	u := url.URL{Host: at.String(), User: url.UserPassword("leaky", password)}
	switch name {
	case "nats":
		u.Scheme = "nats"
	case "clickhouse":
		u.Scheme, u.Path = "http", "/default" // the only database that the engine has from the start
	case "redis":
		u.Scheme, u.Path, u.User = "redis", "/0", url.UserPassword("", password)
	case "postgres":
		u.Scheme, u.Path, u.RawQuery = "postgres", "/leaky", "sslmode=disable"
	}
	return u.String(), nil
}

// loopback reads host:port and refuses an address that other machines reach: the
// stores we start are guarded by a password, not by TLS.
func loopback(s string) (netaddr.Addr, error) {
	a, err := netaddr.Parse(s)
	if err != nil {
		return a, err
	}
	if a.Network != "tcp" || a.Port == 0 {
		return a, fmt.Errorf("address %q: write 127.0.0.1:port", s)
	}
	if ip, err := netip.ParseAddr(a.Host); a.Host != "localhost" && (err != nil || !ip.IsLoopback()) {
		return a, fmt.Errorf("address %q: only loopback (127.0.0.1, ::1, localhost); run a store of your own for anything else and give its URL", s)
	}
	return a, nil
}

func (p *Plan) store(name string) store {
	for _, s := range p.stores {
		if s.name == name {
			return s
		}
	}
	return store{}
}

// service is the address of a part.
func (p *Plan) service(name string) (config.Endpoint, bool) { return p.cfg.Services.Service(name) }

// names are the parts of this configuration, replicas behind their first process.
func (p *Plan) names() []string {
	var all []string
	for _, name := range Names() {
		all = append(all, name)
		for i := 1; ; i++ {
			replica := config.PartName(name, i)
			if _, ok := p.service(replica); !ok {
				break
			}
			all = append(all, replica)
		}
	}
	return all
}

// included tells whether the part belongs to the stack: a stub that nobody is told to call does not.
func (p *Plan) included(name string) bool {
	if !strings.HasPrefix(name, "stub-") {
		return true
	}
	e, _ := p.service(name)
	if name == "stub-payment" {
		return pointsAt(p.cfg.Purchases.Payment.URL, e.HTTP)
	}
	for _, provider := range p.cfg.Providers {
		if pointsAt(provider.URL, e.HTTP) {
			return true
		}
	}
	return false
}

// pointsAt compares a provider's URL with host:port, taking the names of this machine for one.
func pointsAt(provider, address string) bool {
	u, err := url.Parse(provider)
	if err != nil || u.Scheme != "http" {
		return false
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	theirs := u.Port()
	if theirs == "" {
		theirs = "80"
	}
	local := func(h string) bool {
		ip, err := netip.ParseAddr(h)
		return h == "localhost" || err == nil && (ip.IsLoopback() || ip.IsUnspecified())
	}
	return theirs == port && (u.Hostname() == host || local(u.Hostname()) && local(host))
}

// NeededParts are the programs that internal/local/binaries must provide, by its names.
func (p *Plan) NeededParts() []string {
	needed := []string{"envoy"}
	for _, s := range p.stores {
		if !s.external && s.name != "nats" {
			needed = append(needed, s.name)
		}
	}
	return needed
}

// Dirs of the state folder.
func (p *Plan) path(elements ...string) string {
	return filepath.Join(append([]string{p.dir}, elements...)...)
}

// RunDir holds sockets and the supervisor's lock.
func RunDir(stateDir string) string { return filepath.Join(stateDir, "run") }

// LogDir holds one log per part.
func LogDir(stateDir string) string { return filepath.Join(stateDir, "logs") }

// AdminFile is where identity keeps the first administrator's name and password.
func AdminFile(stateDir string) string { return filepath.Join(stateDir, "secrets", "admin.json") }

// Proof is a chat model that a stub of this stack serves, so that a call to it costs
// nothing. False: every provider is a real one.
func (p *Plan) Proof() (model, provider string, ok bool) {
	for _, m := range p.cfg.Models {
		if m.Kind != "" && m.Kind != "chat" {
			continue
		}
		served := p.cfg.Providers[m.Provider]
		if served.Protocol != config.ProtocolOpenAI {
			continue
		}
		for _, stub := range []string{p.cfg.Services.StubOpenAI.HTTP, p.cfg.Services.StubQwen.HTTP} {
			if pointsAt(served.URL, stub) {
				return m.Name, m.Provider, true
			}
		}
	}
	return "", "", false
}
