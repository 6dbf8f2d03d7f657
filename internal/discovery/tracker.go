package discovery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/leaky-tokens/leaky-tokens/internal/retry"
)

const (
	lookEvery = 200 * time.Millisecond // at leases that run out
	kept      = 5 * time.Minute        // a registration in the bucket without a word; longer than any lease
	readTime  = 5 * time.Second        // one reading of the bucket may take
)

// TrackerConfig is what a Tracker needs.
type TrackerConfig struct {
	Conn *nats.Conn
	Site string // its own
	// Far says that processes of other machines count too: they must show a certificate.
	Far bool
	Log *slog.Logger
}

// Tracker follows which processes there are. It hears every registration as it is published, and
// reads the bucket for those that were before.
type Tracker struct {
	c TrackerConfig
	book
}

// NewTracker starts nothing.
func NewTracker(c TrackerConfig) *Tracker { return &Tracker{c: c, book: newBook(c)} }

// Run follows the bucket until ctx ends. While NATS is away no process is taken for lost.
func (t *Tracker) Run(ctx context.Context) error {
	registered, err := t.c.Conn.Subscribe(Subjects, t.heard)
	if err != nil {
		return fmt.Errorf("follow the registry: %w", err)
	}
	defer func() { _ = registered.Unsubscribe() }() // the connection may be gone
	leaving, err := t.c.Conn.Subscribe(SubjectLeave("*"), t.asked)
	if err != nil {
		return fmt.Errorf("follow the registry: %w", err)
	}
	defer func() { _ = leaving.Unsubscribe() }()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		t.keepRead(ctx)
		return nil
	})
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		t.look(time.Now(), t.c.Conn.IsConnected())
		select {
		case <-ctx.Done():
			return g.Wait()
		case <-tick.C:
		}
	}
}

// keepRead reads the bucket at each connection: what was said meanwhile was not heard, and the bucket
// of a server that started anew is another.
func (t *Tracker) keepRead(ctx context.Context) {
	const unread = "the registry is not read yet"
	said := retry.NewTroubles(t.c.Log)
	connected := t.c.Conn.StatusChanged(nats.CONNECTED)
	for ctx.Err() == nil {
		policy := retry.Policy{First: lookEvery, Most: readTime}
		err := policy.Do(ctx, t.read, func(_ int, err error) { // it ends without an error, or with ctx
			if ctx.Err() == nil {
				said.Warn(ctx, unread, err)
			}
		})
		if err == nil {
			said.Over(ctx, unread, "the registry is read")
		}
		select {
		case <-ctx.Done():
		case <-connected:
		}
	}
}

// read makes the bucket if it is not there and takes what is in it. It is kept in memory: who serves
// says so again within a second.
func (t *Tracker) read(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readTime)
	defer cancel()
	js, err := jetstream.New(t.c.Conn)
	if err != nil {
		return err
	}
	kv, err := js.KeyValue(ctx, Bucket)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		kv, err = js.CreateOrUpdateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: Bucket, Storage: jetstream.MemoryStorage, TTL: kept,
			Description: "processes of services, and where they are"})
	}
	if err != nil {
		return fmt.Errorf("open the registry: %w", err)
	}
	watch, err := kv.WatchAll(ctx, jetstream.IgnoreDeletes())
	if err != nil {
		return fmt.Errorf("read the registry: %w", err)
	}
	defer func() { _ = watch.Stop() }()
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("read the registry: %w", context.Cause(ctx))
		case entry, open := <-watch.Updates():
			if !open {
				return errors.New("read the registry: the link to NATS was lost")
			}
			if entry == nil {
				return nil
			}
			t.take(time.Now(), entry.Key(), entry.Value(), true)
		}
	}
}

// heard takes one message of the bucket.
func (t *Tracker) heard(m *nats.Msg) {
	key := strings.TrimPrefix(m.Subject, subjectPrefix)
	if m.Header.Get("KV-Operation") != "" { // DEL or PURGE
		t.left(time.Now(), key)
		return
	}
	t.take(time.Now(), key, m.Data, false)
}

// asked keeps the question of a process that leaves until no Envoy calls it.
func (t *Tracker) asked(m *nats.Msg) {
	key := string(m.Data)
	if !strings.HasPrefix(key, strings.TrimPrefix(m.Subject, subjectLeave)+".") {
		return // of another service than who asks
	}
	t.leave(key, func() { _ = m.Respond(nil) }) // who asked may be gone
}
