package extauthz

import (
	"errors"
	"strings"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
)

func TestReadCredentials(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		headers map[string]string
		path    string
		want    credentials
		err     error
	}{
		"nothing": {nil, "/v1", credentials{}, nil},
		"blank ones are absent": {map[string]string{"authorization": " ", "x-api-key": " ", "x-goog-api-key": ""}, "/v1?key=&a=b",
			credentials{form: dropQueryKey}, nil},
		"bearer JWT":            {map[string]string{"authorization": "Bearer a.b.c"}, "/v1", credentials{token: "a.b.c", anything: true}, nil},
		"scheme in any case":    {map[string]string{"authorization": "bEARER  a.b.c "}, "/v1", credentials{token: "a.b.c", anything: true}, nil},
		"bearer key":            {map[string]string{"authorization": "Bearer leaky_x"}, "/v1", credentials{key: "leaky_x", anything: true}, nil},
		"x-api-key":             {map[string]string{"x-api-key": " leaky_x "}, "/v1", credentials{key: "leaky_x", anything: true}, nil},
		"x-goog-api-key":        {map[string]string{"x-goog-api-key": "leaky_x"}, "/v1", credentials{key: "leaky_x", anything: true}, nil},
		"query":                 {nil, "/v1?alt=sse&key=leaky_x", credentials{key: "leaky_x", form: dropQueryKey, anything: true}, nil},
		"query, escaped value":  {nil, "/v1?key=leaky%5Fx", credentials{key: "leaky_x", form: dropQueryKey, anything: true}, nil},
		"query, escaped name":   {nil, "/v1?%6bey=leaky_x", credentials{anything: true}, errMalformed},
		"query, broken escape":  {nil, "/v1?key=%zz", credentials{form: dropQueryKey, anything: true}, errMalformed},
		"query of another name": {nil, "/v1?monkey=1&keys=2&KEY=3", credentials{}, nil},
		"JWT and key": {map[string]string{"authorization": "Bearer a.b.c", "x-api-key": "k"}, "/v1", credentials{token: "a.b.c",
			key: "k", anything: true}, nil},
		"same key everywhere": {map[string]string{"authorization": "Bearer leaky_x", "x-api-key": "leaky_x,leaky_x",
			"x-goog-api-key": "leaky_x"}, "/v1?key=leaky_x", credentials{key: "leaky_x", form: dropQueryKey, anything: true}, nil},
		"Azure's header":   {map[string]string{"api-key": "k"}, "/v1", credentials{key: "k", anything: true}, nil},
		"Azure's and ours": {map[string]string{"api-key": "a", "x-api-key": "b"}, "/v1", credentials{key: "b", anything: true}, errSeveral},
		"two keys": {map[string]string{"x-api-key": "a", "x-goog-api-key": "b"}, "/v1", credentials{key: "a", anything: true},
			errSeveral},
		"two keys in one header": {map[string]string{"x-api-key": "a,b"}, "/v1", credentials{key: "a", anything: true}, errSeveral},
		"two keys in the query":  {nil, "/v1?key=a&key=b", credentials{key: "a", form: dropQueryKey, anything: true}, errSeveral},
		"two Authorizations":     {map[string]string{"authorization": "Bearer a,Bearer b"}, "/v1", credentials{anything: true}, errSeveral},
		"basic":                  {map[string]string{"authorization": "Basic YTpi"}, "/v1", credentials{anything: true}, errMalformed},
		"bearer of nothing":      {map[string]string{"authorization": "Bearer"}, "/v1", credentials{anything: true}, errMalformed},
		"bearer of two":          {map[string]string{"authorization": "Bearer a b"}, "/v1", credentials{anything: true}, errMalformed},
	} {
		got, err := readCredentials(&call{path: c.path, authorization: c.headers["authorization"], apiKey: c.headers["x-api-key"],
			googleKey: c.headers["x-goog-api-key"], azureKey: c.headers["api-key"]}, false)
		if got != c.want || !errors.Is(err, c.err) {
			t.Errorf("%s: want %+v, %v; got %+v, %v", name, c.want, c.err, got, err)
		}
	}
}

func TestReadCredentialsOnPublicPaths(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		path, authorization string
		want                credentials
		err                 error
	}{
		"a client at the token endpoint":     {"/oauth2/token", "Basic YTpi", credentials{form: keepHeader}, nil},
		"a bearer that introspects":          {"/oauth2/introspect?x=1", "Bearer a.b.c", credentials{form: keepHeader}, nil},
		"whatever else there":                {"/oauth2/token", "Bearer a, Basic b", credentials{form: keepHeader}, nil},
		"basic elsewhere goes no further":    {"/api/v1/auth/login", "Basic YTpi", credentials{}, nil},
		"digest too":                         {"/api/v1/auth/login", "Digest username=a", credentials{}, nil},
		"a bearer elsewhere counts":          {"/api/v1/auth/login", "Bearer a.b.c", credentials{token: "a.b.c", anything: true}, nil},
		"a broken one as well":               {"/api/v1/auth/login", "Bearer a b", credentials{anything: true}, errMalformed},
		"two of them":                        {"/api/v1/auth/login", "Basic a, Bearer b", credentials{anything: true}, errSeveral},
		"a scheme that only begins like it":  {"/api/v1/auth/login", "Bearerx a", credentials{anything: true}, errMalformed},
		"a scheme with a tab":                {"/api/v1/auth/login", "Bearer\ta", credentials{anything: true}, errMalformed},
		"the prefix without its slash":       {"/oauth2x", "Bearer a.b.c", credentials{token: "a.b.c", anything: true}, nil},
		"the prefix further on in the path":  {"/api/oauth2/token", "Bearer a.b.c", credentials{token: "a.b.c", anything: true}, nil},
		"the prefix in the query of another": {"/api?/oauth2/", "Bearer a.b.c", credentials{token: "a.b.c", anything: true}, nil},
	} {
		got, err := readCredentials(&call{path: c.path, authorization: c.authorization, rule: attributes.RulePublic}, false)
		if got != c.want || !errors.Is(err, c.err) {
			t.Errorf("%s: want %+v, %v; got %+v, %v", name, c.want, c.err, got, err)
		}
	}
	if got, err := readCredentials(&call{path: "/oauth2/token", authorization: "Basic YTpi", rule: attributes.RuleAuthenticated},
		false); err == nil {
		t.Errorf("a path that is not public: want an error, got %+v", got)
	}
}

func TestReadCredentialsWithKeysOff(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		from call
		want credentials
		err  error
	}{
		"keys are ignored":          {call{apiKey: "leaky_x", googleKey: "y", path: "/v1?a=b&key=leaky_z"}, credentials{form: dropQueryKey}, nil},
		"a token counts":            {call{apiKey: "leaky_x", authorization: "Bearer a.b.c"}, credentials{token: "a.b.c", anything: true}, nil},
		"a key as bearer is no JWT": {call{authorization: "Bearer leaky_x"}, credentials{anything: true}, errMalformed},
	} {
		got, err := readCredentials(&c.from, true)
		if got != c.want || !errors.Is(err, c.err) {
			t.Errorf("%s: want %+v, %v; got %+v, %v", name, c.want, c.err, got, err)
		}
	}
}

func FuzzReadCredentials(f *testing.F) {
	f.Add("Bearer a.b.c", "leaky_x", "/v1?key=leaky_x")
	f.Add("bearer\t", ",,", "/?%6bey=1&key=%")
	f.Add("Bearer a,Bearer b", "a,b", "#?key=a")
	f.Fuzz(func(t *testing.T, authorization, key, path string) {
		c, err := readCredentials(&call{authorization: authorization, apiKey: key, path: path}, false)
		present := strings.Trim(authorization, " \t") != "" || strings.Trim(key, " \t,") != ""
		if present && !c.anything {
			t.Fatal("a present credential reads as none, so the call would pass as anonymous")
		}
		if err == nil && c.anything && c.token == "" && c.key == "" {
			t.Fatal("a credential is present and neither read nor refused")
		}
		if strings.ContainsAny(c.token, " \t,") {
			t.Fatalf("token %q", c.token)
		}
	})
}
