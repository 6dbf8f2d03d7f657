package store

import (
	"context"
	"crypto/sha1" //nolint:gosec // Redis names scripts by SHA-1
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
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

// run calls the script on the shared pipeline, where the calls of many goroutines share
// a round trip. A server that lost its scripts (restart, SCRIPT FLUSH) gets the source.
func (s *Store) run(ctx context.Context, sc script, args []any) (string, error) {
	if err := s.gate.enter(); err != nil {
		return "", err
	}
	cmd := redis.NewStringCmd(ctx, args...)
	err := s.pipe.Process(ctx, cmd)
	if isNoScript(err) {
		cmd = redis.NewStringCmd(ctx, sc.whole(args)...)
		err = s.client.Process(ctx, cmd)
	}
	return cmd.Val(), s.verdict(err)
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
		s.gate.leave(true)
		return nil
	}
	var answered redis.Error
	if errors.As(err, &answered) { // the server lives, and refuses
		s.gate.leave(true)
		return fmt.Errorf("run script: %w", err)
	}
	s.gate.leave(errors.Is(err, context.Canceled)) // the caller left: no sign of anything
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// number is a float64 as the scripts read it back exactly.
func number(v float64) string { return strconv.FormatFloat(v, 'g', 17, 64) }

func millis(d time.Duration) string { return strconv.FormatInt(max(1, d.Milliseconds()), 10) }

// now is the scripts' time argument.
func (s *Store) now() any {
	if s.config.Now == nil {
		return ""
	}
	return s.config.Now()
}

func isNoScript(err error) bool { return redis.HasErrorPrefix(err, "NOSCRIPT") }

// gated runs f if the gate lets it.
func (s *Store) gated(f func() error) error {
	if err := s.gate.enter(); err != nil {
		return err
	}
	return s.verdict(f())
}
