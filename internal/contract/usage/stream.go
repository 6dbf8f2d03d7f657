package usage

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/leaky-tokens/leaky-tokens/internal/natsconn"
)

const (
	// DuplicateWindow is how long JetStream remembers a Nats-Msg-Id. A repeat after that is
	// stored again: consumers dedupe by event id.
	DuplicateWindow = 10 * time.Minute
	// StreamDead keeps what consumers could not read, apart from the stream that they read.
	StreamDead = "LEAKY_DEAD"

	// maxBytes bounds a stream on disk: when it is full, the oldest events go. At a kilobyte an
	// event it has room for eight million, which consumers read within seconds; the meter warns
	// before it is full. A small disk gives less (natsconn.MakeStream).
	maxBytes     = 8 << 30
	maxBytesDead = 1 << 30

	maxAge     = 7 * 24 * time.Hour  // long enough to mend a consumer over a weekend
	maxAgeDead = 30 * 24 * time.Hour // a person looks at these
)

// EnsureStream gives the stream of usage, saga and balance events, made on disk if need be, with
// the stream of dead letters beside it. Every publisher and consumer calls it; at once is
// fine. A stream that is there keeps its operator's settings (replicas, limits) and only
// gains subjects it lacks.
func EnsureStream(ctx context.Context, js jetstream.JetStream) (jetstream.Stream, error) {
	// It comes first: on a small disk each takes a part of what those before it left.
	events, err := ensure(ctx, js, jetstream.StreamConfig{Name: Stream, Subjects: subjects(),
		MaxAge: maxAge, MaxBytes: maxBytes, Duplicates: DuplicateWindow, AllowAtomicPublish: true})
	if err != nil {
		return nil, err
	}
	dead := jetstream.StreamConfig{Name: StreamDead, Subjects: []string{SubjectDead}, MaxAge: maxAgeDead, MaxBytes: maxBytesDead}
	_, err = ensure(ctx, js, dead)
	return events, err
}

// subjects are the stream's. Each version of usage events has its own, so that a process from before
// a version never reads what it does not know: a new one finds it later.
func subjects() []string {
	return []string{"leaky.usage.v1.*", SubjectPrefix + "*", SubjectsSaga, SubjectsBalance, SubjectProbe}
}

// copies is how many servers of a cluster keep a stream that is made anew: three, where there are as
// many, so that one less loses nothing.
func copies(nc *nats.Conn) int {
	const enough = 3
	if nc.ConnectedClusterName() != "" && len(nc.Servers()) >= enough {
		return enough
	}
	return 1
}

func ensure(ctx context.Context, js jetstream.JetStream, want jetstream.StreamConfig) (jetstream.Stream, error) {
	want.Storage, want.Retention, want.Discard = jetstream.FileStorage, jetstream.LimitsPolicy, jetstream.DiscardOld
	want.AllowDirect, want.Replicas = true, copies(js.Conn())
	have, err := natsconn.MakeStream(ctx, js, want)
	if err != nil {
		return nil, fmt.Errorf("ensure stream %s: %w", want.Name, err)
	}
	config := have.CachedInfo().Config
	lacking := slices.DeleteFunc(want.Subjects, func(s string) bool { return slices.Contains(config.Subjects, s) })
	if len(lacking) == 0 {
		return have, nil
	}
	config.Subjects = append(config.Subjects, lacking...)
	if have, err = js.UpdateStream(ctx, config); err != nil {
		return nil, fmt.Errorf("add subjects to stream %s: %w", want.Name, err)
	}
	return have, nil
}
