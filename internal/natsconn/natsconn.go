// Package natsconn is how every service of ours is connected to NATS, which carries what
// they tell each other beside the request path: usage events, revocations, balances. A
// connection is made at once or as soon as the server is there, is never given up, also
// where the server refuses the password for a time, and says in the log when it is lost
// and back.
package natsconn

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/leaky-tokens/leaky-tokens/internal/retry"
)

const (
	// reconnectWait is short, since revocations and balances must be fresh within a second;
	// the jitter keeps replicas from coming back in step.
	reconnectWait   = 250 * time.Millisecond
	reconnectJitter = 50 * time.Millisecond
	dialTimeout     = 3 * time.Second
)

// lostLink is said while there is none.
const lostLink = "link to NATS lost"

// Inbox is the prefix of the subjects on which a service gets its answers: one of its own, since a
// part that may hear those of others would hear what they ask.
func Inbox(service string) string { return "_INBOX." + service }

// Config is what Connect needs.
type Config struct {
	URL  string // nats://[user:password@]host:port
	Name string // of the service, for NATS's own lists
	Log  *slog.Logger
	// Unbuffered publishing fails at once while the link is down, instead of waiting in the
	// client: for who keeps better what is not published.
	Unbuffered bool
}

// Connect connects now or as soon as NATS answers; the error is a mistake in cfg. Options
// come after ours: a handler of their own replaces our logging of that event.
func Connect(cfg Config, options ...nats.Option) (*nats.Conn, error) {
	if cfg.URL == "" {
		return nil, errors.New("connect to nats: no URL; set LEAKY_NATS_URL or stores.nats")
	}
	said := retry.NewTroubles(cfg.Log)
	lost := func(_ *nats.Conn, err error) {
		if err != nil { // else it is closed by us
			said.Warn(context.Background(), lostLink, err)
		}
	}
	back := func(*nats.Conn) { said.Over(context.Background(), lostLink, "link to NATS is back") }
	all := []nats.Option{
		nats.Name("leaky-" + cfg.Name), nats.CustomInboxPrefix(Inbox(cfg.Name)), nats.RetryOnFailedConnect(true),
		nats.MaxReconnects(-1), nats.IgnoreAuthErrorAbort(), nats.Timeout(dialTimeout),
		nats.ReconnectWait(reconnectWait), nats.ReconnectJitter(reconnectJitter, reconnectJitter),
		nats.DisconnectErrHandler(lost), nats.ConnectHandler(back), nats.ReconnectHandler(back),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			said.Warn(context.Background(), "link to NATS reports an error", err)
		}),
	}
	if cfg.Unbuffered {
		all = append(all, nats.ReconnectBufSize(-1))
	}
	conn, err := nats.Connect(cfg.URL, append(all, options...)...)
	if err != nil {
		return nil, fmt.Errorf("connect to nats: %w", err)
	}
	if !conn.IsConnected() {
		said.Warn(context.Background(), lostLink, errors.New("NATS does not answer yet"))
		if conn.IsConnected() { // in between, which back did not know of
			back(conn)
		}
	}
	return conn, nil
}
