package stack

import (
	"fmt"
	"net"
	"strconv"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/local/supervisor"
	"github.com/leaky-tokens/leaky-tokens/internal/netaddr"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

// Further is one more process of a service, which leaky.yaml does not name: ratelimit-3. It gets ports
// that are free at this moment and registers with xds, so that Envoy finds it. The plan is not to be
// used for anything else.
func (p *Plan) Further(name string, c Commands) (supervisor.Part, error) {
	service, index := config.Instance(name)
	if of, _ := topology.Find(service); index == 0 || of.Name == "" {
		return supervisor.Part{}, supervisor.ErrNoPart
	} else if !of.Replicas {
		return supervisor.Part{}, fmt.Errorf("%s runs once", service)
	}
	ports, err := freePorts(p.cfg.Services.Named(service).HTTP)
	if err != nil {
		return supervisor.Part{}, err
	}
	own, ok := p.cfg.Services.Further(name, ports[0], ports[1])
	if !ok {
		return supervisor.Part{}, fmt.Errorf("%s is in leaky.yaml: `leaky up` starts it", name)
	}
	p.further = map[string]config.Endpoint{name: own}
	part := p.leaky(name, c)
	part.Env = append(part.Env, "LEAKY_PORT="+strconv.Itoa(ports[0]), "LEAKY_SECOND_PORT="+strconv.Itoa(ports[1]))
	return part, nil
}

// freePorts are two ports of the host of an address. They stay free until the part starts unless
// somebody is quicker; then it crashes and says so.
func freePorts(beside string) (ports [2]int, err error) {
	at, err := netaddr.Parse(beside)
	if err != nil {
		return ports, err
	}
	for i := range ports {
		ln, err := net.Listen("tcp", net.JoinHostPort(at.Host, "0"))
		if err != nil {
			return ports, fmt.Errorf("find a free port: %w", err)
		}
		defer ln.Close()
		if tcp, ok := ln.Addr().(*net.TCPAddr); ok {
			ports[i] = tcp.Port
		}
	}
	return ports, nil
}
