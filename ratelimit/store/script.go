package store

import (
	"context"
	"crypto/sha1" //nolint:gosec // Redis names scripts by SHA-1
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// script is a Lua script and its name on the server.
type script struct {
	source string
	sha    string
}

func newScript(source string) script {
	sum := sha1.Sum([]byte(source)) //nolint:gosec // see above
	return script{source: source, sha: hex.EncodeToString(sum[:])}
}

// header is how many arguments come before the keys.
const header = 3

// begin starts a command: name, script and number of keys, to which keys and arguments
// are appended.
func (sc script) begin(keys, args int) []any {
	all := make([]any, header, header+keys+args)
	all[0], all[1], all[2] = "evalsha", sc.sha, keys
	return all
}

// run calls the script. A server that lost its scripts (restart, SCRIPT FLUSH) gets the source.
func (s *Store) run(ctx context.Context, sc script, args []any) (string, error) {
	if err := s.breaker.enter(); err != nil {
		return "", err
	}
	cmd := redis.NewStringCmd(ctx, args...)
	err := s.client.Process(ctx, cmd)
	if isNoScript(err) {
		cmd = redis.NewStringCmd(ctx, sc.whole(args)...)
		err = s.client.Process(ctx, cmd)
	}
	return cmd.Val(), s.verdict(err)
}

// runAll calls the script several times in one round trip, a command for each call. The
// error is of the round trip; a command may have one of its own (see failure).
func (s *Store) runAll(ctx context.Context, sc script, calls [][]any) ([]*redis.StringCmd, error) {
	if err := s.breaker.enter(); err != nil {
		return nil, err
	}
	cmds := make([]*redis.StringCmd, len(calls))
	pipe := s.client.Pipeline()
	for i, args := range calls {
		cmds[i] = redis.NewStringCmd(ctx, args...)
		_ = pipe.Process(ctx, cmds[i]) // only queues
	}
	_, err := pipe.Exec(ctx)
	if isNoScript(err) {
		pipe = s.client.Pipeline()
		for i, args := range calls {
			if isNoScript(cmds[i].Err()) {
				cmds[i] = redis.NewStringCmd(ctx, sc.whole(args)...)
				_ = pipe.Process(ctx, cmds[i])
			}
		}
		_, err = pipe.Exec(ctx)
	}
	var answered redis.Error
	if errors.As(err, &answered) && !busy(err) || s.cluster && slices.ContainsFunc(cmds,
		func(c *redis.StringCmd) bool { return c.Err() == nil }) {
		err = nil // of one command, or one server of many, and not of the others
	}
	return cmds, s.verdict(err)
}

// failure is what went wrong with one command of several: data that is not ours, or
// damaged. It concerns that call alone and repeating it is of no use.
func failure(cmd *redis.StringCmd) error {
	err := cmd.Err()
	if err == nil {
		return nil
	}
	var answered redis.Error
	if !errors.As(err, &answered) || busy(err) {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return fmt.Errorf("%w: %w", ErrReply, err)
}

// busy reports whether the server answered something that is not about the call: that it
// cannot serve just now, or not us. Such a call is to be made again later.
func busy(err error) bool {
	for _, prefix := range []string{
		"LOADING", "READONLY", "MASTERDOWN", "OOM", "MISCONF", "BUSY", "NOREPLICAS", // its state
		"CLUSTERDOWN", "TRYAGAIN", "MOVED", "ASK", "CROSSSLOT", // where keys are
		"NOAUTH", "WRONGPASS", "NOPERM", // who we are
	} {
		if redis.HasErrorPrefix(err, prefix) {
			return true
		}
	}
	text := err.Error() // these have no code of their own
	return strings.Contains(text, "max number of clients") || strings.Contains(text, "ACL failure in script") ||
		strings.Contains(text, "unauthenticated") || // who has given no password may send ten short words alone
		strings.Contains(text, "non local key") || strings.Contains(text, "cluster is down") // to a script whose slot moves
}

// whole is the same call with the script's source.
func (sc script) whole(args []any) []any {
	all := append([]any(nil), args...)
	all[0], all[1] = "eval", sc.source
	return all
}

// verdict tells the gate how it went and gives the error its kind.
func (s *Store) verdict(err error) error {
	if err == nil || errors.Is(err, redis.Nil) {
		s.breaker.leave(true)
		return nil
	}
	var answered redis.Error
	if errors.As(err, &answered) { // the server lives, and refuses
		s.breaker.leave(true)
		if busy(err) {
			return fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		return fmt.Errorf("%w: %w", ErrReply, err)
	}
	s.breaker.leave(errors.Is(err, context.Canceled)) // the caller left: no sign of anything
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// size of a double, in bytes.
const size = 8

// double is the i-th number after skip bytes. The caller has checked the length.
func double(text string, skip, i int) float64 {
	at := text[skip+i*size : skip+i*size+size]
	var n uint64
	for k := range size {
		n |= uint64(at[k]) << (8 * k)
	}
	return math.Float64frombits(n)
}

func millis(d time.Duration) float64 { return max(1, float64(d.Milliseconds())) }

// now is the scripts' time argument: 0 is the server's clock.
func (s *Store) now() float64 {
	if s.config.Now == nil {
		return 0
	}
	return float64(s.config.Now())
}

func isNoScript(err error) bool { return redis.HasErrorPrefix(err, "NOSCRIPT") }

// gated runs f if the gate lets it.
func (s *Store) gated(f func() error) error {
	if err := s.breaker.enter(); err != nil {
		return err
	}
	return s.verdict(f())
}
