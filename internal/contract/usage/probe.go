package usage

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/nats-io/nats.go/jetstream"
)

// RefusesToStore is what NATS answers in place of storing an event: it lives, and its stream takes
// nothing.
type RefusesToStore struct{ Err error }

func (r *RefusesToStore) Error() string { return "nats refuses to store: " + r.Err.Error() }
func (r *RefusesToStore) Unwrap() error { return r.Err }

// Codes of JetStream's that the client has no names for.
const (
	codeNoResources  = 10023
	codeNoStorage    = 10047
	codeStoreFailed  = 10077
	codeNoMemory     = 10028
	codeStreamOffset = 10118 // the stream is offline
)

// Reason is a word for it.
func (r *RefusesToStore) Reason() string {
	answer, answered := errors.AsType[*jetstream.APIError](r.Err)
	switch {
	case !answered:
		return "no_answer"
	case slices.Contains([]jetstream.ErrorCode{codeNoResources, codeNoStorage, codeStoreFailed, codeNoMemory}, answer.ErrorCode):
		return "no_space"
	case answer.ErrorCode == codeStreamOffset:
		return "offline"
	}
	return "refused"
}

// Probe stores a message in the stream of events and takes it out again: a server whose disk is full
// answers everything else. The error is a RefusesToStore, or one of the link. A stream that nobody has
// made yet is none to probe.
func Probe(ctx context.Context, js jetstream.JetStream) error {
	stream, err := js.Stream(ctx, Stream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at stream %s: %w", Stream, err)
	}
	if !slices.Contains(stream.CachedInfo().Config.Subjects, SubjectProbe) {
		return nil // an operator's own
	}
	ack, err := js.Publish(ctx, SubjectProbe, nil, jetstream.WithExpectStream(Stream), jetstream.WithRetryAttempts(0))
	if err != nil {
		return &RefusesToStore{Err: err}
	}
	if err := stream.DeleteMsg(ctx, ack.Sequence); err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) {
		return &RefusesToStore{Err: err}
	}
	return nil
}
