package oauth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/singleflight"

	"github.com/leaky-tokens/leaky-tokens/identity/identitydb"
	"github.com/leaky-tokens/leaky-tokens/internal/config"
)

// A client may have the URL of a document for an id, and be what the document says
// (draft-ietf-oauth-client-id-metadata-document). Fetching it is a request of ours to an address of
// somebody else's choice: only to public addresses, without redirects, small, short, few at once, and not
// again for a while, whether it was good or not.
const (
	maxDocument   = 16 << 10 // bytes
	documentTime  = 5 * time.Second
	documentFresh = time.Hour       // a document is not fetched again before
	documentKept  = 24 * time.Hour  // and counts so long where it cannot be fetched
	documentRetry = 1 * time.Minute // one that was no good is not fetched again before
	documentsOnce = 8               // fetches at once
)

// documents bounds the fetches.
type documents struct {
	flight singleflight.Group
	slots  chan struct{}
	failed *lru.Cache[string, time.Time]
}

func newDocuments() *documents {
	failed, err := lru.New[string, time.Time](10_000)
	if err != nil {
		panic(err) // only for a size that is not positive
	}
	return &documents{slots: make(chan struct{}, documentsOnce), failed: failed}
}

// documentURL says whether an id may be a document's: https with a host and a path, nothing that two
// parsers read differently.
func documentURL(id string) bool {
	if len(id) > 500 || checkRedirect(id) != "" {
		return false
	}
	u, err := url.Parse(id)
	return err == nil && u.Scheme == "https" && u.Hostname() != "" && len(u.Path) > 1 && u.RawQuery == "" && !strings.HasSuffix(id, "?")
}

// described is the client that a document describes; errNoClient where there is none.
func (p *Provider) described(ctx context.Context, id string) (identitydb.OauthClient, error) {
	if p.cfg.Registration != config.ClientsDocuments && p.cfg.Registration != config.ClientsOpen || !documentURL(id) {
		return identitydb.OauthClient{}, errNoClient
	}
	c, err := p.db.OAuthClient(ctx, id)
	known := err == nil && c.FetchedAt != nil
	switch {
	case err != nil && !errors.Is(err, pgx.ErrNoRows):
		return c, fmt.Errorf("read client: %w", err)
	case known && time.Since(*c.FetchedAt) < documentFresh:
		return c, nil
	}
	fresh, err := p.fetched(ctx, id, known)
	switch {
	case err == nil:
		return fresh, nil
	case known && time.Since(*c.FetchedAt) < documentKept:
		return c, nil
	case errors.Is(err, errDocument):
		p.log.LogAttrs(ctx, slog.LevelInfo, "a client's document is no good", slog.String("client", id), slog.Any("error", err))
		return identitydb.OauthClient{}, errNoClient
	}
	return identitydb.OauthClient{}, err
}

// errDocument says that a document describes no client, or cannot be had.
var errDocument = errors.New("no client's document")

// fetched is the client by its document as it is now, once for all that ask at the same time.
func (p *Provider) fetched(ctx context.Context, id string, known bool) (identitydb.OauthClient, error) {
	if again, ok := p.documents.failed.Get(id); ok && time.Now().Before(again) {
		return identitydb.OauthClient{}, fmt.Errorf("%w: it was not a minute ago", errDocument)
	}
	lasting := context.WithoutCancel(ctx)
	got, err, _ := p.documents.flight.Do(id, func() (any, error) {
		ctx, cancel := context.WithTimeout(lasting, documentTime)
		defer cancel()
		m, err := p.fetch(ctx, id)
		if err != nil {
			p.documents.failed.Add(id, time.Now().Add(documentRetry))
			return identitydb.OauthClient{}, err
		}
		return p.keepDocument(ctx, id, m, known)
	})
	c, _ := got.(identitydb.OauthClient)
	return c, err
}

func (p *Provider) fetch(ctx context.Context, id string) (*metadataOfClient, error) {
	select {
	case p.documents.slots <- struct{}{}:
		defer func() { <-p.documents.slots }()
	default:
		return nil, fmt.Errorf("%w: too many are fetched at once", errDocument)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, id, http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errDocument, err)
	}
	req.Header.Set("Accept", "application/json")
	resp, err := p.cfg.Documents.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errDocument, err)
	}
	defer resp.Body.Close()
	media, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if resp.StatusCode != http.StatusOK || err != nil || media != "application/json" && !strings.HasSuffix(media, "+json") {
		return nil, fmt.Errorf("%w: status %d, not JSON, or a redirect", errDocument, resp.StatusCode)
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxDocument+1))
	if err != nil || len(text) > maxDocument {
		return nil, fmt.Errorf("%w: longer than %d bytes, or cut", errDocument, maxDocument)
	}
	m := &metadataOfClient{}
	if err := json.Unmarshal(text, m); err != nil {
		return nil, fmt.Errorf("%w: malformed", errDocument)
	}
	if m.ID != id {
		return nil, fmt.Errorf("%w: it names another client_id", errDocument)
	}
	if m.AuthMethod == "" {
		m.AuthMethod = "none" // a document holds no secret
	}
	if m.AuthMethod != "none" {
		return nil, fmt.Errorf("%w: token_endpoint_auth_method must be none", errDocument)
	}
	return m, nil
}

func (p *Provider) keepDocument(ctx context.Context, id string, m *metadataOfClient, known bool) (c identitydb.OauthClient, err error) {
	n, err := m.registration(p.cfg.Schemes)
	if err != nil {
		p.documents.failed.Add(id, time.Now().Add(documentRetry))
		return c, fmt.Errorf("%w: %w", errDocument, err)
	}
	err = pgx.BeginFunc(ctx, p.cfg.Pool, func(tx pgx.Tx) error {
		q := identitydb.New(tx)
		if !known {
			if err := p.roomForStranger(ctx, q); err != nil {
				return err
			}
		}
		c, err = q.OAuthPutDocument(ctx, identitydb.OAuthPutDocumentParams{ID: id, Name: n.Name, RedirectUris: notNil(n.RedirectURIs),
			Origins: originsOf(n.RedirectURIs), GrantTypes: n.GrantTypes, Scopes: n.Scopes, OwnerID: registrarID(), Family: uuid.New()})
		if err != nil {
			return fmt.Errorf("keep document: %w", err)
		}
		return nil
	})
	return c, err
}

// publicClient reaches public addresses alone: where a name leads to is looked at when it is dialled, so
// that no answer of DNS in between counts.
func publicClient() *http.Client {
	dialer := &net.Dialer{Timeout: documentTime, Control: func(_, address string, _ syscall.RawConn) error {
		at, err := netip.ParseAddrPort(address)
		if err != nil || at.Port() != 443 || !publicAddress(at.Addr()) {
			return fmt.Errorf("%w: not a public address at port 443", errDocument)
		}
		return nil
	}}
	return &http.Client{
		Timeout: documentTime,
		Transport: &http.Transport{DialContext: dialer.DialContext, DisableKeepAlives: true, MaxResponseHeaderBytes: 16 << 10,
			TLSHandshakeTimeout: documentTime},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// innerNetworks are those that are not on the internet, or lead to such from it (IANA's registries of
// special-purpose addresses), beside those that package netip knows.
func innerNetworks() []netip.Prefix {
	var all []netip.Prefix
	for _, text := range []string{"0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15",
		"198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4", "::/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32",
		"2002::/16", "3fff::/20", "5f00::/16", "fec0::/10"} {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

func publicAddress(at netip.Addr) bool {
	at = at.Unmap().WithZone("")
	if !at.IsGlobalUnicast() || at.IsPrivate() || at.IsLoopback() {
		return false
	}
	for _, inner := range innerNetworks() {
		if inner.Contains(at) {
			return false
		}
	}
	return true
}
