package config

import (
	"net/url"
	"regexp"
	"strings"
	"time"
)

// AnyOrigin in gateway.cors.origins is every web page.
const AnyOrigin = "*"

// CORS says which web pages of other origins may call models and the API (Fetch standard, section
// 3.3), with a credential that they have themselves. Sign-in has rules of its own.
type CORS struct {
	Origins []string      `yaml:"origins"` // https://app.example; or * alone; default none
	Headers []string      `yaml:"headers"` // request headers that they may send, default authorization and *: every other
	MaxAge  time.Duration `yaml:"max_age"` // how long a browser remembers the permission, default 10m
}

func defaultCORS() CORS {
	return CORS{Headers: []string{"authorization", "*"}, MaxAge: 10 * time.Minute}
}

// corsHeader is a header's name (RFC 9110, section 5.1), without what would end a list of them.
var corsHeader = regexp.MustCompile(`^[a-z0-9!#$%&'*+.^_|~-]{1,64}$`)

func (c CORS) validate(v *validator) {
	for _, origin := range c.Origins {
		u, err := url.Parse(origin)
		switch {
		case origin == AnyOrigin && len(c.Origins) > 1:
			v.fail("gateway.cors.origins", "* stands alone: it is every origin")
		case origin == AnyOrigin:
		case err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.Scheme+"://"+strings.ToLower(u.Host) != origin:
			v.fail("gateway.cors.origins", "%q: write an origin as browsers do, such as https://app.example, without a path and in lower case", origin)
		}
	}
	if len(c.Origins) > 1000 {
		v.fail("gateway.cors.origins", "more than 1000")
	}
	for _, name := range c.Headers {
		if name != "*" && !corsHeader.MatchString(name) {
			v.fail("gateway.cors.headers", "%q: write a header's name in lower case, or * for every one but authorization", name)
		}
	}
	between(v, "gateway.cors.max_age", c.MaxAge, 0, 24*time.Hour)
}
