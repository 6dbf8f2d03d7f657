// Package console is beside the request path: pages for people who look at what the gateway did, at
// /console of the gateway and at a port of its own. It has no rights: it signs its users in by the
// product's own OAuth2 with PKCE, keeps their tokens in a sealed cookie and nowhere else, and calls
// the control API with them through package client.
//
// Pages are html/template, so that what callers named is escaped. Nothing is loaded from another
// origin and nothing inline runs. htmx (parts that refresh themselves) and uPlot (charts) come with
// the binary.
package console

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/leaky-tokens/leaky-tokens/client"
	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
	"github.com/leaky-tokens/leaky-tokens/internal/retry"
)

//go:embed static templates
var files embed.FS

// path is where everything of the console is.
const path = config.ConsolePath

// ControlPlane is what xds tells everybody who reaches its port. The console shows it to an ADMIN alone.
type ControlPlane interface {
	// Get decodes the JSON at a path, such as /v1/config, into out.
	Get(ctx context.Context, path string, out any) error
}

// Config is what New needs.
type Config struct {
	Gateway   string       // http(s)://host[:port] where the control API is called
	PublicURL string       // where browsers find the gateway, and so the page that they sign in at
	Key       []byte       // 32 bytes, the same for all replicas: seals cookies
	Providers []string     // names of the configuration
	Model     string       // for the example call, empty: none
	XDS       ControlPlane // nil: the control plane is not shown
	HTTP      *http.Client // for calls of the gateway; nil: one with a timeout of 12 s
	Log       *slog.Logger
}

// callTimeout is below what the gateway gives a page.
const callTimeout = 12 * time.Second

// Console serves the pages. Handler makes one handler for each origin.
type Console struct {
	cfg       Config
	api       *client.Client // as nobody
	seal      *sealer
	pages     *pages
	refreshes singleflight.Group
	streams   chan struct{} // one for each stream that is open
	said      *retry.Troubles
}

// New checks the configuration and starts nothing.
func New(cfg Config) (*Console, error) {
	if cfg.Log == nil || cfg.PublicURL == "" {
		return nil, errors.New("make console: Log and PublicURL are needed")
	}
	if cfg.HTTP == nil {
		cfg.HTTP = &http.Client{Timeout: callTimeout}
	}
	cfg.Providers = slices.Sorted(slices.Values(cfg.Providers))
	api, err := client.New(client.Config{Gateway: cfg.Gateway, HTTP: cfg.HTTP, Attempts: 2})
	if err != nil {
		return nil, fmt.Errorf("make console: %w", err)
	}
	seal, err := newSealer(cfg.Key)
	if err != nil {
		return nil, err
	}
	pages, err := newPages()
	if err != nil {
		return nil, err
	}
	return &Console{cfg: cfg, api: api, seal: seal, pages: pages, streams: make(chan struct{}, mostStreams),
		said: retry.NewTroubles(cfg.Log)}, nil
}

// site is the console at one origin: cookies and addresses are that origin's.
type site struct {
	*Console
	origin string // scheme://host[:port]
}

// Handler serves the console to browsers that know it by an origin, which must be one that identity
// sends answers to (config.ConsoleOrigins).
func (c *Console) Handler(origin string) (*httpapi.Mux, error) {
	u, err := url.Parse(origin)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Path != "" {
		return nil, fmt.Errorf("origin %q of the console: write http(s)://host[:port]", origin)
	}
	s := &site{Console: c, origin: origin}
	mux := &httpapi.Mux{Unmatched: s.unmatched}
	toFirst := http.RedirectHandler(path+"/", http.StatusSeeOther)
	mux.Handle("GET /{$}", toFirst)
	mux.Handle("GET "+path, toFirst)
	mux.HandleFunc("GET "+path+"/static/{name}", s.pages.serveStatic)
	mux.Handle("GET "+path+"/login", s.open(s.login))
	mux.Handle("GET "+path+"/callback", s.open(s.callback))
	mux.Handle("POST "+path+"/logout", s.open(s.logout))
	for pattern, h := range s.routes() {
		mux.Handle(strings.Replace(pattern, " ", " "+path, 1), s.signedIn(h))
	}
	return mux, nil
}

// routes are the pages of who is signed in, without the console's path.
func (s *site) routes() map[string]pageFunc {
	return map[string]pageFunc{
		"GET /{$}":                     s.overview,
		"GET /live":                    s.live,
		"GET /live/events":             s.liveEvents,
		"GET /keys":                    s.keys,
		"POST /keys":                   s.createKey,
		"POST /keys/revoke":            s.revokeKey,
		"GET /requests":                s.requests,
		"GET /requests/{id}":           s.request,
		"GET /usage":                   s.usage,
		"GET /usage.csv":               s.export,
		"GET /balance":                 s.balance,
		"POST /balance/buy":            s.buy,
		"GET /balance/purchases/{id}":  s.purchase,
		"GET /limits":                  s.limits,
		"GET /orgs":                    s.orgs,
		"POST /orgs":                   s.createOrg,
		"GET /orgs/{id}":               s.org,
		"POST /orgs/{id}/members":      s.setMember,
		"POST /orgs/{id}/remove":       s.removeMember,
		"POST /orgs/{id}/rename":       s.renameOrg,
		"POST /orgs/{id}/teams":        s.createTeam,
		"POST /orgs/{id}/teams/delete": s.deleteTeam,
		"POST /orgs/{id}/{answer}":     s.answerInvitation,
		"GET /system":                  s.system,
	}
}

// unmatched shows a page for what is not there below the console's path.
func (s *site) unmatched(w http.ResponseWriter, r *http.Request, err *httpapi.Error) bool {
	if r.URL.Path != path && !strings.HasPrefix(r.URL.Path, path+"/") {
		return false
	}
	for name, values := range err.Header {
		w.Header()[name] = values
	}
	s.fail(w, r, nil, &shown{status: err.Status, title: "Not here", text: "There is no such page."})
	return true
}
