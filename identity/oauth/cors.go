package oauth

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// Web pages of other origins may read what carries no credential of a browser's (Fetch standard,
// section 3.3): there is no cookie here, so a page learns nothing but what its own code, secret or
// token gives it. What is public is open to all; the rest to the origins of redirect URIs.

// anyOrigin answers pages of every origin.
func anyOrigin(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Access-Control-Allow-Origin", "*")
		h.ServeHTTP(w, r)
	})
}

// ofClients answers pages of the origins of clients' redirect URIs.
func (p *Provider) ofClients(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.allowOrigin(w, r)
		h.ServeHTTP(w, r)
	})
}

// allowOrigin lets a page read the answer if its origin is that of a redirect URI.
func (p *Provider) allowOrigin(w http.ResponseWriter, r *http.Request) bool {
	header := w.Header()
	header.Add("Vary", "Origin")
	origin := r.Header.Get("Origin")
	if origin == "" {
		return false
	}
	known, err := p.knownOrigin(r.Context(), origin)
	if err != nil {
		p.said.Warn(r.Context(), "origin not looked up", err)
	}
	if known {
		header.Set("Access-Control-Allow-Origin", origin)
		header.Set("Access-Control-Expose-Headers", "WWW-Authenticate, Retry-After, DPoP-Nonce")
	}
	return known
}

func (p *Provider) knownOrigin(ctx context.Context, origin string) (bool, error) {
	if p.cfg.Ready != nil && !p.cfg.Ready() {
		return false, nil
	}
	as := originOf(origin)
	if as == "" || strings.Count(origin, "/") != 2 { // an origin has no path
		return false, nil
	}
	known, err := p.db.OAuthKnownOrigin(ctx, slices.Compact([]string{strings.ToLower(origin), as}))
	if err != nil {
		return false, fmt.Errorf("look for origin: %w", err)
	}
	return known, nil
}

// preflight is OPTIONS: what a browser asks before a page's request. It never needs a credential.
func preflight(methods string, allow func(w http.ResponseWriter, r *http.Request) bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if allow(w, r) {
			w.Header().Set("Access-Control-Allow-Methods", methods)
			// Authorization is not in "*" (Fetch standard, section 4.8).
			w.Header().Set("Access-Control-Allow-Headers", "Authorization, Content-Type, DPoP, MCP-Protocol-Version, X-Correlation-Id")
			w.Header().Set("Access-Control-Max-Age", "600")
		}
		w.WriteHeader(http.StatusNoContent)
	})
}

func everybody(w http.ResponseWriter, _ *http.Request) bool {
	w.Header().Set("Access-Control-Allow-Origin", "*")
	return true
}

// originOf is the origin of an http or https URI as browsers write it, without the port of a loopback
// host; empty for another.
func originOf(uri string) string {
	u, err := url.Parse(uri)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" || len(uri) > maxRedirect {
		return ""
	}
	host, port := strings.ToLower(u.Host), u.Port()
	if u.Scheme == "http" && (port == "80" || loopbackHost(u.Hostname())) || u.Scheme == "https" && port == "443" {
		host = strings.TrimSuffix(host, ":"+port)
	}
	return u.Scheme + "://" + host
}

// originsOf are the origins of redirect URIs, each once.
func originsOf(uris []string) []string {
	origins := []string{}
	for _, uri := range uris {
		if origin := originOf(uri); origin != "" && !slices.Contains(origins, origin) {
			origins = append(origins, origin)
		}
	}
	return origins
}
