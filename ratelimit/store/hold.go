package store

import (
	"context"
	"fmt"
	"strings"

	"github.com/leaky-tokens/leaky-tokens/ratelimit/bucket"
)

// Hold takes the cost from every bucket, or from none if one of them lacks the room. A
// request that holds already gets its first answer again and takes nothing more.
func (s *Store) Hold(ctx context.Context, t Take) (Taken, error) {
	if shared, own, ok := s.split(t); ok {
		return s.holdSplit(ctx, t, shared, own)
	}
	return s.holdOne(ctx, t)
}

// HoldAll is Hold for several calls in one round trip, in their order, each for itself.
// With an error none of the results counts; a result's own error concerns it alone.
func (s *Store) HoldAll(ctx context.Context, takes []Take) ([]Taken, error) {
	out := make([]Taken, len(takes))
	if len(takes) == 1 {
		out[0], out[0].Err = s.Hold(ctx, takes[0])
		return out, nil
	}
	calls := make([][]any, 0, len(takes))
	for i, t := range takes {
		if s.alone(t) {
			out[i], out[i].Err = s.Hold(ctx, t)
			continue
		}
		if t.ID != "" || len(t.Buckets) > 0 {
			calls = append(calls, s.holdArgs(t))
		}
	}
	cmds, err := s.runAll(ctx, s.hold, calls)
	if err != nil {
		return nil, err
	}
	for i, t := range takes {
		if s.alone(t) {
			continue
		}
		if t.ID == "" && len(t.Buckets) == 0 {
			out[i] = Taken{Outcome: Admitted}
			continue
		}
		cmd, args := cmds[0], calls[0]
		cmds, calls = cmds[1:], calls[1:]
		if err := failure(cmd); err != nil {
			out[i].Err = err
			continue
		}
		out[i], err = parseTaken(cmd.Val(), t)
		out[i].Err = err
		s.note(t, args, out[i])
	}
	return out, nil
}

// alone reports whether a take is no call of the one script that the others are.
func (s *Store) alone(t Take) bool {
	_, _, split := s.split(t)
	return split || t.Moves
}

// scriptOf is the script that decides about a take.
func (s *Store) scriptOf(t Take) script {
	if t.Moves && t.ID != "" {
		return s.move
	}
	return s.hold
}

// holdArgs is the script's call.
func (s *Store) holdArgs(t Take) []any {
	args := s.scriptOf(t).begin(len(t.Buckets), 6+2*len(t.Buckets))
	keys, life, tail, print := len(t.Buckets), 0.0, "", ""
	if t.ID != "" {
		keys += 2
		var memory string
		memory, print = s.memory(t.Account, t.ID)
		args = append(args, s.HoldKey(t.Account, t.ID), memory)
		life, tail = s.lifeOf(t), s.tail(t)
	}
	if t.Pool != PoolNone {
		keys++
		args = append(args, s.poolKey(t.Account, t.Provider))
	}
	args[2] = keys
	for _, b := range t.Buckets {
		args = append(args, s.bucketKey(b))
	}
	args = append(args, bucket.Pack(s.now(), float64(t.Requests), float64(t.Input), float64(t.Output), float64(t.Fill), life, float64(t.Pool))+
		print, tail)
	for _, b := range t.Buckets {
		if b.HasOwn {
			args = append(args, b.Limit.Packed()+bucket.Pack(float64(b.Own)))
			continue
		}
		args = append(args, b.Limit.Argument())
	}
	if w := s.watches(t); w != "" {
		args = append(args, w)
	}
	return args
}

// lifeOf is how long a hold lives, in microseconds.
func (s *Store) lifeOf(t Take) float64 {
	if t.Life > 0 {
		return float64(t.Life.Microseconds())
	}
	return s.life
}

// HoldKey is where a request's hold is.
func (s *Store) HoldKey(account, id string) string {
	return s.config.Prefix + "{" + account + "}:h:" + id
}

// tail is the record after its head: the pool's provider, how many buckets hold tokens,
// each with what it takes to drain it, a byte of 1 if it is given back when it expires and of 2
// if the call surely holds nothing in shared buckets, and the facts.
func (s *Store) tail(t Take) string {
	provider := ""
	if t.Pool != PoolNone {
		provider = t.Provider
	}
	n, length := 0, len(t.Facts)+len(provider)+3
	var room [8]string
	keys := room[:0]
	for _, b := range t.Buckets {
		key := ""
		if b.Limit.Kind.CountsTokens() {
			key = s.bucketKey(b)
			n++
			length += len(b.Limit.PackedDrain()) + 2 + len(key)
		}
		keys = append(keys, key)
	}
	var r strings.Builder
	r.Grow(length)
	r.WriteByte(byte(len(provider)))
	r.WriteString(provider)
	r.WriteByte(byte(n))
	for i, b := range t.Buckets {
		if b.Limit.Kind.CountsTokens() {
			r.WriteString(b.Limit.PackedDrain())
			r.WriteByte(byte(len(keys[i])))
			r.WriteByte(byte(len(keys[i]) >> 8))
			r.WriteString(keys[i])
		}
	}
	r.WriteByte(s.tailFlag(t))
	r.Write(t.Facts)
	return r.String()
}

// tailFlag is how a hold is ended. That it has no part in shared buckets is said where it is certain, so
// that it can be settled while the server of those is away. A move may leave a part that was there before,
// and whoever wrote no flag did not know.
func (s *Store) tailFlag(t Take) byte {
	switch {
	case t.Release:
		return 1
	case s.cluster && !t.parted && !t.Moves && t.Account != SharedAccount:
		return 2
	}
	return 0
}

// parseTaken reads hold.lua's answer.
func parseTaken(reply string, take Take) (Taken, error) {
	head, n := 1+3*size, len(take.Buckets)
	if take.Pool != PoolNone {
		head += poolSize
	}
	if len(reply) != head+n*stateSize {
		return Taken{}, fmt.Errorf("%w: %d bytes for %d buckets", ErrReply, len(reply), n)
	}
	t := Taken{Outcome: Outcome(reply[0]), Now: int64(double(reply, 1, 0)), Held: int64(double(reply, 1, 1)),
		Output: int64(double(reply, 1, 2)),
		States: make([]bucket.State, n)}
	if take.Pool != PoolNone {
		t.Pool = pool(reply[head-poolSize:])
	}
	for i := range n {
		t.States[i] = state(reply[head+i*stateSize:])
	}
	return t, nil
}

const stateSize = 3 * size

// state reads a bucket. The caller has checked the length.
func state(text string) bucket.State {
	return bucket.State{Settled: double(text, 0, 0), Held: double(text, 0, 1), At: int64(double(text, 0, 2))}
}

// formSize of a stored bucket comes after its state, countedSize of each form that it had before.
const (
	formSize    = 2 * size
	countedSize = 4 * size
)

// parseKept reads a bucket as stored (see lua/common.lua). One without a form was written when it had
// the one that is asked for.
func parseKept(text string, asked bucket.Form) (bucket.Kept, error) {
	switch rest := len(text) - stateSize - formSize; {
	case len(text) == stateSize:
		return bucket.Kept{State: state(text), Form: asked}, nil
	case rest < 0 || rest%countedSize != 0:
		return bucket.Kept{}, fmt.Errorf("%w: a bucket of %d bytes", ErrReply, len(text))
	}
	k := bucket.Kept{State: state(text), Form: form(text[stateSize:])}
	for text = text[stateSize+formSize:]; text != ""; text = text[countedSize:] {
		k.Before = append(k.Before, bucket.Former{Settled: double(text, 0, 0), At: int64(double(text, 0, 1)), Form: form(text[2*size:])})
	}
	return k, nil
}

func form(text string) bucket.Form {
	return bucket.Form{Rate: double(text, 0, 0), Window: int64(double(text, 0, 1))}
}
