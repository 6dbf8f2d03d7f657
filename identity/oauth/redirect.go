package oauth

import (
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

const maxRedirect = 2000 // bytes

// checkRedirect says whether a URI may be registered: https anywhere, http on the
// loopback interface for native apps (RFC 8252 section 7.3), or an app's own scheme,
// which has a dot as reversed domain names have (section 7.1) or is one of schemes. No fragment (RFC 6749
// section 3.1.2), no user name, nothing that two parsers read differently. It gives
// what is wrong, or "".
func checkRedirect(text string, schemes ...string) string {
	if text == "" || len(text) > maxRedirect {
		return "must have 1 to 2000 bytes"
	}
	if strings.ContainsFunc(text, func(c rune) bool { return c <= 0x20 || c >= 0x7f }) || strings.ContainsAny(text, "\\\"<>^`{|}*'") {
		return "holds a character that belongs percent-encoded"
	}
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return "is not a URI"
	case strings.Contains(text, "#"):
		return "must not have a fragment"
	case u.User != nil:
		return "must not have a user name"
	case u.Scheme != strings.ToLower(u.Scheme) || !strings.HasPrefix(text, u.Scheme+":"):
		return "must have a lower-case scheme"
	}
	if dotted(u.Path) {
		return "must not have '.' or '..' in its path"
	}
	switch u.Scheme {
	case "https":
		if u.Hostname() == "" {
			return "must name a host"
		}
	case "http":
		if !loopbackHost(u.Hostname()) {
			return "must be https, except on 127.0.0.1, [::1] and localhost"
		}
	default:
		// A scheme without a dot is javascript:, data: or somebody else's.
		if !strings.Contains(u.Scheme, ".") && !slices.Contains(schemes, u.Scheme) || u.Opaque != "" || u.Host != "" && u.Path == "" {
			return "must be https, http on loopback, or an app's scheme such as com.example.app:/callback"
		}
	}
	return ""
}

func dotted(path string) bool {
	for part := range strings.SplitSeq(path, "/") {
		if part == "." || part == ".." {
			return true
		}
	}
	return false
}

func loopbackHost(host string) bool { return host == "localhost" || loopbackIP(host) }

func loopbackIP(host string) bool {
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback() && !addr.Is4In6() && addr.Zone() == ""
}

// matchRedirect compares by simple string comparison (RFC 9700 section 2.1). The port
// of a registered http URI with a loopback address may differ, as a native app takes
// the one that is free (RFC 8252 section 7.3); localhost is taken for one, as agents do. What is
// registered was checked, schemes included.
func matchRedirect(registered []string, given string) bool {
	scheme, _, _ := strings.Cut(given, ":")
	if checkRedirect(given, scheme) != "" {
		return false
	}
	for _, r := range registered {
		if r == given {
			return true
		}
		want, ok := withoutLoopbackPort(r)
		if got, also := withoutLoopbackPort(given); ok && also && got == want {
			return true
		}
	}
	return false
}

// withoutLoopbackPort cuts the port out of http://127.0.0.1:port/..., http://[::1]:port/... and
// http://localhost:port/..., leaving every other byte.
func withoutLoopbackPort(text string) (string, bool) {
	rest, ok := strings.CutPrefix(text, "http://")
	if !ok {
		return "", false
	}
	end := strings.IndexAny(rest, "/?")
	if end < 0 {
		end = len(rest)
	}
	u, err := url.Parse(text)
	if err != nil || !loopbackHost(u.Hostname()) {
		return "", false
	}
	return "http://" + strings.TrimSuffix(rest[:end], ":"+u.Port()) + rest[end:], true
}

// withParams adds parameters to a redirect URI, keeping the query it was registered
// with (RFC 6749 section 4.1.2).
func withParams(redirect string, add url.Values) string {
	glue := "?"
	if strings.Contains(redirect, "?") {
		glue = "&"
		if strings.HasSuffix(redirect, "?") || strings.HasSuffix(redirect, "&") {
			glue = ""
		}
	}
	return redirect + glue + add.Encode()
}
