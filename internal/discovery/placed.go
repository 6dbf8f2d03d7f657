package discovery

import (
	"log/slog"
	"slices"

	"github.com/leaky-tokens/leaky-tokens/internal/netaddr"
)

// Kubernetes is the site of processes that an API server of Kubernetes tells of.
const Kubernetes = "kubernetes"

// OfProvider is a provider's name among services: Kubernetes may say where its processes are, too.
func OfProvider(name string) string { return "provider-" + name }

// Place takes all that another than the processes themselves says of a service, in place of what it
// said before. That has no lease: it holds until something else is said. What a process that
// registered says of itself counts more.
func (b *book) Place(service string, all []Instance) {
	var entries []*entry
	var unfit int
	for _, i := range all {
		i.Service = service
		at, err := i.addr()
		if err != nil || at.Network != "tcp" || !zone.MatchString(i.Zone) {
			unfit++
			continue
		}
		entries = append(entries, &entry{Instance: i, at: at})
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.placed[service] = entries
	b.log.Info("placed", slog.String("service", service), slog.Int("serving", len(serving(entries))), slog.Int("known", len(entries)),
		slog.Int("unfit", unfit))
	b.changed()
}

func serving(all []*entry) []*entry {
	return slices.DeleteFunc(slices.Clone(all), func(e *entry) bool { return e.State != Serving })
}

// At are the addresses at which somebody serves by what another said, none if nobody does.
func (b *book) At(service string) []Endpoint {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []Endpoint
	for _, e := range serving(b.placed[service]) {
		all = append(all, Endpoint{e.at, e.Weight, e.Zone})
	}
	return all
}

// withPlaced adds to processes that registered those that another tells of. The file's addresses stand
// for them where they are these, and where none of them serves; b.mu is held.
func (b *book) withPlaced(service, network string, found map[netaddr.Addr]*entry) (told bool) {
	for _, e := range b.placed[service] {
		if e.at.Network != network {
			continue
		}
		told = told || e.State == Serving
		if other := found[e.at]; other == nil || other.State == Left { // the address is another process's by now
			found[e.at] = e
		}
	}
	return told
}
