package stacktest

import (
	"fmt"
	"strings"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/ports"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

// Option changes a stack before it is started.
type Option func(*setup) error

// setup is what New makes a stack of.
type setup struct {
	bin  string // a binary that is built already
	text string // leaky.yaml
}

// Built takes a binary instead of building one.
func Built(bin string) Option {
	return func(s *setup) error { s.bin = bin; return nil }
}

// Edit replaces a piece of leaky.yaml.
func Edit(old, text string) Option {
	return func(s *setup) error {
		if !strings.Contains(s.text, old) {
			return fmt.Errorf("edit the sandbox's leaky.yaml: %q is not there", old)
		}
		s.text = strings.Replace(s.text, old, text, 1)
		return nil
	}
}

// Talkative has every service say a line for each call.
func Talkative(s *setup) error {
	s.text += "\nlogs: {level: debug}\n"
	return nil
}

// Traced sends spans to a collector: of every hundredth call, and of those that are kept.
func Traced(otlp string) Option {
	return func(s *setup) error {
		s.text += fmt.Sprintf("\ntracing: {otlp: %q}\n", otlp)
		return nil
	}
}

// Monitored runs Prometheus and Alertmanager beside the stack, with short intervals.
func Monitored(s *setup) error {
	at, err := ports.Free(2)
	if err != nil {
		return err
	}
	text := fmt.Sprintf("monitoring: {prometheus: %q, alertmanager: %q, every: 5s}", at[0], at[1])
	return Edit(`monitoring: {prometheus: "off", alertmanager: "off"}`, text)(s)
}

// Replicas runs a service in so many processes.
func Replicas(service string, processes int) Option {
	return func(s *setup) error {
		before, after, found := strings.Cut(s.text, "\n  "+service+": {")
		own, rest, closed := strings.Cut(after, "}")
		if !found || !closed {
			return fmt.Errorf("replicas of %q: the sandbox has no such service", service)
		}
		at, err := ports.Free(processes - 1)
		if err != nil {
			return err
		}
		var more []string
		for i, address := range at {
			entry := fmt.Sprintf("{http: %q", address)
			if part, _ := topology.Find(service); part.GRPC {
				entry += fmt.Sprintf(", grpc: \"unix:run/%s-%d.sock\"", service, i+2)
			}
			more = append(more, entry+"}")
		}
		s.text = fmt.Sprintf("%s\n  %s: {%s, replicas: [%s]}%s", before, service, own, strings.Join(more, ", "), rest)
		return nil
	}
}
