package xds

import (
	"context"
	"errors"
	"log/slog"
	"slices"

	"github.com/leaky-tokens/leaky-tokens/internal/discovery"
	"github.com/leaky-tokens/leaky-tokens/internal/netaddr"
	"github.com/leaky-tokens/leaky-tokens/xds/model"
	"github.com/leaky-tokens/leaky-tokens/xds/server"
)

// registered are the endpoints of a service by the registry.
func (s source) registered(service string, file []netaddr.Addr) ([]netaddr.Addr, map[netaddr.Addr]model.Place) {
	return places(s.registry.Endpoints(service, file))
}

// placed are the endpoints of a provider where something else than its URL says where they are.
func (s source) placed(provider string) ([]netaddr.Addr, map[netaddr.Addr]model.Place) {
	return places(s.registry.At(discovery.OfProvider(provider)))
}

func places(endpoints []discovery.Endpoint) ([]netaddr.Addr, map[netaddr.Addr]model.Place) {
	var at []netaddr.Addr
	places := map[netaddr.Addr]model.Place{}
	for _, e := range endpoints {
		at = append(at, e.Addr)
		places[e.Addr] = model.Place{Weight: e.Weight, Zone: e.Zone}
	}
	return at, places
}

// behind reports whether the registry has changed since a configuration was made.
func (x *XDS) behind(l loaded) bool {
	return x.source.registry != nil && x.source.registry.Number() != l.number
}

// followRegistry has endpoints published that change. A process that is gone must not wait for an
// Envoy that does not answer: what is being published waits no longer for it.
func (x *XDS) followRegistry(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-x.source.registry.Changed():
		}
		wake(x.moved)
		x.mu.Lock()
		x.hurry()
		x.mu.Unlock()
	}
}

// follow publishes the live content with the endpoints that there are by now. It says nothing of the
// files: those that are refused stay so. It is false where that is to be tried again.
func (x *XDS) follow(ctx context.Context) (done bool) {
	x.mu.Lock()
	live := x.live
	x.mu.Unlock()
	next, err := x.source.load(live.settings)
	if err != nil {
		x.said.Say(ctx, slog.LevelError, unfollowed, err)
		_, outside := errors.AsType[*outsideError](err)
		return !outside
	}
	x.said.Over(ctx, unfollowed, "endpoints are followed again")
	err = x.publish(ctx, next)
	x.mu.Lock()
	back := x.live
	x.mu.Unlock()
	refused, ok := errors.AsType[*server.Refused](err)
	switch {
	case err == nil:
		x.source.registry.Published(next.number)
	case ctx.Err() != nil:
	case ok && back.settings != live.settings: // no Envoy had run the files' content before, and now one refuses it
		x.goBack(next, refused)
		x.fail(ctx, refused, next)
		wake(x.moved)
	default:
		x.log.LogAttrs(ctx, slog.LevelError, unfollowed, slog.Any("error", err))
	}
	return true
}

// withRegistered adds what processes say of themselves to the services that Envoy calls, and behind
// them those that it does not call.
func (x *XDS) withRegistered(all []Service) []Service {
	if x.source.registry == nil {
		return all
	}
	for _, i := range x.source.registry.List() {
		says := Service{Name: i.Service, Address: i.Address, Healthy: i.State == discovery.Serving, Part: i.Part, State: i.State,
			Weight: i.Weight, Zone: i.Zone}
		at := slices.IndexFunc(all, func(s Service) bool { return s.Name == i.Service && s.Address == i.Address })
		switch {
		case at >= 0:
			all[at] = says
		case i.State != discovery.Left && i.State != discovery.Lost:
			all = append(all, says)
		}
	}
	return all
}
