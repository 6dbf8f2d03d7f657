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
	b := s.breakerFor(ctx, args[header])
	if err := b.enter(); err != nil {
		return "", err
	}
	cmd := redis.NewStringCmd(ctx, args...)
	err := s.client.Process(ctx, cmd)
	if isNoScript(err) {
		cmd = redis.NewStringCmd(ctx, sc.whole(args)...)
		err = s.client.Process(ctx, cmd)
	}
	return cmd.Val(), b.verdict(err)
}

// runAll calls the script several times in one round trip, a command for each call. The
// error is of the round trip; a command may have one of its own (see failure).
func (s *Store) runAll(ctx context.Context, sc script, calls [][]any) ([]*redis.StringCmd, error) {
	if s.cluster {
		return s.runEach(ctx, sc, calls), nil
	}
	if err := s.breaker.enter(); err != nil {
		return nil, err
	}
	cmds := make([]*redis.StringCmd, len(calls))
	for i, args := range calls {
		cmds[i] = redis.NewStringCmd(ctx, args...)
	}
	err := s.send(ctx, sc, calls, cmds)
	var answered redis.Error
	if errors.As(err, &answered) && !busy(err) {
		err = nil // of one command and not of the others
	}
	return cmds, s.breaker.verdict(err)
}

// runEach is runAll in a cluster, where some servers may be away and others not: each command has an
// error of its own alone.
func (s *Store) runEach(ctx context.Context, sc script, calls [][]any) []*redis.StringCmd {
	cmds := make([]*redis.StringCmd, len(calls))
	var sent []*redis.StringCmd
	var args [][]any
	var breakers []*breaker
	for i := range calls {
		cmds[i] = redis.NewStringCmd(ctx, calls[i]...)
		b := s.breakerFor(ctx, calls[i][header])
		if err := b.enter(); err != nil {
			cmds[i].SetErr(err)
			continue
		}
		sent, args, breakers = append(sent, cmds[i]), append(args, calls[i]), append(breakers, b)
	}
	_ = s.send(ctx, sc, args, sent) // each command has its own error
	for i, cmd := range sent {
		_ = breakers[i].verdict(cmd.Err()) // which failure tells of
	}
	return cmds
}

// send runs commands of a script in one round trip, and those again whose server does not know it.
func (s *Store) send(ctx context.Context, sc script, calls [][]any, cmds []*redis.StringCmd) error {
	if len(cmds) == 0 {
		return nil
	}
	pipe := s.client.Pipeline()
	for _, cmd := range cmds {
		_ = pipe.Process(ctx, cmd) // only queues
	}
	_, err := pipe.Exec(ctx)
	if !slices.ContainsFunc(cmds, func(c *redis.StringCmd) bool { return isNoScript(c.Err()) }) {
		return err
	}
	pipe = s.client.Pipeline()
	for i, cmd := range cmds {
		if isNoScript(cmd.Err()) {
			*cmd = *redis.NewStringCmd(ctx, sc.whole(calls[i])...)
			_ = pipe.Process(ctx, cmd)
		}
	}
	_, err = pipe.Exec(ctx)
	return err
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

// verdict tells the breaker how it went and gives the error its kind.
func (b *breaker) verdict(err error) error {
	if err == nil || errors.Is(err, redis.Nil) {
		b.leave(true)
		return nil
	}
	var answered redis.Error
	if errors.As(err, &answered) { // the server lives, and refuses
		b.leave(true)
		if busy(err) {
			return fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		return fmt.Errorf("%w: %w", ErrReply, err)
	}
	b.leave(errors.Is(err, context.Canceled)) // the caller left: no sign of anything
	return fmt.Errorf("%w: %w", errUnanswered, err)
}

// verdict is that of what concerns no account: the only server's, or any's.
func (s *Store) verdict(err error) error { return s.breaker.verdict(err) }

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
