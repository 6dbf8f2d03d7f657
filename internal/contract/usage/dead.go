package usage

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Headers of a dead letter.
const (
	HeaderDeadReason   = "Leaky-Dead-Reason"
	HeaderDeadSubject  = "Leaky-Dead-Subject"
	HeaderDeadSequence = "Leaky-Dead-Sequence"
)

// maxReason is the longest reason that a header or a log line tells, in bytes.
const maxReason = 300

// DeadLetter publishes what a consumer could not read to SubjectDead, with its reason, its subject
// and its sequence in the stream. id is the letter's Nats-Msg-Id: one id, one letter.
func DeadLetter(ctx context.Context, js jetstream.JetStream, msg jetstream.Msg, sequence uint64, id string, reason error) error {
	dead := nats.NewMsg(SubjectDead)
	dead.Data = msg.Data()
	dead.Header.Set(HeaderDeadReason, Printable(reason.Error()))
	dead.Header.Set(HeaderDeadSubject, msg.Subject())
	dead.Header.Set(HeaderDeadSequence, fmt.Sprint(sequence))
	if _, err := js.PublishMsg(ctx, dead, jetstream.WithMsgID(id)); err != nil {
		return fmt.Errorf("publish dead letter: %w", err)
	}
	return nil
}

// Printable keeps a reason, which may quote the message, to one printable line.
func Printable(s string) string {
	b := []byte(s[:min(len(s), maxReason)])
	for i, c := range b {
		if c < ' ' || c > '~' {
			b[i] = '?'
		}
	}
	return string(b)
}
