// Package clientinfo is where a request to identity came from: the client's address as
// Envoy tells it, and its user agent. Throttling counts by it and the audit trail
// records it.
package clientinfo

import (
	"context"
	"net/http"
	"net/netip"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxAgent is the most of a user agent that is kept, in characters.
const maxAgent = 200

// Origin is where a request came from.
type Origin struct {
	IP    netip.Addr // invalid when unknown
	Agent string     // at most 200 characters, printable
}

// Of reads a request. Envoy sets X-Envoy-External-Address to the client beyond all trusted
// proxies (envoy config.core.v3, use_remote_address) and overwrites what a client sent; without it
// the last hop's X-Forwarded-For counts, then the connection's own address. Identity
// listens on loopback, so nobody but Envoy can name another address.
func Of(r *http.Request) Origin {
	o := Origin{Agent: agent(r.UserAgent())}
	if values := r.Header.Values("X-Envoy-External-Address"); len(values) == 1 {
		if o.IP = parse(values[0]); o.IP.IsValid() {
			return o
		}
	}
	if values := r.Header.Values("X-Forwarded-For"); len(values) > 0 {
		last := values[len(values)-1]
		if o.IP = parse(last[strings.LastIndexByte(last, ',')+1:]); o.IP.IsValid() {
			return o
		}
	}
	if peer, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		o.IP = peer.Addr().Unmap().WithZone("")
	}
	return o
}

func parse(text string) netip.Addr {
	text = strings.TrimSpace(text)
	if len(text) > 64 {
		return netip.Addr{}
	}
	if addr, err := netip.ParseAddr(text); err == nil {
		return addr.Unmap().WithZone("")
	}
	if peer, err := netip.ParseAddrPort(text); err == nil {
		return peer.Addr().Unmap().WithZone("")
	}
	return netip.Addr{}
}

func agent(text string) string {
	if len(text) > 16*maxAgent {
		text = text[:16*maxAgent]
	}
	text = strings.Map(func(c rune) rune {
		if c == utf8.RuneError || unicode.IsControl(c) || unicode.Is(unicode.Cf, c) {
			return -1
		}
		return c
	}, text)
	if utf8.RuneCountInString(text) > maxAgent {
		text = string([]rune(text)[:maxAgent])
	}
	return text
}

// Text is the address, empty when unknown.
func (o Origin) Text() string {
	if !o.IP.IsValid() {
		return ""
	}
	return o.IP.String()
}

// Network is what is counted as one client: the IPv4 address, or the /64 of an IPv6
// one, since a single machine owns a whole /64.
func (o Origin) Network() string {
	if !o.IP.IsValid() {
		return "unknown"
	}
	if o.IP.Is4() {
		return o.IP.String()
	}
	prefix, _ := o.IP.Prefix(64)
	return prefix.String()
}

type contextKey struct{}

// With puts an origin into the context.
func With(ctx context.Context, o Origin) context.Context {
	return context.WithValue(ctx, contextKey{}, o)
}

// From is the origin that Handler or With put into the context.
func From(ctx context.Context) Origin {
	o, _ := ctx.Value(contextKey{}).(Origin)
	return o
}

// Handler puts the origin of each request into its context.
func Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r.WithContext(With(r.Context(), Of(r))))
	})
}
