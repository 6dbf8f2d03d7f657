package backup

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/natsconn"
)

const (
	streamSuffix = ".jsonl.gz"
	fetched      = 500 // messages at once
	fetchWait    = 5 * time.Second
	// inFlight bounds the messages that were published and not acknowledged yet.
	inFlight = 1000
	ackWait  = 30 * time.Second
)

// message is a line of a stream's file.
type message struct {
	Subject string      `json:"subject"`
	Header  nats.Header `json:"header,omitempty"`
	Data    []byte      `json:"data"`
}

// copied are the streams, and their subjects but for the states of pools.
func copied() map[string][]string {
	return map[string][]string{usage.Stream: {"leaky.usage.>", usage.SubjectsSaga}, usage.StreamDead: {usage.SubjectDead}}
}

func openStreams(c Config) (*nats.Conn, jetstream.JetStream, error) {
	nc, err := natsconn.Connect(natsconn.Config{URL: c.NATS, Name: "backup", Log: c.Log}, nats.RetryOnFailedConnect(false))
	if err != nil {
		return nil, nil, err
	}
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(inFlight))
	if err != nil {
		nc.Close()
		return nil, nil, fmt.Errorf("open jetstream: %w", err)
	}
	return nc, js, nil
}

func copyStream(ctx context.Context, c Config, to *writer, _ *Manifest) error {
	nc, js, err := openStreams(c)
	if err != nil {
		return err
	}
	defer nc.Close()
	for name, subjects := range copied() {
		stream, err := js.Stream(ctx, name)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			continue
		}
		if err != nil {
			return fmt.Errorf("open stream %s: %w", name, err)
		}
		if err := to.file(name+streamSuffix, func(w io.Writer) (int64, error) { return messages(ctx, stream, subjects, w) }); err != nil {
			return err
		}
	}
	return nil
}

// messages writes what the stream has now; what comes meanwhile is after the backup.
func messages(ctx context.Context, stream jetstream.Stream, subjects []string, w io.Writer) (rows int64, err error) {
	info, err := stream.Info(ctx)
	if err != nil {
		return 0, fmt.Errorf("read stream: %w", err)
	}
	consumer, err := stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{FilterSubjects: subjects,
		DeliverPolicy: jetstream.DeliverAllPolicy})
	if err != nil {
		return 0, fmt.Errorf("read stream: %w", err)
	}
	begun, err := consumer.Info(ctx)
	if err != nil {
		return 0, fmt.Errorf("read stream: %w", err)
	}
	out, left := json.NewEncoder(w), begun.NumPending > 0
	for left {
		batch, err := consumer.Fetch(fetched, jetstream.FetchMaxWait(fetchWait))
		if err != nil {
			return rows, fmt.Errorf("read stream: %w", err)
		}
		for m := range batch.Messages() {
			at, err := m.Metadata()
			if err != nil {
				return rows, fmt.Errorf("read stream: %w", err)
			}
			if at.Sequence.Stream > info.State.LastSeq {
				return rows, nil
			}
			if err := out.Encode(message{m.Subject(), m.Headers(), m.Data()}); err != nil {
				return rows, err
			}
			rows++
			left = at.NumPending > 0 && at.Sequence.Stream < info.State.LastSeq
		}
		if err := batch.Error(); err != nil {
			return rows, fmt.Errorf("read stream: %w", err)
		}
		if ctx.Err() != nil {
			return rows, context.Cause(ctx)
		}
	}
	return rows, nil
}

// fillStream publishes the messages again. Each keeps its id, so that whoever reads it knows it.
func fillStream(ctx context.Context, c Config, from *reader) error {
	nc, js, err := openStreams(c)
	if err != nil {
		return err
	}
	defer nc.Close()
	if _, err := usage.EnsureStream(ctx, js); err != nil {
		return err
	}
	for name := range copied() {
		for range from.with(name, streamSuffix) {
			if err := from.file(name+streamSuffix, func(r io.Reader) error { return publish(ctx, js, r) }); err != nil {
				return err
			}
		}
	}
	return nil
}

func publish(ctx context.Context, js jetstream.JetStream, r io.Reader) error {
	in := json.NewDecoder(bufio.NewReader(r))
	var waiting []jetstream.PubAckFuture
	for end := false; !end; {
		var m message
		err := in.Decode(&m)
		if end = errors.Is(err, io.EOF); !end && err != nil {
			return fmt.Errorf("read message: %w", err)
		}
		if !end {
			sent, err := js.PublishMsgAsync(&nats.Msg{Subject: m.Subject, Header: m.Header, Data: m.Data})
			if err != nil {
				return fmt.Errorf("publish: %w", err)
			}
			waiting = append(waiting, sent)
		}
		if len(waiting) == inFlight || end {
			if err := acknowledged(ctx, waiting); err != nil {
				return err
			}
			waiting = waiting[:0]
		}
	}
	return nil
}

func acknowledged(ctx context.Context, waiting []jetstream.PubAckFuture) error {
	ctx, cancel := context.WithTimeout(ctx, ackWait)
	defer cancel()
	for _, one := range waiting {
		select {
		case <-one.Ok():
		case err := <-one.Err():
			return fmt.Errorf("publish: %w", err)
		case <-ctx.Done():
			return fmt.Errorf("publish: %w", context.Cause(ctx))
		}
	}
	return nil
}

func emptyStream(ctx context.Context, c Config) error {
	nc, js, err := openStreams(c)
	if err != nil {
		return err
	}
	defer nc.Close()
	for name := range copied() {
		stream, err := js.Stream(ctx, name)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			continue
		}
		if err != nil {
			return fmt.Errorf("look at JetStream: %w", err)
		}
		if stream.CachedInfo().State.Msgs > 0 {
			return fmt.Errorf("the stream %s has messages; a restore goes into an empty JetStream (nats stream rm %s)", name, name)
		}
	}
	return nil
}
