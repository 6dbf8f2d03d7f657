package upstream

import (
	"context"
	"maps"
	"strings"
	"unicode/utf8"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
)

const (
	maxSubject = 255 // bytes, of ASCII (OpenID Connect Core, 2)
	maxText    = 200 // bytes of a name or an e-mail
	mostGroups = 1000
)

// claims are what the provider says of somebody: the ID token, and where that lacks what we look for,
// what userinfo adds. The ID token wins, as it is signed.
func (p *provider) claims(ctx context.Context, f *found, token *oauth2.Token, id *oidc.IDToken) (map[string]any, error) {
	said := map[string]any{}
	if err := id.Claims(&said); err != nil {
		return nil, p.bad("the ID token's claims are malformed")
	}
	if f.oidc.UserInfoEndpoint() == "" || !p.lacks(said) {
		return said, nil
	}
	info, err := f.oidc.UserInfo(p.context(ctx), oauth2.StaticTokenSource(token))
	if err != nil {
		return nil, p.unanswered("userinfo cannot be had", err)
	}
	if info.Subject != id.Subject {
		return nil, p.bad("userinfo speaks of somebody else than the ID token") // OpenID Connect Core, 5.3.2
	}
	more := map[string]any{}
	if err := info.Claims(&more); err != nil {
		return nil, p.bad("userinfo's claims are malformed")
	}
	maps.Copy(more, said)
	return more, nil
}

// wanted are the names of the claims that we look for.
func (p *provider) wanted() []string {
	names := []string{p.cfg.Claims.Username, p.cfg.Claims.Email}
	if len(p.cfg.Groups) > 0 {
		names = append(names, p.cfg.Claims.Groups)
	}
	return names
}

func (p *provider) lacks(said map[string]any) bool {
	for _, name := range p.wanted() {
		if _, found := claim(said, name); !found {
			return true
		}
	}
	return false
}

// claim finds a claim by its name, or else by the names of the objects around it with dots between, as
// Keycloak has roles in realm_access.roles.
func claim(said map[string]any, name string) (any, bool) {
	if value, found := said[name]; found {
		return value, true
	}
	outer, inner, dotted := strings.Cut(name, ".")
	if !dotted {
		return nil, false
	}
	within, _ := said[outer].(map[string]any)
	return claim(within, inner)
}

// person reads the claims. One that is absent is empty; one of another type is a fault of the provider
// or of the configuration, and signs nobody in.
func (p *provider) person(subject string, said map[string]any) (who Person, err error) {
	who = Person{Upstream: p.cfg.Name, Issuer: p.cfg.Issuer, Subject: subject}
	if who.Username, err = p.text(said, p.cfg.Claims.Username); err != nil {
		return who, err
	}
	if who.Email, err = p.text(said, p.cfg.Claims.Email); err != nil {
		return who, err
	}
	switch verified := said["email_verified"].(type) {
	case bool: // OpenID Connect Core, 5.1
		if !verified {
			who.Email = ""
		}
	case string: // as some send it
		if verified != "true" {
			who.Email = ""
		}
	}
	if len(p.cfg.Groups) > 0 {
		who.Groups, err = p.groups(said)
	}
	return who, err
}

// groups are the claim that is a text or a list of texts. Without it somebody is in none, unless the
// provider says that they are too many to be told (OpenID Connect Core, 5.6.2).
func (p *provider) groups(said map[string]any) ([]string, error) {
	name := p.cfg.Claims.Groups
	value, _ := claim(said, name)
	if elsewhere, _ := said["_claim_names"].(map[string]any); value == nil && elsewhere[name] != nil {
		return nil, p.bad("the claim " + name + " is kept elsewhere, as the groups are too many: have the provider send fewer")
	}
	list, ok := value.([]any)
	switch text := value.(type) {
	case nil:
		return nil, nil
	case string:
		list, ok = []any{text}, true
	}
	if !ok || len(list) > mostGroups {
		return nil, p.bad("the claim " + name + " is no list of at most 1000 texts")
	}
	groups := make([]string, len(list))
	for i, value := range list {
		if groups[i], ok = value.(string); !ok {
			return nil, p.bad("the claim " + name + " is no list of at most 1000 texts")
		}
	}
	return groups, nil
}

// text is a claim that is one short text.
func (p *provider) text(said map[string]any, name string) (string, error) {
	value, found := claim(said, name)
	if !found || value == nil {
		return "", nil
	}
	text, ok := value.(string)
	if !ok {
		return "", p.bad("the claim " + name + " is no text")
	}
	if len(text) > maxText || !utf8.ValidString(text) {
		return "", p.bad("the claim " + name + " is longer than 200 bytes")
	}
	return strings.TrimSpace(text), nil
}

// visible says that a text is printable ASCII.
func visible(s string) bool {
	return !strings.ContainsFunc(s, func(c rune) bool { return c < 0x20 || c > 0x7e })
}
