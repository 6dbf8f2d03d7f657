package stack

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/procfs"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/netaddr"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

// Port is one TCP address that a part of the stack listens on.
type Port struct {
	Part    string
	Address string
	Setting string // key of leaky.yaml or environment variable that changes it
}

// servicePorts adds those of one of our services, if it is one that is included.
func (p *Plan) servicePorts(name string, add func(part, address, setting string) error) error {
	e, ok := p.service(name)
	if !ok || !p.included(name) {
		return nil
	}
	service, index := config.Instance(name)
	part, _ := topology.Find(service)
	key := "services." + part.Key()
	if index > 0 {
		key += fmt.Sprintf(".replicas[%d]", index-1)
	}
	err := add(name, e.HTTP, key+".http in leaky.yaml")
	if err == nil && e.GRPC != "" {
		err = add(name, e.GRPC, key+".grpc in leaky.yaml")
	}
	return err
}

// Ports are all TCP addresses the stack will listen on, in start order.
func (p *Plan) Ports() ([]Port, error) {
	var all []Port
	add := func(part, address, setting string) error {
		a, err := netaddr.Parse(address)
		if err != nil {
			return fmt.Errorf("%s: %w", setting, err)
		}
		if a.Network == "tcp" {
			all = append(all, Port{Part: part, Address: a.String(), Setting: setting})
		}
		return nil
	}
	for _, name := range p.names() {
		if s := p.store(name); s.Name != "" {
			if !s.external {
				all = append(all, Port{Part: name, Address: s.listen.String(), Setting: s.Variable("LISTEN") + " in the environment"})
			}
			continue
		}
		if part, _ := topology.Find(name); part.Kind == topology.Monitor && p.included(name) {
			address, _ := p.cfg.Monitoring.At(name)
			if err := add(name, address, "monitoring."+part.Key()+" in leaky.yaml"); err != nil {
				return nil, err
			}
			continue
		}
		if err := p.servicePorts(name, add); err != nil {
			return nil, err
		}
	}
	err := errors.Join(add(topology.Envoy, p.cfg.Gateway.Listen, "gateway.listen in leaky.yaml"),
		add(topology.Envoy, p.cfg.Envoy.Admin, "envoy.admin in leaky.yaml"))
	if p.admin().Network == "unix" {
		err = errors.Join(err, add(topology.Envoy, p.cfg.Envoy.Metrics, "envoy.metrics in leaky.yaml"))
	}
	return all, err
}

// CheckPorts names every port that is taken, or asked for twice, and what changes it.
func CheckPorts(ports []Port) error {
	var failures []error
	taken := map[string]Port{}
	for _, p := range ports {
		if first, ok := taken[p.Address]; ok {
			failures = append(failures, fmt.Errorf("%s and %s both listen on %s: change %s or %s", first.Part, p.Part, p.Address, first.Setting,
				p.Setting))
			continue
		}
		taken[p.Address] = p
		ln, err := net.Listen("tcp", p.Address)
		if err != nil {
			failures = append(failures, fmt.Errorf("%s cannot listen on %s%s: change it with %s", p.Part, p.Address, because(err, p.Address),
				p.Setting))
			continue
		}
		ln.Close()
	}
	return errors.Join(failures...)
}

func because(err error, address string) string {
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	reason := err.Error()
	if strings.Contains(reason, "address already in use") {
		return ", the port is busy" + holder(address)
	}
	return " (" + reason + ")"
}

// holder names the process that listens on the address, as far as we may see it.
func holder(address string) string {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return ""
	}
	proc, err := procfs.NewDefaultFS()
	if err != nil {
		return ""
	}
	sockets := listening(proc, port)
	if len(sockets) == 0 {
		return ""
	}
	processes, err := proc.AllProcs()
	if err != nil {
		return ""
	}
	for _, process := range processes {
		open, err := process.FileDescriptorTargets()
		if err != nil || !slices.ContainsFunc(open, func(target string) bool { return sockets[target] }) {
			continue
		}
		if name, err := process.Comm(); err == nil {
			return fmt.Sprintf(" (%s, pid %d)", name, process.PID)
		}
	}
	return ""
}

// listening are the sockets that listen on a port, as links of file descriptors name them.
func listening(proc procfs.FS, port string) map[string]bool {
	const listen = 0x0A      // proc_net(5)
	four, _ := proc.NetTCP() // a machine may lack either
	six, _ := proc.NetTCP6()
	found := map[string]bool{}
	for _, line := range append(four, six...) {
		if line.St == listen && strconv.FormatUint(line.LocalPort, 10) == port {
			found[fmt.Sprintf("socket:[%d]", line.Inode)] = true
		}
	}
	return found
}
