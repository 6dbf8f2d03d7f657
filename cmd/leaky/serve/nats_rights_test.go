package serve

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/leaky-tokens/leaky-tokens/analytics"
	"github.com/leaky-tokens/leaky-tokens/analytics/webhook"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/balance"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/ledgerbook"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/membership"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/notice"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/revocation"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/discovery"
	"github.com/leaky-tokens/leaky-tokens/internal/local/natsd"
	"github.com/leaky-tokens/leaky-tokens/internal/natsconn"
	"github.com/leaky-tokens/leaky-tokens/internal/reconcile"
	"github.com/leaky-tokens/leaky-tokens/internal/storeuser"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
	"github.com/leaky-tokens/leaky-tokens/ratelimit"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/ledger"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/migrations"
	"github.com/leaky-tokens/leaky-tokens/xds/history"
)

// bus is a NATS with the users of all parts.
type bus struct {
	t   *testing.T
	url string // of the owner
}

func newBus(t *testing.T) bus {
	t.Helper()
	users, err := natsUsers(url.UserPassword("leaky", "owners-secret"))
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	server, err := natsd.New(natsd.Config{Listen: "127.0.0.1:0", Dir: t.TempDir(), Sync: time.Minute, Users: users, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("nats: %v", err)
		}
	})
	select {
	case <-server.Ready():
	case <-time.After(30 * time.Second):
		t.Fatal("nats is not ready")
	}
	owner := owned(server.URL(), url.UserPassword("leaky", "owners-secret"))
	if err := MakeStreams(t.Context(), owner); err != nil {
		t.Fatal(err)
	}
	return bus{t, owner}
}

// as connects as a part does. refused are the violations that it was told of.
func (b bus) as(part string) (conn *nats.Conn, refused func() []error) {
	b.t.Helper()
	address, err := storeuser.URL(b.url, topology.NATS, part)
	if err != nil {
		b.t.Fatal(err)
	}
	var mu sync.Mutex
	var told []error
	conn, err = natsconn.Connect(natsconn.Config{URL: address, Name: part, Log: slog.New(slog.DiscardHandler)},
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, err)
		}))
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(conn.Close)
	testenv.Eventually(b.t, part+" is connected", conn.IsConnected)
	return conn, func() []error {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(told)
	}
}

// TestNoPartUsesTheSubjectsOfAnother: each does what another is there for, and is refused.
func TestNoPartUsesTheSubjectsOfAnother(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	const purge = "$JS.API.STREAM.PURGE."
	usageOut, all := usage.Subject("openai"), slices.Sorted(slices.Values([]string{topology.XDS, topology.Identity, topology.ExtAuthz,
		topology.RateLimit, topology.TokenSvc, topology.Analytics, topology.Meter, topology.StubOpenAI}))
	for subject, allowed := range map[string][]string{
		usageOut: {topology.Meter, topology.RateLimit, topology.TokenSvc}, usage.SubjectDead: {topology.Analytics, topology.TokenSvc},
		"leaky.saga.v1.X": {topology.TokenSvc}, balance.Subject("openai"): {topology.TokenSvc}, balance.SubjectAsk: {topology.RateLimit},
		membership.Subject: {topology.Analytics, topology.TokenSvc}, revocation.Subject: {topology.Identity},
		revocation.SubjectHeartbeat: {topology.Identity}, history.Subject: {topology.XDS}, "$KV." + history.Bucket + ".version.1": {topology.XDS},
		purge + usage.Stream: nil, "$JS.API.STREAM.DELETE." + usage.Stream: nil, "$JS.API.STREAM.UPDATE." + usage.Stream: nil,
		"$JS.API.CONSUMER.DELETE." + usage.Stream + "." + ledger.Durable:      nil,
		"$JS.ACK." + usage.Stream + "." + ledger.Durable + ".1.1.1.1.1":       {topology.TokenSvc},
		"$JS.API.CONSUMER.MSG.NEXT." + usage.Stream + "." + analytics.Durable: {topology.Analytics},
		"$JS.API.CONSUMER.MSG.NEXT." + usage.Stream + "." + ratelimit.Durable: {topology.RateLimit},
		"$JS.API.CONSUMER.CREATE." + usage.Stream + ".spy":                    {topology.Analytics, topology.TokenSvc},
		"$JS.API.CONSUMER.CREATE." + usage.Stream + "." + ledger.Durable:      {topology.TokenSvc},
		"$JS.API.STREAM.UPDATE." + notice.Stream:                              nil, "leaky.notice.v1.x": {topology.Analytics},
		"leaky.rpc.v1.ledger.entries":                            {topology.Analytics},
		"$KV." + discovery.Bucket + ".stub-openai.a.stub-openai": {topology.StubOpenAI, topology.XDS},
		"$KV." + discovery.Bucket + ".xds.a.xds":                 {topology.XDS}, discovery.SubjectLeave(topology.Identity): {topology.Identity},
		"$JS.API.STREAM.CREATE.KV_" + discovery.Bucket: {topology.XDS}, "$JS.API.STREAM.PURGE.KV_" + discovery.Bucket: nil,
		"_INBOX." + topology.Identity + ".guess": nil, "anything": nil, "$SYS.REQ.SERVER.PING": nil,
	} {
		for _, part := range all {
			conn, refused := b.as(part)
			if err := conn.Publish(subject, nil); err != nil {
				t.Fatal(err)
			}
			if want := !slices.Contains(allowed, part); want {
				testenv.Eventually(t, part+" is refused "+subject, func() bool { return len(refused()) > 0 })
				if !errors.Is(refused()[0], nats.ErrPermissionViolation) {
					t.Errorf("%s publishes %s: want a violation, got %v", part, subject, refused()[0])
				}
			} else if err := conn.Flush(); err != nil || len(refused()) > 0 {
				t.Errorf("%s publishes %s: want it allowed, got %v, %v", part, subject, err, refused())
			}
			conn.Close()
		}
	}
}

// TestNoPartHearsAnother: what a part may not hear.
func TestNoPartHearsAnother(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	for _, part := range []string{topology.XDS, topology.Identity, topology.ExtAuthz, topology.RateLimit, topology.TokenSvc,
		topology.Analytics, topology.Meter} {
		for _, subject := range []string{">", "_INBOX.>", "leaky.>", "leaky.usage.>", "$SYS.>", "$JS.>", "_INBOX.other.>"} {
			conn, refused := b.as(part)
			if _, err := conn.SubscribeSync(subject); err != nil {
				t.Fatal(err)
			}
			testenv.Eventually(t, part+" may not hear "+subject, func() bool { return len(refused()) > 0 })
			conn.Close()
		}
	}
}

// TestPartsCanDoTheirWork runs the clients of the parts as their users: nothing of it is refused.
func TestPartsCanDoTheirWork(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	ctx, log := t.Context(), slog.New(slog.DiscardHandler)
	work := map[string]func(*nats.Conn, jetstream.JetStream) error{
		topology.Meter: func(conn *nats.Conn, _ jetstream.JetStream) error {
			p, err := usage.NewPublisher(conn, slog.New(slog.DiscardHandler))
			if err != nil {
				return err
			}
			id := uuid.NewString()
			message, err := usage.MessageOf(usage.Event{RequestID: id, Timestamp: time.Now(), Account: "user:" + id, Provider: "openai"},
				"/meter", "", "")
			if err != nil {
				return err
			}
			if _, err := p.Publish(ctx, []usage.Message{message}); err != nil {
				return err
			}
			_, _, err = p.Room(ctx)
			return err
		},
		topology.Analytics: func(conn *nats.Conn, js jetstream.JetStream) error {
			if err := analyse(b, conn, js); err != nil {
				return err
			}
			c, err := usage.NewConsumer(usage.ConsumerConfig{JetStream: js, Durable: analytics.Durable, Description: "x", Linger: time.Millisecond,
				Outstanding: 1, Handler: storing{}, DeadLettered: func() {}, Log: log})
			if err != nil {
				return err
			}
			return until(t, "the consumer has read everything", c.Run, func() bool {
				lag, err := c.Lag(ctx)
				return err == nil && lag == 0
			})
		},
		topology.TokenSvc: func(_ *nats.Conn, js jetstream.JetStream) error {
			db := testenv.Postgres(t)
			if err := migrations.Up(ctx, db); err != nil {
				return err
			}
			c, err := ledger.NewConsumer(ledger.ConsumerConfig{JetStream: js, DB: db, Metrics: prometheus.NewRegistry(), Log: log})
			if err != nil {
				return err
			}
			return until(t, "the ledger has caught up", c.Run, func() bool { return c.CatchUp(shortly(t)) == nil })
		},
		topology.RateLimit: func(conn *nats.Conn, js jetstream.JetStream) error { return follow(b, conn, js) },
		topology.XDS: func(conn *nats.Conn, _ jetstream.JetStream) error {
			h, err := history.Open(ctx, conn)
			if err != nil {
				return err
			}
			if _, _, err := h.Record(ctx, history.Version{Hash: "abc", State: history.Taken}, history.Files{}); err != nil {
				return err
			}
			_, err = h.List(ctx)
			return err
		},
		topology.Identity: func(conn *nats.Conn, _ jetstream.JetStream) error {
			if _, err := membership.Serve(ctx, conn, func(context.Context, uuid.UUID, uuid.UUID) (membership.Answer, error) {
				return membership.Answer{Member: true}, nil
			}); err != nil {
				return err
			}
			if err := conn.Flush(); err != nil {
				return err
			}
			asks, refused := b.as(topology.TokenSvc)
			answer, err := membership.NewClient(asks).Ask(ctx, uuid.NewString(), uuid.NewString())
			if err == nil && (!answer.Member || len(refused()) > 0) {
				err = errors.Join(append(refused(), errors.New("not answered as a member"))...)
			}
			return err
		},
	}
	for _, part := range []string{topology.Meter, topology.Analytics, topology.TokenSvc, topology.RateLimit, topology.XDS, topology.Identity} {
		conn, refused := b.as(part)
		js, err := jetstream.New(conn)
		if err == nil {
			err = work[part](conn, js)
		}
		if err := errors.Join(append(refused(), err)...); err != nil {
			t.Errorf("%s: %v", part, err)
		}
	}
}

// analyse is what analytics does beside its consumers: it compares books, and tells and delivers.
func analyse(b bus, conn *nats.Conn, js jetstream.JetStream) error {
	ctx, now := b.t.Context(), time.Now()
	asked, refused := b.as(topology.TokenSvc)
	serving, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- ledgerbook.Serve(serving, asked, emptyBook{}) }()
	ledger := ledgerbook.NewClient(conn)
	testenv.Eventually(b.t, "the ledger answers", func() bool {
		_, err := ledger.Pools(ctx, []ledgerbook.Key{{}})
		return err == nil
	})
	r, err := reconcile.Run(ctx, reconcile.Sources{Stream: js, Ledger: ledger, Most: 9}, now.Add(-time.Hour), now.Add(time.Hour), 0)
	stop()
	if err := errors.Join(append(refused(), err, <-ended)...); err != nil {
		return err
	}
	for _, unread := range r.Unread {
		if !strings.Contains(unread, "not configured") {
			return errors.New(unread)
		}
	}
	if r.Calls != 1 {
		return fmt.Errorf("want the meter's event in the stream, got %d calls", r.Calls)
	}
	for _, want := range []bool{true, false} {
		if told, err := notice.Publish(ctx, js, notice.New(notice.KindAnomaly, now, notice.Anomaly{}, "x")); err != nil || told != want {
			return fmt.Errorf("tell a notice: want %t, got %t, %w", want, told, err)
		}
	}
	return deliver(b, js)
}

// deliver has a notice come to an endpoint. One that is new hears of what comes from then on, so there are
// notices until it does.
func deliver(b bus, js jetstream.JetStream) error {
	var heard atomic.Bool
	endpoint := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { heard.Store(true) }))
	b.t.Cleanup(endpoint.Close)
	sender, err := webhook.New(webhook.Config{Endpoint: webhook.Endpoint{URL: endpoint.URL, Secret: []byte("x")}, JetStream: js,
		Metrics: webhook.NewMetrics(prometheus.NewRegistry()), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(b.t.Context())
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- sender.Run(ctx) }()
	testenv.Eventually(b.t, "a notice is delivered", func() bool {
		_, err := notice.Publish(ctx, js, notice.New(notice.KindAnomaly, time.Now(), notice.Anomaly{}, uuid.NewString()))
		return err == nil && heard.Load()
	})
	stop()
	return <-ended
}

// follow has ratelimit hear of a change of a pool that the token service tells.
func follow(b bus, conn *nats.Conn, js jetstream.JetStream) error {
	ledger, refused := b.as(topology.TokenSvc)
	change, err := json.Marshal(balance.State{Account: "user:ann", Provider: "openai", Present: true, Version: 1, Credits: 1, At: time.Now()})
	if err != nil {
		return err
	}
	tells, err := jetstream.New(ledger)
	if err == nil {
		_, err = tells.Publish(b.t.Context(), balance.Subject("openai"), change)
	}
	if err := errors.Join(append(refused(), err)...); err != nil {
		return err
	}
	ctx, stop := context.WithCancel(b.t.Context())
	defer stop()
	var heard atomic.Bool
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		ratelimit.NewNATSBalances(conn, js, 0, slog.New(slog.DiscardHandler)).Follow(ctx, func(context.Context, balance.State) error {
			heard.Store(true)
			return nil
		})
	}()
	testenv.Eventually(b.t, "the change is heard", heard.Load)
	stop()
	<-ended
	return nil
}

// emptyBook is a ledger without entries.
type emptyBook struct{}

func (emptyBook) Entries(context.Context, ledgerbook.Span, int) ([]ledgerbook.Entry, error) {
	return nil, nil
}
func (emptyBook) Pools(context.Context, []ledgerbook.Key) ([]ledgerbook.Pool, error) { return nil, nil }

// storing takes every batch.
type storing struct{}

func (storing) Store(context.Context, []usage.Delivery) (map[int]error, error) { return nil, nil }

// until runs what works until it is ended, and ends it when it has done something.
func until(t *testing.T, what string, run func(context.Context) error, done func() bool) error {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx) }()
	testenv.Eventually(t, what, done)
	cancel()
	return <-ended
}

// shortly ends soon: for one look at what may not have come yet.
func shortly(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	t.Cleanup(cancel)
	return ctx
}
