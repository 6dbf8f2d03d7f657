package config

import (
	"slices"
	"strings"
	"testing"
)

func TestUpstreamDefaults(t *testing.T) {
	t.Parallel()
	c, err := Parse([]byte("auth: {upstreams: [{name: Acme, issuer: 'https://login.acme.example/realm', client_id: leaky}]}\n"))
	if err != nil {
		t.Fatal(err)
	}
	u := c.Auth.Upstreams[0]
	if !slices.Equal(u.Scopes, []string{"openid", "profile", "email"}) || u.Claims != (UpstreamClaims{Username: "preferred_username", Email: "email", Groups: "groups"}) ||
		u.Groups != nil {
		t.Fatalf("got %+v", u)
	}
	c, err = Parse([]byte("auth: {upstreams: [{name: Acme, issuer: 'https://a.example', client_id: x, organisation: Acme}]}\n"))
	if err != nil || !slices.Equal(c.Auth.Upstreams[0].Groups, []UpstreamGroup{{Group: "*", Team: "*"}}) {
		t.Fatalf("groups are teams: got %+v, %v", c.Auth.Upstreams, err)
	}
}

func TestUpstreamMistakes(t *testing.T) {
	t.Parallel()
	const good = "name: Acme, issuer: 'https://a.example', client_id: leaky"
	for name, c := range map[string]struct{ entry, key, says string }{
		"no name":                   {"issuer: 'https://a.example', client_id: leaky", "auth.upstreams[0].name", "button"},
		"a long name":               {"name: " + strings.Repeat("x", 41) + ", issuer: 'https://a.example', client_id: leaky", "auth.upstreams[0].name", ""},
		"no issuer":                 {"name: Acme, client_id: leaky", "auth.upstreams[0].issuer", "https://host"},
		"plain http":                {"name: Acme, issuer: 'http://a.example', client_id: leaky", "auth.upstreams[0].issuer", "write https"},
		"a query":                   {"name: Acme, issuer: 'https://a.example?x', client_id: leaky", "auth.upstreams[0].issuer", ""},
		"credentials":               {"name: Acme, issuer: 'https://u:p@a.example', client_id: leaky", "auth.upstreams[0].issuer", ""},
		"a cloud's metadata":        {"name: Acme, issuer: 'https://169.254.169.254', client_id: leaky", "auth.upstreams[0].issuer", "link-local"},
		"no client":                 {"name: Acme, issuer: 'https://a.example'", "auth.upstreams[0].client_id", ""},
		"two secrets":               {good + ", client_secret_env: A, client_secret_file: b", "auth.upstreams[0].client_secret_env", "one of them"},
		"no variable":               {good + ", client_secret_env: 'A B'", "auth.upstreams[0].client_secret_env", ""},
		"a short access":            {good + ", access_ttl: 1m", "auth.upstreams[0].access_ttl", "out of range"},
		"no openid":                 {good + ", scopes: [profile]", "auth.upstreams[0].scopes", "openid is missing"},
		"no scopes":                 {good + ", scopes: []", "auth.upstreams[0].scopes", ""},
		"two scopes in one":         {good + ", scopes: [openid, 'a b']", "auth.upstreams[0].scopes[1]", ""},
		"a long organisation":       {good + ", organisation: " + strings.Repeat("x", 101), "auth.upstreams[0].organisation", ""},
		"a team of nothing":         {good + ", groups: [{group: a, team: b}]", "auth.upstreams[0].groups[0].group", "organisation is missing"},
		"owners of nothing":         {good + ", groups: [{group: a, owner: true}]", "auth.upstreams[0].groups[0].group", "organisation is missing"},
		"a group without a meaning": {good + ", groups: [{group: a}]", "auth.upstreams[0].groups[0].group", "nothing follows"},
		"a star within":             {good + ", groups: [{group: 'a*b', role: ADMIN}]", "auth.upstreams[0].groups[0].group", "at its end"},
		"a star for nothing":        {good + ", organisation: a, groups: [{group: a, team: '*'}]", "auth.upstreams[0].groups[0].team", "end the group with"},
		"no name of a team":         {good + ", organisation: a, groups: [{group: a, team: 'b c'}]", "auth.upstreams[0].groups[0].team", "no name of a team"},
		"no such role":              {good + ", groups: [{group: a, role: ADMINN}]", "auth.upstreams[0].groups[0].role", "did you mean"},
		"twice":                     {good + "}, {" + good, "auth.upstreams[1].name", "twice"},
		"one issuer, twice":         {good + "}, {name: Other, issuer: 'https://a.example', client_id: x", "auth.upstreams[1].issuer", "twice"},
	} {
		_, err := Parse([]byte("auth: {upstreams: [{" + c.entry + "}]}\n"))
		if err == nil || !strings.Contains(err.Error(), c.key+":") || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: want a mistake at %s that says %q, got %v", name, c.key, c.says, err)
		}
	}
	for _, issuer := range []string{"http://127.0.0.1:5556/dex", "http://localhost:1", "http://[::1]:2", "https://10.0.0.1/realms/a"} {
		if _, err := Parse([]byte("auth: {upstreams: [{name: Acme, issuer: '" + issuer + "', client_id: x}]}\n")); err != nil {
			t.Errorf("%s: %v", issuer, err)
		}
	}
}
