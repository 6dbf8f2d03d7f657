package oauth

import (
	"net/url"
	"slices"
	"strings"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
)

const (
	maxResources = 10
	maxResource  = 500 // bytes
	// codeInvalidTarget refuses a resource (RFC 8707 section 2).
	codeInvalidTarget = "invalid_target"
)

// addResource takes one more value of paramResource: an absolute URI without a fragment.
func (p params) addResource(value string, malformed error) error {
	if value == "" && malformed == nil {
		return nil // as if it were absent
	}
	u, err := url.Parse(value)
	if malformed != nil || err != nil || !u.IsAbs() || u.Fragment != "" || strings.Contains(value, "#") || len(value) > maxResource ||
		!visible(value) || strings.Contains(value, " ") {
		return refuse(codeInvalidTarget, "a resource is an absolute URI without a fragment, of at most %d bytes", maxResource)
	}
	all := strings.Fields(p[paramResource])
	switch {
	case slices.Contains(all, value):
	case len(all) == maxResources:
		return refuse(codeInvalidTarget, "more than %d resources", maxResources)
	default:
		p[paramResource] = strings.Join(append(all, value), " ")
	}
	return nil
}

// knownResources checks what a request names: the gateway, or a resource server of auth.resources.
func (p *Provider) knownResources(asked string) (string, error) {
	for _, r := range strings.Fields(asked) {
		if !p.ours(r) && !slices.Contains(p.cfg.Resources, r) {
			return "", refuse(codeInvalidTarget, "a resource is neither the gateway nor one of auth.resources")
		}
	}
	return asked, nil
}

// ours says whether a resource is the gateway, or a part of it.
func (p *Provider) ours(resource string) bool { return config.AtGateway(p.cfg.Issuer, resource) }

// fewerResources are those of a token: all that were granted, or some of them (RFC 8707 section 2.2). A
// grant that names none is for the gateway.
func (p *Provider) fewerResources(asked, granted string) (string, error) {
	if asked == "" {
		return granted, nil
	}
	all := strings.Fields(granted)
	for _, r := range strings.Fields(asked) {
		if !slices.Contains(all, r) && (granted != "" || !p.ours(r)) {
			return "", refuse(codeInvalidTarget, "the grant is for other resources")
		}
	}
	return asked, nil
}
