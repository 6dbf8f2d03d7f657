package oauth

import (
	"slices"
	"strings"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
)

// Scopes of OpenID Connect; those of the API are in facts.
const (
	scopeOpenID  = "openid"
	scopeProfile = "profile"
	scopeEmail   = "email"
	scopeOffline = "offline_access"
)

// knownScopes are all scopes, in the order that pages and metadata show them.
func knownScopes() []string {
	return []string{scopeOpenID, scopeProfile, scopeEmail, attributes.ScopeModelsCall, attributes.ScopeTokensRead,
		attributes.ScopeTokensWrite, attributes.ScopeAnalyticsRead, attributes.ScopeAdmin, scopeOffline, attributes.ScopeAccount}
}

// offeredScopes are those that a client can be registered for: all but the console's own.
func offeredScopes() []string {
	return slices.DeleteFunc(knownScopes(), func(s string) bool { return !attributes.ForOthers(s) })
}

// apiScopes are those of the API.
func apiScopes() []string {
	return withoutScopes(offeredScopes(), scopeOpenID, scopeProfile, scopeEmail, scopeOffline)
}

// meaning is what a person reads on the consent page.
func meaning(scope string) string {
	switch scope {
	case scopeOpenID:
		return "Know who you are (your user id)"
	case scopeProfile:
		return "See your user name"
	case scopeEmail:
		return "See your e-mail address"
	case attributes.ScopeModelsCall:
		return "Call models in your name, without buying tokens"
	case attributes.ScopeTokensRead:
		return "See your token balances, quotas and purchases"
	case attributes.ScopeTokensWrite:
		return "Call models and spend or buy tokens in your name"
	case attributes.ScopeAnalyticsRead:
		return "See your usage"
	case attributes.ScopeAdmin:
		return "Administer the platform: users, roles, clients, limits"
	case attributes.ScopeAccount:
		return "Manage your keys, organisations and the applications that act for you"
	case scopeOffline:
		return "Keep access while you are away, until you revoke it"
	}
	return scope
}

// requestedScopes checks the scope parameter against what the client is registered
// for. What is no scope at all is left out (OpenID Connect Core section 3.1.2.1), and the answer says
// what was granted (RFC 6749 section 5.1). Without one the client gets all of it (RFC 6749 section 3.3 lets a server have
// a default), except offline_access, which must be asked for.
func requestedScopes(text string, allowed []string) ([]string, error) {
	if text == "" {
		scopes := slices.DeleteFunc(slices.Clone(allowed), func(s string) bool { return s == scopeOffline })
		if len(scopes) == 0 {
			return nil, refuse(codeInvalidScope, "name the scopes that are wanted")
		}
		return scopes, nil
	}
	var scopes []string
	for scope := range strings.SplitSeq(text, " ") {
		switch {
		case scope == "" || !slices.Contains(knownScopes(), scope):
		case !slices.Contains(allowed, scope):
			return nil, refuse(codeInvalidScope, "the client is not registered for scope %s", scope)
		case !slices.Contains(scopes, scope):
			scopes = append(scopes, scope)
		}
	}
	if len(scopes) == 0 {
		return nil, refuse(codeInvalidScope, "none of the scopes is known; known are %s", strings.Join(offeredScopes(), " "))
	}
	return scopes, nil
}

// grantedScopes leaves out what the user could not do themselves: nobody hands on a
// right that they do not have. An empty result must refuse the grant, because a token
// without a scope counts as a login's and is bound by the roles alone.
func grantedScopes(scopes, roles []string) ([]string, error) {
	granted := slices.DeleteFunc(slices.Clone(scopes), func(s string) bool {
		return s == attributes.ScopeAdmin && !slices.Contains(roles, principal.RoleAdmin)
	})
	if !slices.ContainsFunc(granted, func(s string) bool { return s != scopeOffline }) {
		return nil, refuse(codeInvalidScope, "the user may grant none of the scopes")
	}
	return granted, nil
}

// narrowed is the scope of a refreshed token: what was granted, or a part of it
// (RFC 6749 section 6).
func narrowed(text, granted string) (string, error) {
	if text == "" {
		return granted, nil
	}
	scopes, err := requestedScopes(text, strings.Fields(granted))
	if err != nil {
		return "", refuse(codeInvalidScope, "a refreshed token has at most the scopes of its grant")
	}
	return strings.Join(scopes, " "), nil
}

func hasScope(text, scope string) bool { return slices.Contains(strings.Fields(text), scope) }
