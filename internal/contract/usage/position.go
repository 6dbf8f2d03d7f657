package usage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Position is how far a store has what a consumer read, as the store itself keeps it: a copy of the
// store is as old as the position in it.
type Position struct {
	Stream   string // which stream, by the time it was made: one that is made anew counts from 1 again
	Sequence uint64 // everything up to it is stored
	Server   string // the run of the store's server that answers; a store that cannot tell leaves it out
	Noted    string // the run of the server that Note was last given
}

// Positions keep the position of a consumer in the store that its handler writes to.
type Positions interface {
	// Position reads it; a store that has none gives the zero Position but for Server.
	Position(ctx context.Context) (Position, error)
	// Note writes Stream and Sequence. It fails where another server than Server answers by now.
	Note(ctx context.Context, p Position) error
}

// errMadeAnew says that the consumer counts in a stream that is gone.
var errMadeAnew = errors.New("the stream was made anew")

// madeAt is when a stream was made, which names it among those of its name.
func madeAt(stream jetstream.Stream) string {
	return stream.CachedInfo().Created.UTC().Format(time.RFC3339Nano)
}

// noteEvery is how often a position is noted. So much more is read again than a store lacks.
const noteEvery = 10 * time.Second

// position is what a consumer remembers of its store's.
type position struct {
	stream string      // the one that it is attached to, by madeAt
	due    time.Time   // of the next look
	seen   Position    // as last noted
	sure   atomic.Bool // nothing has happened since to the store that it could have lost something by
}

// follow holds the store's position against what NATS believes to be stored: the consumer's ack floor,
// up to which everything was acknowledged, which is after it was stored. NATS never gives that again.
// So where the store has less, it came back from an older copy (or lost its last seconds), and what it
// lacks is read again; what it has already is known by its id.
//
// Otherwise the floor is noted. A store that has the note has everything up to it, since that was
// written before. But a note that is the same says nothing of what came after it: a replica that took
// over, or a copy that was put back, may have the note and not the rest. So the first look of a
// process, the one after an error and the one at another run of the server compare, all others note.
//
// A NATS that was emptied counts from 1 again, and the durable consumer that another replica made there
// answers this one by its name, without an error. So each look asks for the stream, too, and ends the
// attachment to one that is gone: two replicas that called the stream differently would undo each
// other's notes and read all of it again at each look.
//
// Replicas do this at once. Each reads the position before the floor, and notes nothing for a server
// before it has compared and read again, so a note is true whoever wrote it.
func (c *Consumer) follow(ctx context.Context) error {
	if c.cfg.Positions == nil || c.at.sure.Load() && time.Now().Before(c.at.due) {
		return nil
	}
	asking, cancel := context.WithTimeout(ctx, askWait)
	defer cancel()
	at, err := c.cfg.Positions.Position(asking)
	if err != nil {
		c.at.sure.Store(false)
		return fmt.Errorf("read the position of consumer %s: %w", c.cfg.Durable, err)
	}
	info, err := c.Info(asking)
	if err != nil {
		return fmt.Errorf("look at consumer %s: %w", c.cfg.Durable, err)
	}
	stream, err := c.cfg.JetStream.Stream(asking, Stream) // after the consumer, so that a new one's floor is never taken for the old one's
	if err != nil {
		return fmt.Errorf("look at stream %s: %w", Stream, err)
	}
	if madeAt(stream) != c.at.stream {
		return errMadeAnew
	}
	now := Position{Stream: c.at.stream, Sequence: info.AckFloor.Stream, Server: at.Server, Noted: at.Server}
	if !c.at.sure.Load() || at.Server != at.Noted || at.Stream != now.Stream ||
		at.Sequence < c.at.seen.Sequence || at.Sequence > now.Sequence {
		c.at.sure.Store(false)
		if err := c.compare(ctx, at, info); err != nil {
			return err
		}
	}
	if now != at {
		noting, cancel := context.WithTimeout(ctx, askWait)
		defer cancel()
		if err := c.cfg.Positions.Note(noting, now); err != nil {
			c.at.sure.Store(false)
			return fmt.Errorf("note the position of consumer %s: %w", c.cfg.Durable, err)
		}
	}
	c.at.seen, c.at.due = now, time.Now().Add(noteEvery)
	c.at.sure.Store(true)
	return nil
}

// compare reads again what the store lacks of what was acknowledged. That may stand above the floor: a
// replica that is slow, frozen or dead has a batch open, which holds the floor down, and others have
// stored and acknowledged what came after it. All of it was delivered before, so the last delivery is
// the end, and what is open is stored twice. The floor alone is noted, since the store may lack what is
// open.
func (c *Consumer) compare(ctx context.Context, at Position, info *jetstream.ConsumerInfo) error {
	floor := info.AckFloor.Stream
	if at.Stream != c.at.stream {
		at.Sequence = 0 // of another stream, or the store is new
	}
	level, why := slog.LevelWarn, "the store may lack events that it had: an older copy, or its last seconds; reading them again"
	switch {
	case at.Sequence > floor:
		c.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "the stream came back older than the store of its events",
			slog.String("consumer", c.cfg.Durable), slog.Uint64("stored", at.Sequence), slog.Uint64("stream", floor))
		fallthrough
	case at.Sequence == floor: // as after each crash
		level, why = slog.LevelInfo, "reading again what was delivered behind what is stored"
	}
	after, to := min(at.Sequence, floor), max(floor, info.Delivered.Stream)
	if after == to {
		return nil
	}
	c.cfg.Log.LogAttrs(ctx, level, why, slog.String("consumer", c.cfg.Durable), slog.Uint64("after", after), slog.Uint64("to", to))
	n, err := c.again(ctx, after, to)
	if err != nil {
		return fmt.Errorf("read again for consumer %s: %w", c.cfg.Durable, err)
	}
	c.cfg.Log.LogAttrs(ctx, slog.LevelInfo, "the store has what was acknowledged", slog.String("consumer", c.cfg.Durable),
		slog.Int("read_again", n))
	return nil
}

// again gives the store what stands in the stream behind one sequence number and up to another, and
// answers how many that was. Those that the store refuses became dead letters when they came first.
func (c *Consumer) again(ctx context.Context, after, to uint64) (int, error) {
	reader, err := c.cfg.JetStream.OrderedConsumer(ctx, Stream, jetstream.OrderedConsumerConfig{FilterSubjects: []string{c.cfg.Subjects},
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: after + 1})
	if err != nil {
		return 0, err
	}
	info, err := reader.Info(ctx)
	if err != nil {
		return 0, err
	}
	n := 0
	for left := info.NumPending; left > 0; {
		messages, err := pull(ctx, reader, int(min(left, BatchMost)), askWait)
		if err != nil {
			return n, err
		}
		if len(messages) == 0 {
			return n, fmt.Errorf("%d messages did not come: %w", left, ctx.Err())
		}
		batch := make([]Delivery, 0, len(messages))
		for _, msg := range messages {
			meta, err := msg.Metadata()
			if err != nil {
				return n, err
			}
			if left = meta.NumPending; meta.Sequence.Stream <= to {
				batch = append(batch, Delivery{Sequence: meta.Sequence.Stream, Data: msg.Data()})
			} else {
				left = 0
			}
		}
		if len(batch) == 0 {
			break
		}
		if _, stored := c.store(ctx, batch); !stored {
			return n, ctx.Err()
		}
		n += len(batch)
	}
	return n, nil
}
