package extauthz

import (
	"errors"
	"strings"
	"testing"
)

func TestReadCredentials(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		headers map[string]string
		path    string
		want    credentials
		err     error
	}{
		"nothing":                {nil, "/v1", credentials{}, nil},
		"blank ones are absent":  {map[string]string{"authorization": " ", "x-api-key": " ", "x-goog-api-key": ""}, "/v1?key=&a=b", credentials{inQuery: true}, nil},
		"bearer JWT":             {map[string]string{"authorization": "Bearer a.b.c"}, "/v1", credentials{token: "a.b.c", anything: true}, nil},
		"scheme in any case":     {map[string]string{"authorization": "bEARER  a.b.c "}, "/v1", credentials{token: "a.b.c", anything: true}, nil},
		"bearer key":             {map[string]string{"authorization": "Bearer leaky_x"}, "/v1", credentials{key: "leaky_x", anything: true}, nil},
		"x-api-key":              {map[string]string{"x-api-key": " leaky_x "}, "/v1", credentials{key: "leaky_x", anything: true}, nil},
		"x-goog-api-key":         {map[string]string{"x-goog-api-key": "leaky_x"}, "/v1", credentials{key: "leaky_x", anything: true}, nil},
		"query":                  {nil, "/v1?alt=sse&key=leaky_x", credentials{key: "leaky_x", inQuery: true, anything: true}, nil},
		"query, escaped value":   {nil, "/v1?key=leaky%5Fx", credentials{key: "leaky_x", inQuery: true, anything: true}, nil},
		"query, escaped name":    {nil, "/v1?%6bey=leaky_x", credentials{anything: true}, errMalformed},
		"query, broken escape":   {nil, "/v1?key=%zz", credentials{inQuery: true, anything: true}, errMalformed},
		"query of another name":  {nil, "/v1?monkey=1&keys=2&KEY=3", credentials{}, nil},
		"JWT and key":            {map[string]string{"authorization": "Bearer a.b.c", "x-api-key": "k"}, "/v1", credentials{token: "a.b.c", key: "k", anything: true}, nil},
		"same key everywhere":    {map[string]string{"authorization": "Bearer leaky_x", "x-api-key": "leaky_x,leaky_x", "x-goog-api-key": "leaky_x"}, "/v1?key=leaky_x", credentials{key: "leaky_x", inQuery: true, anything: true}, nil},
		"two keys":               {map[string]string{"x-api-key": "a", "x-goog-api-key": "b"}, "/v1", credentials{key: "a", anything: true}, errSeveral},
		"two keys in one header": {map[string]string{"x-api-key": "a,b"}, "/v1", credentials{key: "a", anything: true}, errSeveral},
		"two keys in the query":  {nil, "/v1?key=a&key=b", credentials{key: "a", inQuery: true, anything: true}, errSeveral},
		"two Authorizations":     {map[string]string{"authorization": "Bearer a,Bearer b"}, "/v1", credentials{anything: true}, errSeveral},
		"basic":                  {map[string]string{"authorization": "Basic YTpi"}, "/v1", credentials{anything: true}, errMalformed},
		"bearer of nothing":      {map[string]string{"authorization": "Bearer"}, "/v1", credentials{anything: true}, errMalformed},
		"bearer of two":          {map[string]string{"authorization": "Bearer a b"}, "/v1", credentials{anything: true}, errMalformed},
	} {
		got, err := readCredentials(call{path: c.path, authorization: c.headers["authorization"], apiKey: c.headers["x-api-key"], googleKey: c.headers["x-goog-api-key"]})
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
		c, err := readCredentials(call{authorization: authorization, apiKey: key, path: path})
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
