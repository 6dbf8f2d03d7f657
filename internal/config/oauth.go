package config

import (
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/leaky-tokens/leaky-tokens/internal/netaddr"
)

// Issuers are the iss values of access tokens: of logins, and of the OAuth2 provider,
// whose iss must be the URL that its metadata is found at (RFC 8414, RFC 9068).
func (a Auth) Issuers() []string {
	return slices.Compact([]string{a.Issuer, a.PublicURL})
}

// ResourceMetadata is the path of the gateway's metadata as a protected resource (RFC 9728 section 3), by
// which a client that met a 401 finds the way to a token. That of a path of it stands with it behind.
const ResourceMetadata = "/.well-known/oauth-protected-resource"

// AtGateway says whether an audience is the gateway at a URL, or a path at it (RFC 8707, RFC 9728).
func AtGateway(publicURL, audience string) bool {
	rest, found := strings.CutPrefix(audience, publicURL)
	return publicURL != "" && found && (rest == "" || rest[0] == '/')
}

// ConsolePath is where the console is, at the gateway and at its own port.
const ConsolePath = "/console"

// ConsoleOrigins are the origins at which browsers find the console: the gateway's, and its own
// port's, as long as that asks for no certificate.
func (c *Config) ConsoleOrigins() []string {
	origins := []string{c.Auth.PublicURL}
	if c.TLS.Mutual() {
		return origins
	}
	for _, e := range c.Services.Console.All() {
		origins = append(origins, "http://"+reachable(e.HTTP))
	}
	return origins
}

// fillOAuth needs the whole configuration, since the defaults follow the listeners.
func (c *Config) fillOAuth() {
	if c.Auth.PublicURL == "" {
		c.Auth.PublicURL = c.Gateway.URL()
	}
	if c.Auth.Development == nil {
		development := c.onLoopback()
		c.Auth.Development = &development
	}
}

// URL is where parts of this machine reach the gateway.
func (g Gateway) URL() string { return g.scheme() + reachable(g.Listen) }

// reachable is an address to connect to for one to listen on.
func reachable(listen string) string {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return listen // refused by the validation
	}
	if addr, err := netip.ParseAddr(host); host == "" || err == nil && addr.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

func (c *Config) onLoopback() bool {
	s := c.Services
	addresses := []string{c.Gateway.Listen}
	for _, e := range []Endpoint{s.XDS, s.Identity, s.ExtAuthz, s.RateLimit, s.Meter, s.TokenSvc, s.Analytics, s.Console} {
		addresses = append(addresses, e.HTTP, e.GRPC)
	}
	return !slices.ContainsFunc(addresses, func(text string) bool {
		addr, err := netaddr.Parse(text)
		return err == nil && addr.Network == "tcp" && !Loopback(addr.Host)
	})
}

func (a Auth) validateOAuth(v *validator) {
	u, err := url.Parse(a.PublicURL)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" || u.RawQuery != "" || u.Fragment != "" ||
		u.User != nil || u.Path != "" || strings.HasSuffix(a.PublicURL, "#") || strings.HasSuffix(a.PublicURL, "?") {
		v.fail("auth.public_url", "write http(s)://host[:port] as clients reach the gateway, without a path")
	}
	for _, resource := range a.Resources {
		u, err := url.Parse(resource)
		if err != nil || !u.IsAbs() || strings.ContainsAny(resource, "# \t") || len(resource) > 500 {
			v.fail("auth.resources", "%q: write an absolute URI without a fragment, of at most 500 bytes", resource)
		}
	}
}
