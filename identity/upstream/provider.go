package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"
	"unicode"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
	"golang.org/x/sync/singleflight"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
)

const (
	metadataFresh = time.Hour       // metadata is not fetched again before
	metadataRetry = 5 * time.Second // where it could not be had, not before
	maxDetail     = 300             // bytes of what a log says of a failure
)

// provider is one of the set.
type provider struct {
	cfg    config.AuthUpstream
	oauth  oauth2.Config // without its endpoints
	client *http.Client
	flight singleflight.Group
	found  atomic.Pointer[found] // metadata, nil before it was fetched
	failed atomic.Pointer[failure]
}

// found is a provider's metadata. Its keys are fetched when they are needed, and again when a token is
// signed by one that is not among them.
type found struct {
	at       time.Time
	oidc     *oidc.Provider
	endpoint oauth2.Endpoint
}

type failure struct {
	at  time.Time
	err error
}

// context makes go-oidc and oauth2 use our client.
func (p *provider) context(ctx context.Context) context.Context {
	return oidc.ClientContext(ctx, p.client)
}

func (p *provider) at(f *found) *oauth2.Config {
	c := p.oauth
	c.Endpoint = f.endpoint
	return &c
}

// discovered is the provider's metadata (OpenID Connect Discovery), fetched once for all that wait for
// it. What was good once counts on while the provider does not answer.
func (p *provider) discovered(ctx context.Context) (*found, error) {
	old := p.found.Load()
	if old != nil && time.Since(old.at) < metadataFresh {
		return old, nil
	}
	if f := p.failed.Load(); f != nil && time.Since(f.at) < metadataRetry {
		if old != nil {
			return old, nil
		}
		return nil, f.err
	}
	lasting := context.WithoutCancel(ctx)
	got, err, _ := p.flight.Do("", func() (any, error) {
		ctx, cancel := context.WithTimeout(lasting, askTime)
		defer cancel()
		f, err := p.discover(ctx)
		if err != nil {
			p.failed.Store(&failure{at: time.Now(), err: err})
			return nil, err
		}
		p.found.Store(f)
		return f, nil
	})
	if err == nil {
		return got.(*found), nil //nolint:forcetypeassert // what the function above gives
	}
	if old != nil {
		return old, nil
	}
	return nil, err
}

func (p *provider) discover(ctx context.Context) (*found, error) {
	o, err := oidc.NewProvider(p.context(ctx), p.cfg.Issuer)
	if err != nil {
		return nil, p.unanswered("its metadata cannot be had", err)
	}
	var more struct {
		Keys    string   `json:"jwks_uri"`
		Methods []string `json:"token_endpoint_auth_methods_supported"`
	}
	if err := o.Claims(&more); err != nil {
		return nil, p.bad("its metadata is malformed")
	}
	e := o.Endpoint()
	for name, address := range map[string]string{"authorization_endpoint": e.AuthURL, "token_endpoint": e.TokenURL, "jwks_uri": more.Keys} {
		if !safe(address) {
			return nil, p.bad("its metadata has a " + name + " that is not https")
		}
	}
	if user := o.UserInfoEndpoint(); user != "" && !safe(user) {
		return nil, p.bad("its metadata has a userinfo_endpoint that is not https")
	}
	// Without a word Basic is meant (OpenID Connect Discovery, 3). Trying one after the other, as the
	// library would, may cost the code.
	e.AuthStyle = oauth2.AuthStyleInHeader
	if p.oauth.ClientSecret == "" || len(more.Methods) > 0 && !slices.Contains(more.Methods, "client_secret_basic") {
		e.AuthStyle = oauth2.AuthStyleInParams
	}
	return &found{at: time.Now(), oidc: o, endpoint: e}, nil
}

// safe says whether what is sent to an address stays between it and us: https, or on this machine.
func safe(address string) bool {
	u, err := url.Parse(address)
	if err != nil || u.Hostname() == "" || u.User != nil {
		return false
	}
	return u.Scheme == "https" || u.Scheme == "http" && config.Loopback(u.Hostname())
}

// bad is what a provider says that nobody can be signed in by.
func (p *provider) bad(detail string) *Refused {
	return &Refused{Message: p.cfg.Name + " answered in a way that cannot be trusted. Try again, or tell your administrator.",
		Detail: p.cfg.Name + ": " + detail}
}

// unanswered says why a request came to nothing, in words that are short and hold no secret: of an error
// answer the code, of others what the library says, which never has what was sent.
func (p *provider) unanswered(what string, err error) *Refused {
	told, detail := p.bad(what), err.Error()
	if answer, ok := errors.AsType[*oauth2.RetrieveError](err); ok {
		detail = fmt.Sprintf("status %d", answer.Response.StatusCode)
		if answer.ErrorCode != "" {
			detail = answer.ErrorCode
		}
	}
	if _, away := errors.AsType[net.Error](err); away || errors.Is(err, context.DeadlineExceeded) {
		told.Message = p.cfg.Name + " does not answer at the moment. Try again."
	}
	told.Detail += ": " + printed(detail)
	return told
}

// printed is a text as a log may have it.
func printed(text string) string {
	text = strings.Map(func(c rune) rune {
		if unicode.IsControl(c) || c == unicode.ReplacementChar {
			return ' '
		}
		return c
	}, text)
	if len(text) > maxDetail {
		text = strings.ToValidUTF8(text[:maxDetail], "") + "..."
	}
	return text
}

// boundedClient follows no redirect, as metadata and tokens are where they are said to be, and reads no
// answer without end. The operator named the issuer, which may be inside: any address will do.
func boundedClient() *http.Client {
	return &http.Client{
		Timeout: askTime,
		Transport: bounded{&http.Transport{DialContext: (&net.Dialer{Timeout: askTime}).DialContext, TLSHandshakeTimeout: askTime,
			Proxy: http.ProxyFromEnvironment, MaxResponseHeaderBytes: 64 << 10, MaxIdleConnsPerHost: 4, IdleConnTimeout: time.Minute,
			ForceAttemptHTTP2: true}},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// bounded cuts answers: go-oidc reads them whole.
type bounded struct{ next http.RoundTripper }

var errLong = errors.New("the answer is too long")

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := b.next.RoundTrip(r)
	if err == nil {
		resp.Body = &cutBody{ReadCloser: resp.Body, left: maxAnswer}
	}
	return resp, err
}

type cutBody struct {
	io.ReadCloser
	left int64
}

func (c *cutBody) Read(b []byte) (int, error) {
	if c.left <= 0 {
		return 0, errLong
	}
	n, err := c.ReadCloser.Read(b[:min(int64(len(b)), c.left)])
	c.left -= int64(n)
	return n, err
}
