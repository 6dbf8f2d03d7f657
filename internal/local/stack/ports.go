package stack

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

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
		e, ok := p.service(name)
		if !ok || !p.included(name) {
			continue
		}
		service, index := config.Instance(name)
		part, _ := topology.Find(service)
		key := "services." + part.Key()
		if index > 0 {
			key += fmt.Sprintf(".replicas[%d]", index-1)
		}
		if err := add(name, e.HTTP, key+".http in leaky.yaml"); err != nil {
			return nil, err
		}
		if e.GRPC != "" {
			if err := add(name, e.GRPC, key+".grpc in leaky.yaml"); err != nil {
				return nil, err
			}
		}
	}
	return all, errors.Join(add(topology.Envoy, p.cfg.Gateway.Listen, "gateway.listen in leaky.yaml"), add(topology.Envoy, p.cfg.Envoy.Admin,
		"envoy.admin in leaky.yaml"))
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
	inodes := listeningInodes(port)
	if len(inodes) == 0 {
		return ""
	}
	links, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return ""
	}
	for _, link := range links {
		target, err := os.Readlink(link)
		if err != nil || !inodes[target] {
			continue
		}
		pid := strings.Split(link, "/")[2]
		name, err := os.ReadFile("/proc/" + pid + "/comm")
		if err != nil {
			continue
		}
		return fmt.Sprintf(" (%s, pid %s)", strings.TrimSpace(string(name)), pid)
	}
	return ""
}

// listeningInodes reads proc_net(5): local address as HEX_IP:HEX_PORT in field 1, state
// in field 3 (0A: listening), inode in field 9.
func listeningInodes(port string) map[string]bool {
	found := map[string]bool{}
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		text, err := os.ReadFile(table)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			f := strings.Fields(line)
			if len(f) < 10 || f[3] != "0A" {
				continue
			}
			_, hex, _ := strings.Cut(f[1], ":")
			var n int
			if _, err := fmt.Sscanf(hex, "%X", &n); err == nil && fmt.Sprint(n) == port {
				found["socket:["+f[9]+"]"] = true
			}
		}
	}
	return found
}
