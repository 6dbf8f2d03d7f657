package extauthz

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/leaky-tokens/leaky-tokens/internal/usage"
)

// flushTimeout is longer than NATS takes to be found dead by missing pings.
const flushTimeout = 10 * time.Second

// forgetter drops what it remembers.
type forgetter interface {
	forgetKey(hash string) // SHA-256 in hex
	forgetUser(id string)  // all credentials of a user
	forgetAll()            // whatever is remembered
}

// revocations follows what identity announces on plain NATS. A message may be missed
// while the link is down, so everything is forgotten when it comes back; how long a
// credential is trusted without the link is bounded by its time to live.
type revocations struct {
	url       string // empty: nobody announces
	log       *slog.Logger
	forget    forgetter
	connected prometheus.Gauge
}

func (r *revocations) run(ctx context.Context) error {
	if r.url == "" {
		r.log.Warn("no NATS address: revocations take effect when caches end")
		<-ctx.Done()
		return nil
	}
	// The link counts as up once the server has the subscriptions: what was cached before
	// that could miss its revocation.
	subscribed := make(chan struct{})
	up := func(conn *nats.Conn) {
		select {
		case <-subscribed:
		case <-ctx.Done():
			return
		}
		if err := conn.FlushTimeout(flushTimeout); err != nil {
			return // the link is gone again: its return calls this anew
		}
		r.forget.forgetAll()
		r.connected.Set(1)
	}
	conn, err := nats.Connect(r.url, nats.Name("extauthz"), nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1),
		nats.ReconnectWait(250*time.Millisecond), nats.ReconnectJitter(50*time.Millisecond, 50*time.Millisecond),
		nats.PingInterval(2*time.Second), nats.MaxPingsOutstanding(2),
		nats.ConnectHandler(up), nats.ReconnectHandler(up),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			r.connected.Set(0)
			if ctx.Err() == nil {
				r.log.Warn("link to NATS lost, revocations wait for caches to end", slog.Any("error", err))
			}
		}))
	if err != nil {
		return fmt.Errorf("connect nats: %w", err)
	}
	defer conn.Close()
	for subject, drop := range map[string]func(string){usage.SubjectRevokedKey: r.forget.forgetKey, usage.SubjectRevokedUser: r.forget.forgetUser} {
		if _, err := conn.Subscribe(subject, func(m *nats.Msg) { drop(string(m.Data)) }); err != nil {
			return fmt.Errorf("subscribe %s: %w", subject, err)
		}
	}
	close(subscribed)
	<-ctx.Done()
	return nil
}
