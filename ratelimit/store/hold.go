package store

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/leaky-tokens/leaky-tokens/ratelimit/bucket"
)

// Hold takes the cost from every bucket, or from none if one of them lacks the room. A
// request that holds already gets its first answer again and takes nothing more.
func (s *Store) Hold(ctx context.Context, t Take) (Taken, error) {
	recorded := t.ID != ""
	if len(t.Buckets) == 0 && !recorded {
		return Taken{Outcome: Admitted}, nil
	}
	args := s.hold.begin(len(t.Buckets), 8+4*len(t.Buckets))
	life := int64(0)
	tail := ""
	if recorded {
		args[2] = len(t.Buckets) + 1
		args = append(args, s.HoldKey(t.Account, t.ID))
		life, tail = s.life, s.tail(t)
	}
	for _, b := range t.Buckets {
		args = append(args, s.config.Prefix+b.Key)
	}
	args = append(args, s.now(), t.Requests, t.Input, t.Output, t.Fill, life, tail)
	for _, b := range t.Buckets {
		args = append(args, b.Limit.args[:]...)
	}
	reply, err := s.run(ctx, s.hold, args)
	if err != nil {
		return Taken{}, err
	}
	return parseTaken(reply, len(t.Buckets))
}

// HoldKey is where a request's hold is.
func (s *Store) HoldKey(account, id string) string {
	return s.config.Prefix + "{" + account + "}:h:" + id
}

// BucketKey is where a bucket is; name is limits.Rule.AppendKey's.
func BucketKey(account string, shared bool, name []byte) string {
	if shared {
		return "b:" + string(name)
	}
	var b strings.Builder
	b.Grow(len(account) + len(name) + 5)
	b.WriteByte('{')
	b.WriteString(account)
	b.WriteString("}:b:")
	b.Write(name)
	return b.String()
}

// tail is the record after its first five fields: how many buckets hold tokens, each
// with what it takes to drain it, and the facts.
func (s *Store) tail(t Take) string {
	var n int64
	size := len(t.Facts) + 4
	for _, b := range t.Buckets {
		if b.Limit.Kind.CountsTokens() {
			n++
			size += len(b.Limit.line) + len(s.config.Prefix) + len(b.Key) + 1
		}
	}
	var r strings.Builder
	r.Grow(size)
	r.WriteString(strconv.FormatInt(n, 10))
	r.WriteByte('\n')
	for _, b := range t.Buckets {
		if b.Limit.Kind.CountsTokens() {
			r.WriteString(b.Limit.line)
			r.WriteString(s.config.Prefix)
			r.WriteString(b.Key)
			r.WriteByte('\n')
		}
	}
	r.Write(t.Facts)
	return r.String()
}

// parseTaken reads hold.lua's answer.
func parseTaken(reply string, n int) (Taken, error) {
	head, rest, _ := strings.Cut(reply, ";")
	outcome, numbers, _ := strings.Cut(head, " ")
	t := Taken{States: make([]bucket.State, n)}
	var err error
	if len(outcome) != 1 {
		return Taken{}, fmt.Errorf("%w: %.80q", ErrReply, reply)
	}
	t.Outcome = Outcome(outcome[0])
	for i, field := range []*int64{&t.Now, &t.Held, &t.Output} {
		var word string
		word, numbers, _ = strings.Cut(numbers, " ")
		var bad error
		*field, bad = strconv.ParseInt(word, 10, 64)
		if bad != nil {
			err = fmt.Errorf("%w: number %d: %w", ErrReply, i, bad)
		}
	}
	for i := range n {
		var text string
		text, rest, _ = strings.Cut(rest, ";")
		var bad error
		if t.States[i], bad = parseState(text); bad != nil {
			err = errors.Join(err, bad)
		}
	}
	if err != nil || rest != "" {
		return Taken{}, errors.Join(fmt.Errorf("%w: %.200q", ErrReply, reply), err)
	}
	return t, nil
}

// parseState reads a bucket's "settled held at".
func parseState(text string) (bucket.State, error) {
	settled, rest, _ := strings.Cut(text, " ")
	held, at, _ := strings.Cut(rest, " ")
	var s bucket.State
	var bad [3]error
	s.Settled, bad[0] = strconv.ParseFloat(settled, 64)
	s.Held, bad[1] = strconv.ParseFloat(held, 64)
	s.At, bad[2] = strconv.ParseInt(at, 10, 64)
	if err := errors.Join(bad[:]...); err != nil {
		return bucket.State{}, fmt.Errorf("%w: bucket %.80q: %w", ErrReply, text, err)
	}
	return s, nil
}
