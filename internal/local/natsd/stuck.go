package natsd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
)

const (
	// lookEvery is how often it is tried whether messages are stored, and hurryEvery the same after the
	// server has said that it did not store one, until one is.
	lookEvery, hurryEvery = 30 * time.Second, 2 * time.Second
	lookWait              = 3 * time.Second
	// stuckLooks is after how many failures in a row a server that has room on disk counts as stuck, and
	// stuckAgain the same of one that has not stored anything since it was started.
	stuckLooks, stuckAgain = 3, 30
	// enoughRoom is what must be free on disk for a new start to help, in bytes.
	enoughRoom = 64 << 20
)

// ErrStuck says that the server does not store although there is room.
var ErrStuck = errors.New("jetstream does not store although the disk has room")

// watch tries, until ctx ends, whether the stream of events takes a message. After a disk was full, or
// the bound of the files was reached that was taken from what was free at the start, a nats-server does
// not store again by itself, and does at once when it is started anew, with nothing lost. So a server
// that is stuck ends (ErrStuck), for whoever supervises it to start it again.
func (s *Server) watch(ctx context.Context) error {
	select {
	case <-s.ready:
	case <-ctx.Done():
		return nil
	}
	conn, err := nats.Connect("", nats.InProcessServer(s.nats), nats.Name("leaky-self"), s.credentials())
	if err != nil {
		s.log.log.LogAttrs(ctx, slog.LevelWarn, "nats is not watched", slog.Any("error", err))
		<-ctx.Done()
		return nil
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		return fmt.Errorf("watch nats: %w", err)
	}
	hurry := min(s.config.Look, hurryEvery)
	failed, stored, next := 0, false, time.Now() // at once: what it stores from the start tells stuck from full
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.log.trouble:
			if soon := time.Now().Add(hurry); soon.Before(next) {
				next = soon
			}
			continue
		case <-time.After(time.Until(next)):
		}
		looking, cancel := context.WithTimeout(ctx, lookWait)
		err := usage.Probe(looking, js)
		cancel()
		refused, refuses := errors.AsType[*usage.RefusesToStore](err)
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			if failed > 0 {
				s.log.log.LogAttrs(ctx, slog.LevelInfo, "nats stores again")
			}
			failed, stored, next = 0, true, time.Now().Add(s.config.Look)
		case refuses:
			next = time.Now().Add(hurry)
			if failed++; failed == 1 {
				s.log.log.LogAttrs(ctx, slog.LevelError, "nats does not store", slog.String("reason", refused.Reason()), slog.Any("error", err))
			}
			if (stored && failed >= stuckLooks || failed >= stuckAgain) && hasRoom(s.config.Dir) {
				return fmt.Errorf("%w: %w", ErrStuck, err)
			}
		default: // it does not answer at all: it stops, or starts
			next = time.Now().Add(hurry)
		}
	}
}

// credentials are those that the server asks for.
func (s *Server) credentials() nats.Option {
	if len(s.config.Users) == 0 {
		return func(*nats.Options) error { return nil }
	}
	owner := s.config.Users[0]
	return nats.UserInfo(owner.Name, owner.Password)
}

// hasRoom reports whether there is some on the disk of a folder; where that cannot be told, there is.
func hasRoom(dir string) bool {
	var disk syscall.Statfs_t
	if err := syscall.Statfs(dir, &disk); err != nil {
		return true
	}
	return int64(disk.Bavail)*int64(disk.Bsize) >= enoughRoom //nolint:unconvert // not everywhere of these types
}
