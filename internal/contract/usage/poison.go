package usage

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// What JetStream refuses about a message itself (nats-server, server/errors.json). Every
// other refusal is about the stream, its storage or its server, and passes.
const (
	headerTooLarge  jetstream.ErrorCode = 10097
	messageTooLarge                     = jetstream.JSErrCodeStreamMessageExceedsMaximum
	otherStream     jetstream.ErrorCode = 10060 // another stream has the subject
)

// Poison reports whether an error of publishing is the message's own fault, so that trying again is
// no use. Everything else is an outage, which is held against no message: a full disk, a stream at
// its limits, a leader that is missing, an answer that did not come.
//
// filters are the subjects of the stream as EnsureStream gave it after the error, or shortly before.
// That nobody has the message's subject, or another stream, is its fault only where the stream is
// there and does not take it; without filters, nobody knows.
func Poison(err error, subject string, filters []string) bool {
	if answer, ok := errors.AsType[*jetstream.APIError](err); ok {
		switch answer.ErrorCode {
		case headerTooLarge, messageTooLarge:
			return true
		case otherStream:
			return len(filters) > 0 && !caught(filters, subject)
		}
		return false
	}
	if errors.Is(err, jetstream.ErrNoStreamResponse) || errors.Is(err, nats.ErrNoResponders) {
		return len(filters) > 0 && !caught(filters, subject) // nobody can have it, and not only now
	}
	_, unencodable := errors.AsType[*json.MarshalerError](err)
	return unencodable || errors.Is(err, nats.ErrMaxPayload) || errors.Is(err, nats.ErrBadSubject)
}

// caught reports whether one of the filters takes the subject: * stands for one token, > for
// one or more at the end.
func caught(filters []string, subject string) bool {
	have := strings.Split(subject, ".")
	for _, filter := range filters {
		want := strings.Split(filter, ".")
		open := want[len(want)-1] == ">"
		if open {
			want = want[:len(want)-1]
		}
		if len(have) < len(want) || open == (len(have) == len(want)) {
			continue
		}
		matches := true
		for i, token := range want {
			matches = matches && (token == "*" || token == have[i])
		}
		if matches {
			return true
		}
	}
	return false
}

// shortName is the longest name of a model that a lean event keeps, in bytes.
const shortName = 64

// lean is the message without what callers may make long and no book needs: tags, session, end user,
// the correlation, the trace, and names of models that are longer than any real one. What is booked,
// of whom, by whom and when, is the same, and so is its id.
func (m Message) lean() (Message, error) {
	var env Envelope
	var e Event
	if err := json.Unmarshal(m.Data, &env); err != nil {
		return Message{}, fmt.Errorf("read envelope: %w", err)
	}
	if err := json.Unmarshal(env.Data, &e); err != nil {
		return Message{}, fmt.Errorf("read usage event: %w", err)
	}
	e.Tags, e.Session, e.EndUser = nil, "", ""
	for _, name := range []*string{&e.ModelAsked, &e.ModelServed} {
		if len(*name) > shortName {
			*name = ""
		}
	}
	data, err := Encode(e, env.Source, "", "")
	return Message{ID: m.ID, Subject: m.Subject, Data: data}, err
}
