package extauthz

import (
	"log/slog"
	"net/http"
	"strings"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
)

// permit applies the rules of the route. A route without an access rule, or with one
// that is not known, is a mistake of ours: the former asks for a caller, the latter lets
// nobody in.
func (s *Service) permit(who *caller, c *call) *denial {
	switch c.rule {
	case attributes.RulePublic, attributes.RuleAuthenticated, "":
	default:
		role, ok := strings.CutPrefix(c.rule, "role:")
		if !ok || role == "" {
			s.log.Error("route has an unknown access rule", slog.String("rule", c.rule))
			return &denyRole
		}
		if !who.who.Is(role) {
			return &denyRole
		}
	}
	if who.who.KeyID != "" && !keyMay(c) {
		return &denyKey
	}
	if c.org != "" && who.who.OrgID == "" {
		return &denyNoOrg
	}
	if c.scope == "" || !who.oauth {
		return nil
	}
	wanted := scopeFor(c.scope, c.method)
	switch {
	case wanted != attributes.ScopeNone && granted(who.who.Scope, wanted):
		return nil
	case !attributes.ForOthers(wanted):
		return &denyThirdParty
	}
	return &denyScope
}

// keyMay says whether an API key will do: what makes credentials, organisations or roles asks
// for a login, so that a stolen key can make nothing that outlives it.
func keyMay(c *call) bool {
	switch c.keys {
	case "":
		return true
	case attributes.KeysRead:
		return reads(c.method)
	}
	return false
}

func reads(method string) bool { return method == http.MethodGet || method == http.MethodHead }

// scopeFor picks the scope for a method: the first of two is for reading.
func scopeFor(rule, method string) string {
	read, write, two := strings.Cut(rule, " ")
	if two && !reads(method) {
		return write
	}
	return read
}

// granted reports whether a scope, or one of several with | between, is one of those granted (RFC 6749, 3.3).
func granted(scopes, wanted string) bool {
	for one := range strings.SplitSeq(wanted, "|") {
		if grantedOne(scopes, one) {
			return true
		}
	}
	return false
}

func grantedOne(scopes, wanted string) bool {
	for scopes != "" {
		var one string
		if one, scopes, _ = strings.Cut(scopes, " "); one == wanted {
			return true
		}
	}
	return false
}

// ownAuthorization are the public paths whose endpoints read Authorization themselves:
// a client authenticates there by Basic (RFC 6749, 2.3.1; RFC 7009, 2.1), a protected
// resource by its own token (RFC 7662, 2.1), and userinfo has errors of its own
// (OpenID Connect Core, 5.3.3).
const ownAuthorization = "/oauth2/"

// endpointReads reports whether Authorization is for the endpoint and not for us.
func (c *call) endpointReads() bool {
	return c.rule == attributes.RulePublic && strings.HasPrefix(c.path, ownAuthorization)
}
