package usage_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
)

// TestWhatIsPoison: only what concerns the message itself, in the words of nats-server.
func TestWhatIsPoison(t *testing.T) {
	t.Parallel()
	answer := func(code int, number jetstream.ErrorCode, text string) error {
		return fmt.Errorf("publish: %w", &jetstream.APIError{Code: code, ErrorCode: number, Description: text})
	}
	subjects := []string{"leaky.usage.v1.*", "leaky.saga.v1.>"}
	for name, tc := range map[string]struct {
		err     error
		subject string
		want    bool
	}{
		"message too large":             {answer(400, 10054, "message size exceeds maximum allowed"), "leaky.usage.v1.x", true},
		"headers too large":             {answer(400, 10097, "header size exceeds maximum allowed of 64k"), "leaky.usage.v1.x", true},
		"subject of another stream":     {answer(400, 10060, "expected stream does not match"), "elsewhere.v1", true},
		"our subject, for a moment":     {answer(400, 10060, "expected stream does not match"), "leaky.usage.v1.x", false},
		"larger than the server takes":  {nats.ErrMaxPayload, "leaky.usage.v1.x", true},
		"subject of no stream":          {jetstream.ErrNoStreamResponse, "elsewhere.v1", true},
		"one token too many":            {jetstream.ErrNoStreamResponse, "leaky.usage.v1.x.y", true},
		"no token for the rest":         {jetstream.ErrNoStreamResponse, "leaky.saga.v1", true},
		"no leader":                     {jetstream.ErrNoStreamResponse, "leaky.usage.v1.x", false},
		"no leader, open filter":        {jetstream.ErrNoStreamResponse, "leaky.saga.v1.x.y", false},
		"no space on the disk":          {answer(503, 10077, "no space left on device"), "leaky.usage.v1.x", false},
		"storage limit":                 {answer(500, 10047, "insufficient storage resources available"), "leaky.usage.v1.x", false},
		"no resources":                  {answer(503, 10023, "insufficient resources"), "leaky.usage.v1.x", false},
		"stream is full":                {answer(503, 10077, "maximum messages exceeded"), "leaky.usage.v1.x", false},
		"stream is sealed":              {answer(400, 10109, "invalid operation on sealed stream"), "leaky.usage.v1.x", false},
		"JetStream is off":              {answer(503, 10039, "jetstream not enabled for account"), "leaky.usage.v1.x", false},
		"a refusal of a later version":  {answer(400, 19999, "something new"), "leaky.usage.v1.x", false},
		"data that cannot be encoded":   {&json.MarshalerError{Err: errors.New("?")}, "leaky.usage.v1.x", true},
		"no answer":                     {context.DeadlineExceeded, "leaky.usage.v1.x", false},
		"no answer, says the client":    {jetstream.ErrAsyncPublishTimeout, "leaky.usage.v1.x", false},
		"connection lost":               {nats.ErrConnectionClosed, "leaky.usage.v1.x", false},
		"connection away, no buffer":    {nats.ErrReconnectBufExceeded, "leaky.usage.v1.x", false},
		"something that nobody foresaw": {errors.New("?"), "leaky.usage.v1.x", false},
	} {
		if got := usage.Poison(tc.err, tc.subject, subjects); got != tc.want {
			t.Errorf("%s: want poison %t, got %t", name, tc.want, got)
		}
	}
	for name, err := range map[string]error{"subject of no stream": jetstream.ErrNoStreamResponse,
		"subject of another stream": answer(400, 10060, "expected stream does not match")} {
		if usage.Poison(err, "elsewhere.v1", nil) {
			t.Errorf("%s: want no word before the stream was looked at", name)
		}
	}
}
