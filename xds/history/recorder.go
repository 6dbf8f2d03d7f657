package history

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	"github.com/leaky-tokens/leaky-tokens/internal/retry"
)

// Subject carries an event, a CloudEvent of type EventType whose data is the Version, for each
// version that is taken or refused. Messages are plain NATS and may be missed; the bucket is not.
const Subject = "leaky.control.v1.config"

// EventType is the CloudEvent's type.
const EventType = "leaky.config.v1"

// waiting is how many versions wait for NATS before the oldest is left out.
const waiting = 64

// RecorderConfig is what a Recorder needs.
type RecorderConfig struct {
	Conn *nats.Conn
	Log  *slog.Logger
}

// Recorder writes versions down as soon as NATS takes them. What is published never waits for it.
type Recorder struct {
	c     RecorderConfig
	notes chan note
}

type note struct {
	version Version
	files   Files
}

// NewRecorder starts nothing.
func NewRecorder(c RecorderConfig) (*Recorder, error) {
	if c.Conn == nil || c.Log == nil {
		return nil, errors.New("make recorder of versions: a connection and a logger are needed")
	}
	return &Recorder{c: c, notes: make(chan note, waiting)}, nil
}

// Note takes what became of a configuration. One without a hash could not be read: it becomes an
// event and no version. Note does not block: with a NATS that is away for long the oldest is
// left out.
func (r *Recorder) Note(v Version, files Files) {
	v.At = time.Now().UTC()
	for {
		select {
		case r.notes <- note{v, files}:
			return
		default:
		}
		select {
		case left := <-r.notes:
			r.c.Log.LogAttrs(context.Background(), slog.LevelWarn, "a version is not in the history, NATS was away for too long",
				slog.String("version", left.version.Envoy))
		default:
		}
	}
}

// Run writes until ctx ends.
func (r *Recorder) Run(ctx context.Context) {
	said := retry.NewTroubles(r.c.Log)
	pauses := retry.Policy{First: 100 * time.Millisecond, Most: 10 * time.Second, Spread: true}
	for {
		select {
		case <-ctx.Done():
			return
		case n := <-r.notes:
			pauses.Forever(ctx, said, "write history of configurations", func(ctx context.Context) error { return r.write(ctx, n) },
				retry.Waiting(func() int64 { return 1 + int64(len(r.notes)) }))
		}
	}
}

func (r *Recorder) write(ctx context.Context, n note) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	v := n.version
	if v.Hash != "" {
		h, err := Open(ctx, r.c.Conn)
		if err != nil {
			return err
		}
		var news bool
		if v, news, err = h.Record(ctx, v, n.files); err != nil || !news {
			return err
		}
	}
	event, err := json.Marshal(map[string]any{"specversion": "1.0", "id": uuid.NewString(), "source": "/xds", "type": EventType,
		"time": v.At, "subject": string(v.State), "datacontenttype": "application/json", "data": v})
	if err == nil {
		err = r.c.Conn.Publish(Subject, event)
	}
	if err != nil {
		return fmt.Errorf("publish event of version %d: %w", v.Number, err)
	}
	return nil
}
