package config

import (
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// AuthUpstream is another OpenID provider that people sign in by, such as a company's own.
type AuthUpstream struct {
	Name             string         `yaml:"name"`               // on the button, at most 40 characters
	Issuer           string         `yaml:"issuer"`             // as its metadata has it: https://..., or http:// on this machine
	ClientID         string         `yaml:"client_id"`          // what we are called there
	ClientSecretEnv  string         `yaml:"client_secret_env"`  // environment variable with our secret there
	ClientSecretFile string         `yaml:"client_secret_file"` // or the file that holds it, relative to leaky.yaml; neither: we are a public client
	Scopes           []string       `yaml:"scopes"`             // asked for, default openid, profile, email
	Claims           UpstreamClaims `yaml:"claims"`             // where it says what
	// Organisation is what its people are members of, and act for: a name, by which one is made for them at
	// the first login, or the id of one that is there. Empty: none.
	Organisation string `yaml:"organisation"`
	// Groups say what being in a group makes of somebody, at each login. A member is in one team: the first
	// entry that gives one counts. Default: with an organisation, groups are teams.
	Groups []UpstreamGroup `yaml:"groups"`
	// AccessTTL is how long an account may be used after the provider last said yes, by a login or by
	// refreshing one (scope offline_access), default 72h; then it is disabled until the next login.
	AccessTTL time.Duration `yaml:"access_ttl"`
}

// UpstreamGroup is what a group of the provider means here.
type UpstreamGroup struct {
	Group string `yaml:"group"` // as the claim has it; a * at the end stands for anything
	Team  string `yaml:"team"`  // of the organisation, made when it is missing; * is what * stood for
	Role  string `yaml:"role"`  // ADMIN or a tier; once an entry has one, roles are those of the groups alone, and USER
	Owner bool   `yaml:"owner"` // OWNER of the organisation; once an entry says so, others are MEMBER
}

// UpstreamClaims name the claims of an ID token, or of what userinfo answers. A dot leads into an
// object, where no claim has the whole name.
type UpstreamClaims struct {
	Username string `yaml:"username"` // default preferred_username
	Email    string `yaml:"email"`    // default email
	Groups   string `yaml:"groups"`   // default groups: a text, or a list of at most 1000
}

// UpstreamCallback is the path of the gateway that providers send people back to.
const UpstreamCallback = "/oauth2/callback"

// UpstreamAccessTTL is the default of AuthUpstream.AccessTTL, and what holds for accounts of a provider
// that is configured no more.
const UpstreamAccessTTL = 72 * time.Hour

const (
	mostAuthUpstreams  = 10 // buttons on a page
	maxUpstreamName    = 40 // characters
	maxUpstreamSetting = 500
	mostUpstreamScopes = 20
	mostUpstreamGroups = 1000
	maxUpstreamGroup   = 200 // bytes
	scopeOpenID        = "openid"
)

func (a *Auth) fillUpstreams() {
	for i := range a.Upstreams {
		u := &a.Upstreams[i]
		if u.Scopes == nil {
			u.Scopes = []string{scopeOpenID, "profile", "email"}
		}
		setDefault(&u.Claims.Username, "preferred_username")
		setDefault(&u.Claims.Email, "email")
		setDefault(&u.Claims.Groups, "groups")
		setDefault(&u.AccessTTL, UpstreamAccessTTL)
		if u.Groups == nil && u.Organisation != "" {
			u.Groups = []UpstreamGroup{{Group: wildcard, Team: wildcard}}
		}
	}
}

func (a Auth) validateUpstreams(v *validator, tiers Tiers) {
	between(v, "auth.upstreams", len(a.Upstreams), 0, mostAuthUpstreams)
	names, issuers := map[string]bool{}, map[string]bool{}
	for i, u := range a.Upstreams {
		key := fmt.Sprintf("auth.upstreams[%d]", i)
		switch {
		case u.Name == "" || utf8.RuneCountInString(u.Name) > maxUpstreamName || u.Name != strings.TrimSpace(u.Name) || hasControls(u.Name):
			v.fail(key+".name", "write what its button says, 1 to %d characters", maxUpstreamName)
		case names[u.Name]:
			v.fail(key+".name", "%q stands there twice", u.Name)
		case issuers[u.Issuer]:
			v.fail(key+".issuer", "the same provider stands there twice: whom it names is one account")
		}
		names[u.Name], issuers[u.Issuer] = true, true
		u.validate(v, key)
		u.validateGroups(v, key, tiers)
	}
}

func (u AuthUpstream) validate(v *validator, key string) {
	at, err := url.Parse(u.Issuer)
	switch {
	case err != nil || at.Scheme != "https" && at.Scheme != "http" || at.Hostname() == "" || at.User != nil ||
		len(u.Issuer) > maxUpstreamSetting || strings.ContainsAny(u.Issuer, "?# "):
		v.fail(key+".issuer", "write https://host[:port][/path] as its metadata has it, without credentials, query or fragment")
	case at.Scheme == "http" && !Loopback(at.Hostname()):
		v.fail(key+".issuer", "%s is not on this machine: write https, or anybody in between says who signs in", at.Hostname())
	case closedAddress(at.Hostname()):
		v.fail(key+".issuer", "no provider is at %s: link-local addresses are where a cloud keeps its machines' credentials", at.Hostname())
	}
	if u.ClientID == "" || len(u.ClientID) > maxUpstreamSetting || hasControls(u.ClientID) {
		v.fail(key+".client_id", "write the id that the provider gave us, at most %d bytes", maxUpstreamSetting)
	}
	if u.ClientSecretEnv != "" && u.ClientSecretFile != "" {
		v.fail(key+".client_secret_env", "client_secret_file stands beside it; write one of them")
	}
	if strings.ContainsAny(u.ClientSecretEnv, "= \t\x00") {
		v.fail(key+".client_secret_env", "%q is no name of an environment variable", u.ClientSecretEnv)
	}
	between(v, key+".access_ttl", u.AccessTTL, time.Hour, 8760*time.Hour)
	between(v, key+".scopes", len(u.Scopes), 1, mostUpstreamScopes)
	for j, scope := range u.Scopes {
		if scope == "" || len(scope) > maxUpstreamSetting || strings.ContainsFunc(scope, notScope) {
			v.fail(fmt.Sprintf("%s.scopes[%d]", key, j), "%q is no scope (RFC 6749, 3.3)", scope)
		}
	}
	if len(u.Scopes) > 0 && !slices.Contains(u.Scopes, scopeOpenID) {
		v.fail(key+".scopes", "openid is missing: without it no provider says who signed in")
	}
	for member, claim := range map[string]string{"username": u.Claims.Username, "email": u.Claims.Email, "groups": u.Claims.Groups} {
		if len(claim) > maxUpstreamSetting || hasControls(claim) {
			v.fail(key+".claims."+member, "write the name of a claim, at most %d bytes", maxUpstreamSetting)
		}
	}
}

func (u AuthUpstream) validateGroups(v *validator, key string, tiers Tiers) {
	if utf8.RuneCountInString(u.Organisation) > maxOrganisation || hasControls(u.Organisation) ||
		u.Organisation != strings.TrimSpace(u.Organisation) {
		v.fail(key+".organisation", "write a name of at most %d characters, or an organisation's id", maxOrganisation)
	}
	between(v, key+".groups", len(u.Groups), 0, mostUpstreamGroups)
	roles := append(slices.Sorted(maps.Keys(tiers.Levels)), roleAdmin)
	for i, g := range u.Groups {
		at := fmt.Sprintf("%s.groups[%d]", key, i)
		prefix, wild := strings.CutSuffix(g.Group, wildcard)
		switch {
		case g.Group == "" || len(g.Group) > maxUpstreamGroup || hasControls(g.Group) || strings.Contains(prefix, wildcard):
			v.fail(at+".group", "write the name of a group of at most %d bytes; a * may stand at its end", maxUpstreamGroup)
		case g.Team == "" && g.Role == "" && !g.Owner:
			v.fail(at+".group", "nothing follows from %s: write team, role or owner beside it", g.Group)
		}
		switch {
		case (g.Team != "" || g.Owner) && u.Organisation == "":
			v.fail(at+".group", "%s.organisation is missing: of which are they the team or the owners?", key)
		case g.Team == wildcard && !wild:
			v.fail(at+".team", "* stands for nothing here: end the group with a *")
		case g.Team != "" && g.Team != wildcard && !teamName.MatchString(g.Team):
			v.fail(at+".team", "%q is no name of a team: 1 to 50 letters, digits, '.', '_' or '-'", g.Team)
		}
		if g.Role != "" {
			v.oneOf(at+".role", g.Role, roles...)
		}
	}
}

// teamName is what identity lets a team be called.
var teamName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,50}$`)

const (
	maxOrganisation = 100 // characters
	roleAdmin       = "ADMIN"
)

func hasControls(s string) bool {
	return !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl)
}

// notScope says of a character that no scope has it (RFC 6749, appendix A.4).
func notScope(c rune) bool { return c <= ' ' || c > '~' || c == '"' || c == '\\' }
