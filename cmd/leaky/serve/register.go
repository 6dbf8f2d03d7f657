package serve

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/discovery"
	"github.com/leaky-tokens/leaky-tokens/internal/netaddr"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

// readiness is what a root gives to common, for who registers its process.
type readiness struct {
	ask      atomic.Pointer[func(context.Context) error]
	answered bool // something was seen to accept connections; only ready touches it
}

// ready is an error until the process accepts connections at its address, and while it cannot do its
// work.
func (r *readiness) ready(ctx context.Context, at netaddr.Addr) error {
	ask := r.ask.Load()
	if ask == nil {
		return errors.New("it is starting")
	}
	if !r.answered {
		dialling, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		conn, err := at.DialContext(dialling, "", "")
		if err != nil {
			return err
		}
		conn.Close()
		r.answered = true
	}
	return (*ask)(ctx)
}

// registered runs a root while its process is registered. The registry is told first that the process
// is to end, so that nothing is sent to it any more when the root ends what it has begun.
func registered(ctx context.Context, s service, root func(context.Context, service) error) error {
	part, _ := topology.Find(s.name)
	if !part.Listens() || s.cfg.Stores.NATS == "" { // a stub may run alone
		return root(ctx, s)
	}
	instance, at, err := s.instance(part)
	if err != nil {
		return err
	}
	if at.Named() || at.Network == "tcp" && at.Port == 0 { // DNS, or nobody, says where it is
		return root(ctx, s)
	}
	conn, err := s.connectNATS()
	if err != nil {
		return err
	}
	defer conn.Close()
	s.readiness = &readiness{}
	registrar, err := discovery.NewRegistrar(discovery.RegistrarConfig{Conn: conn, Instance: instance, Routed: part.Cluster, Log: s.log,
		Ready: func(ctx context.Context) error { return s.readiness.ready(ctx, at) }})
	if err != nil {
		return err
	}
	registering, leave := context.WithCancel(ctx)
	serving, end := context.WithCancel(context.WithoutCancel(ctx))
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		registrar.Run(registering)
		end()
	}()
	err = root(serving, s)
	leave()
	<-gone
	return err
}

// servicesOf are the services as one process sees them. One that leaky.yaml does not name listens at
// LEAKY_PORT, and at LEAKY_SECOND_PORT where the first process has a port for that.
func servicesOf(all config.Services, part string) (config.Services, error) {
	name, index := config.Instance(part)
	if _, ok := all.Service(part); ok || index == 0 {
		return all.At(name, index), nil
	}
	own, ok := all.Further(part, portIn("LEAKY_PORT"), portIn("LEAKY_SECOND_PORT"))
	if at, err := netaddr.Parse(own.HTTP); !ok || err != nil || at.Port == 0 {
		return all, fmt.Errorf("serve %s: leaky.yaml names no such process; start it by `leaky start %s`, add it to services.%s.replicas, "+
			"or set LEAKY_PORT to where its health and metrics are to be", part, part, name)
	}
	return all.As(name, own), nil
}

// portIn is the port that a variable of the environment holds; 0: none.
func portIn(variable string) int {
	port, err := strconv.ParseUint(os.Getenv(variable), 10, 16)
	if err != nil {
		return 0
	}
	return int(port)
}

// instance is what this process says of itself. LEAKY_ADVERTISE is the host at which other machines
// reach it, LEAKY_WEIGHT its share of the calls and LEAKY_ZONE where it is.
func (s service) instance(part topology.Part) (discovery.Instance, netaddr.Addr, error) {
	own := s.cfg.Services.Named(s.name)
	address := own.Called()
	if part.GRPC {
		address = own.GRPC
	}
	at, err := netaddr.Parse(address)
	if err != nil {
		return discovery.Instance{}, at, fmt.Errorf("address of %s: %w", s.part, err)
	}
	at = at.In(s.dir).Reachable()
	i := discovery.Instance{Service: s.name, Site: discovery.SiteOf(s.dir), Part: s.part, Weight: 1, Zone: os.Getenv("LEAKY_ZONE"),
		Lease: s.cfg.Discovery.Lease, Since: time.Now().UTC()}
	if text := os.Getenv("LEAKY_WEIGHT"); text != "" {
		weight, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			return i, at, fmt.Errorf("LEAKY_WEIGHT=%q: write a number from 1 to 100", text)
		}
		i.Weight = uint32(weight)
	}
	i.Address = at.String()
	if host := os.Getenv("LEAKY_ADVERTISE"); host != "" && at.Network == "tcp" {
		i.Address = net.JoinHostPort(host, strconv.Itoa(at.Port))
	}
	return i, at, nil
}
