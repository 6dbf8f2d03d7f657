package config

import (
	"cmp"
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"github.com/leaky-tokens/leaky-tokens/internal/netaddr"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

// maxReplicas is how many processes of one service one configuration may name.
const maxReplicas = 16

// Replica is where one more process of a service listens.
type Replica struct {
	HTTP  string `yaml:"http"`  // host:port
	GRPC  string `yaml:"grpc"`  // as Endpoint's
	Inner string `yaml:"inner"` // as Endpoint's
}

// All are the addresses of every process of the service, the first one first.
func (e Endpoint) All() []Endpoint {
	all := []Endpoint{{HTTP: e.HTTP, GRPC: e.GRPC, Inner: e.Inner}}
	for _, r := range e.Replicas {
		all = append(all, Endpoint{HTTP: r.HTTP, GRPC: r.GRPC, Inner: r.Inner})
	}
	return all
}

// Called is where other parts call the HTTP side.
func (e Endpoint) Called() string { return cmp.Or(e.Inner, e.HTTP) }

// fillInner gives each process its socket, unless certificates guard its port.
func (c *Config) fillInner() {
	if c.TLS.Mutual() {
		return
	}
	for _, part := range topology.Having(func(p topology.Part) bool { return p.Inner }) {
		socket := func(i int) string { return "unix:run/" + PartName(part.Name, i) + ".sock" }
		e := c.Services.byName(part.Name)
		setDefault(&e.Inner, socket(0))
		for i := range e.Replicas {
			setDefault(&e.Replicas[i].Inner, socket(i+1))
		}
	}
}

// Service finds the address of a part by its name: "ratelimit", "stub-openai", or
// "ratelimit-2" for the first replica.
func (s Services) Service(part string) (Endpoint, bool) {
	name, index := Instance(part)
	if e := s.byName(name); e != nil && index <= len(e.Replicas) {
		return e.All()[index], true
	}
	return Endpoint{}, false
}

// Named is a service by its name, with its replicas.
func (s Services) Named(name string) Endpoint {
	if e := s.byName(name); e != nil {
		return *e
	}
	return Endpoint{}
}

// At are the services as process index of one of them sees them: its own address is that
// process's.
func (s Services) At(service string, index int) Services {
	if e := s.byName(service); e != nil && index <= len(e.Replicas) {
		return s.As(service, e.All()[index])
	}
	return s
}

// Further is where a process listens that the file does not name: at sockets of its own name where the
// first one has sockets, else at these ports of the first one's host. False: the service has one
// process only, or the file names it.
func (s Services) Further(part string, http, second int) (Endpoint, bool) {
	name, index := Instance(part)
	of, _ := topology.Find(name)
	first := s.byName(name)
	if first == nil || !of.Replicas || index <= len(first.Replicas) {
		return Endpoint{}, false
	}
	beside := func(address string, port int) string {
		switch a, err := netaddr.Parse(address); {
		case err != nil: // there is none
			return ""
		case a.Network == "unix":
			return "unix:run/" + part + ".sock"
		default:
			a.Port = port
			return a.String()
		}
	}
	return Endpoint{HTTP: beside(first.HTTP, http), GRPC: beside(first.GRPC, second), Inner: beside(first.Inner, second)}, true
}

// As are the services as a process of one of them sees them that listens here.
func (s Services) As(service string, own Endpoint) Services {
	if e := s.byName(service); e != nil {
		e.HTTP, e.GRPC, e.Inner = own.HTTP, own.GRPC, own.Inner
	}
	return s
}

func (s *Services) byName(name string) *Endpoint {
	part, _ := topology.Find(name)
	return fieldOf[Endpoint](s, part.Key())
}

// URL is the address of a store by its name, "postgres"; empty: leaky up starts it.
func (s Stores) URL(name string) string {
	if field := fieldOf[string](&s, name); field != nil {
		return *field
	}
	return ""
}

// fieldOf is the field of a section whose key in leaky.yaml this is; nil: there is none.
func fieldOf[T any](section any, key string) *T {
	fields := reflect.ValueOf(section).Elem()
	for i := range fields.NumField() {
		if fields.Type().Field(i).Tag.Get("yaml") == key {
			field, _ := fields.Field(i).Addr().Interface().(*T)
			return field
		}
	}
	return nil
}

// Instance splits a part's name into its service and which process of it: "ratelimit" is
// process 0, "ratelimit-2" process 1.
func Instance(part string) (service string, index int) {
	cut := strings.LastIndexByte(part, '-')
	if cut < 0 {
		return part, 0
	}
	n, err := strconv.Atoi(part[cut+1:])
	if err != nil || n < 2 || n > maxReplicas || strconv.Itoa(n) != part[cut+1:] {
		return part, 0
	}
	return part[:cut], n - 1
}

// PartName is the name of process index of a service.
func PartName(service string, index int) string {
	if index == 0 {
		return service
	}
	return fmt.Sprintf("%s-%d", service, index+1)
}
