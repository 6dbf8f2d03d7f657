package natsconn

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	// noStorage is the code of a server that lacks the room which a stream's bound reserves.
	noStorage jetstream.ErrorCode = 10047
	// leastBytes is the smallest bound of a stream that is worth making.
	leastBytes = 4 << 20
)

// MakeStream gives the stream of a name, made if it is not there: with the bound of its config (MaxBytes),
// or, on a server with less room than that, with a quarter to a half of what is left, since other streams
// need some, too. One that is there keeps its settings.
func MakeStream(ctx context.Context, js jetstream.JetStream, want jetstream.StreamConfig) (jetstream.Stream, error) {
	have, err := js.Stream(ctx, want.Name)
	if !errors.Is(err, jetstream.ErrStreamNotFound) {
		return have, err
	}
	have, err = js.CreateStream(ctx, want)
	tight := lacksRoom(err)
	for lacksRoom(err) && want.MaxBytes >= 2*leastBytes {
		want.MaxBytes /= 2
		have, err = js.CreateStream(ctx, want)
	}
	if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) { // somebody was faster, with other settings
		return js.Stream(ctx, want.Name)
	}
	if err == nil && tight {
		want.MaxBytes /= 2
		if have, err = js.UpdateStream(ctx, want); err != nil {
			return nil, fmt.Errorf("leave room beside stream %s: %w", want.Name, err)
		}
	}
	return have, err
}

func lacksRoom(err error) bool {
	answer, ok := errors.AsType[*jetstream.APIError](err)
	return ok && answer.ErrorCode == noStorage
}
