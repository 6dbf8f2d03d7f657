// Package stack is beside the request path: it says what `leaky up` runs (which parts,
// where they listen, what environment each gets, how to tell that they serve) for
// package supervisor to run.
package stack

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"syscall"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/netaddr"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

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
	stores []store             // in start order
	user   *syscall.Credential // who parts run as; nil: ourselves

	lacking map[string]bool            // monitors whose programs are not on this machine
	further map[string]config.Endpoint // processes that leaky.yaml does not name
}

// store is one of the four; its URL is known to every service that needs it.
type store struct {
	topology.Part
	listen   netaddr.Addr
	url      string // with the password
	external bool   // runs elsewhere
}

// New reads the addresses and the passwords of our own stores; it starts nothing.
func New(c Config) (*Plan, error) {
	p := &Plan{cfg: c.Leaky, dir: c.StateDir, getenv: c.Getenv, lacking: map[string]bool{}}
	for _, part := range topology.Of(topology.Store) {
		s := store{Part: part}
		listen := part.Variable("LISTEN")
		var err error
		if s.listen, err = loopback(cmp.Or(c.Getenv(listen), part.Listen)); err != nil {
			return nil, fmt.Errorf("%s: %w", listen, err)
		}
		configured := c.Leaky.Stores.URL(part.Name)
		own, err := p.ownURL(part, s.listen, c.Secrets && configured == "")
		if err != nil {
			return nil, err
		}
		// `eval "$(leaky env)"` puts our own URLs into the environment; those are still ours to start.
		s.url = own
		if configured != "" && configured != own {
			s.url, s.external = configured, true
		}
		p.stores = append(p.stores, s)
	}
	return p, nil
}

// ownURL is the URL of a store that we run, with a password made on first use. Without
// create, a password that is not there yet gives an empty URL.
func (p *Plan) ownURL(part topology.Part, at netaddr.Addr, create bool) (string, error) {
	password, err := password(p.dir, part.Name, create)
	if err != nil || password == "" {
		return "", err
	}
	u, err := url.Parse(part.URL)
	if err != nil {
		return "", fmt.Errorf("URL of %s: %w", part.Name, err)
	}
	u.Host, u.User = at.String(), url.UserPassword(u.User.Username(), password)
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
		if s.Name == name {
			return s
		}
	}
	return store{}
}

// service is the address of a part.
func (p *Plan) service(name string) (config.Endpoint, bool) {
	if e, ok := p.further[name]; ok {
		return e, true
	}
	return p.cfg.Services.Service(name)
}

// names are the parts of this configuration, replicas behind their first process.
func (p *Plan) names() []string {
	var all []string
	for _, name := range topology.Names(topology.Parts()) {
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

// included tells whether the part belongs to the stack: a stub that nobody is told to call does not,
// nor a monitor that is off or lacks its program.
func (p *Plan) included(name string) bool {
	switch part, _ := topology.Find(name); part.Kind {
	case topology.Monitor:
		return p.monitored(name)
	case topology.Stub:
	default:
		return true
	}
	e, _ := p.service(name)
	if name == topology.StubPayment {
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
	return topology.Names(topology.Having(func(part topology.Part) bool {
		return part.Binary && !p.store(part.Name).external && p.included(part.Name)
	}))
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
		for _, stub := range topology.Of(topology.Stub) {
			if stub.Provider == string(served.Protocol) && pointsAt(served.URL, p.cfg.Services.Named(stub.Name).HTTP) {
				return m.Name, m.Provider, true
			}
		}
	}
	return "", "", false
}
