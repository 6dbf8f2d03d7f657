package discovery

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/leaky-tokens/leaky-tokens/internal/retry"
)

const (
	renewals  = 5                      // in a lease
	startLook = 100 * time.Millisecond // between looks whether a process serves, until it does
	arriving  = 500 * time.Millisecond // for what an Envoy's workers had sent here before they knew
)

// unregistered is said while NATS does not take where the process is.
const unregistered = "this process is not registered, the file alone says where it is"

// RegistrarConfig is what a Registrar needs.
type RegistrarConfig struct {
	Conn     *nats.Conn
	Instance Instance // of this process; its State is not read
	// Ready is an error while the process cannot do its work.
	Ready func(context.Context) error
	// Routed: Envoy calls the service, so that its end is told to Envoys first.
	Routed bool
	// LeaveTimeout is how long a process that ends waits for xds to say that nobody calls it, default 3s.
	LeaveTimeout time.Duration
	Log          *slog.Logger
}

// Registrar keeps one process in the bucket.
type Registrar struct {
	c  RegistrarConfig
	kv jetstream.KeyValue // nil until the bucket was found
}

// NewRegistrar checks what the process says of itself; it starts nothing.
func NewRegistrar(c RegistrarConfig) (*Registrar, error) {
	c.Instance.State = Unready
	if _, err := named(c.Instance.key()); err != nil {
		return nil, fmt.Errorf("register %s: %w", c.Instance.Part, err)
	}
	if err := c.Instance.check(); err != nil {
		return nil, fmt.Errorf("register %s: %w", c.Instance.Part, err)
	}
	c.LeaveTimeout = cmp.Or(c.LeaveTimeout, 3*time.Second)
	return &Registrar{c: c}, nil
}

// Run registers the process once it is ready and keeps it registered until ctx ends. Then it says
// that the process leaves, and returns when every Envoy knows, or nobody is there to tell them: the
// process may close its listeners. NATS being away holds up nothing.
func (r *Registrar) Run(ctx context.Context) {
	every, served, said := startLook, false, retry.NewTroubles(r.c.Log)
	for {
		state := Serving
		if err := r.c.Ready(ctx); err != nil {
			state = Unready
		} else {
			every, served = r.c.Instance.Lease/renewals, true
		}
		if served && ctx.Err() == nil {
			switch err := r.renew(ctx, state); {
			case err == nil:
				said.Over(ctx, unregistered, "this process is registered")
			case ctx.Err() == nil:
				said.Warn(ctx, unregistered, err)
			}
		}
		select {
		case <-ctx.Done():
			if served {
				r.leave(context.WithoutCancel(ctx))
			}
			return
		case <-time.After(every):
		}
	}
}

// errNoLink is the error while there is no connection: what is published then would come late.
var errNoLink = errors.New("NATS is not connected")

// renew gives up in time for the next one.
func (r *Registrar) renew(ctx context.Context, state State) error {
	ctx, cancel := context.WithTimeout(ctx, r.c.Instance.Lease/renewals)
	defer cancel()
	return r.put(ctx, state)
}

func (r *Registrar) put(ctx context.Context, state State) error {
	if !r.c.Conn.IsConnected() {
		return errNoLink
	}
	if r.kv == nil {
		js, err := jetstream.New(r.c.Conn)
		if err != nil {
			return err
		}
		if r.kv, err = js.KeyValue(ctx, Bucket); err != nil {
			r.kv = nil // xds makes the bucket
			return fmt.Errorf("find the bucket %s: %w", Bucket, err)
		}
	}
	i := r.c.Instance
	i.State = state
	text, err := json.Marshal(i)
	if err == nil {
		_, err = r.kv.Put(ctx, i.key(), text)
	}
	return err
}

// leave says that the process ends, and waits until no Envoy calls it: an Envoy acknowledges the change
// by its main thread, and its workers may be in the middle of a call of the old endpoints.
func (r *Registrar) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, r.c.LeaveTimeout)
	defer cancel()
	if err := r.put(ctx, Leaving); err != nil {
		return // nobody is there to tell
	}
	if r.c.Routed {
		_, err := r.c.Conn.RequestWithContext(ctx, SubjectLeave(r.c.Instance.Service), []byte(r.c.Instance.key()))
		if err != nil && !errors.Is(err, nats.ErrNoResponders) {
			r.c.Log.Warn("envoys may not know yet that this process ends", slog.Any("error", err))
		}
		if err == nil {
			retry.Pause(ctx, arriving)
		}
	}
	if err := r.kv.Delete(ctx, r.c.Instance.key()); err != nil {
		r.c.Log.Debug("the registration is left to its lease", slog.Any("error", err))
	}
}
