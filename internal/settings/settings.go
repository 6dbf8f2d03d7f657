// Package settings is beside the request path: it decides which content of leaky.yaml and of the
// limits files it names a part follows. A content counts only when it is whole and good; else the
// last good one stays, also for a part that starts, which finds it in the state folder.
//
// What the files hold now is one of:
//
//	followed  it reads well, and nothing of weight is missing
//	wrong     it cannot be read, has a mistake, or changes while it is looked at
//	held      it reads well but lacks what the last good one had (package-level lost): a file
//	          that was cut looks like this. Accept, which is `leaky accept`, says that it is meant
//	refused   an Envoy did not take it, which xds says with Refuse
//
// Parts that share a state folder share its memory: what one took, the others start from.
package settings

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
)

// pause is between the two looks at a content that is new.
const pause = 100 * time.Millisecond

// Settings are one good content.
type Settings struct {
	Config  *config.Config
	Limits  *limits.Set   // of our own domain
	Domains []*limits.Set // of other Envoys
	Hash    string        // of all files' text

	path string // of leaky.yaml
	text text
}

// Source is where settings come from.
type Source struct {
	path, dir string
	getenv    func(string) string
	log       *slog.Logger

	mu      sync.Mutex
	now     *Settings
	named   []string // limits files of the newest leaky.yaml that could be read, followed or not
	problem error
	unkept  bool     // now is not written down for the next start yet: the disk was full, say
	unsaid  *refusal // that is not written down yet; nil: none
}

// New is the source of leaky.yaml at path (empty: the built-in one, which never changes). What was
// good is kept in the state folder dir. It reads nothing yet.
func New(path, dir string, getenv func(string) string, log *slog.Logger) *Source {
	return &Source{path: path, dir: dir, getenv: getenv, log: log}
}

// Open gives the settings to start with: the files' content, or the last good one, and then
// Problem says why. It is an error only where no content was ever good.
func (s *Source) Open() (*Settings, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before, err := s.lastGood()
	if err != nil {
		s.log.Warn("what was good last is not known", slog.Any("error", err))
	}
	if before != nil {
		s.now = before.settings
	}
	next, err := s.whole(s.now)
	if err == nil {
		err = s.judge(next)
	}
	if s.problem = err; err == nil {
		s.take(next)
	}
	if s.now == nil {
		return nil, err
	}
	return s.now, nil
}

// Refresh gives the settings to follow now. An error says why the files' present content is not
// followed; the settings are the last good ones then.
func (s *Source) Refresh() (*Settings, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next, err := s.whole(s.now)
	if err == nil {
		err = s.judge(next)
	}
	switch {
	case err == nil && (s.now == nil || next.Hash != s.now.Hash):
		s.take(next)
	case err != nil && next != nil && s.now != nil && next.Hash == s.now.Hash: // refused after we took it
		if before, _ := s.lastGood(); before != nil {
			s.now = before.settings
		}
	}
	s.problem = err
	return s.now, err
}

// Problem is why the files' present content is not followed; nil: it is.
func (s *Source) Problem() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.problem
}

// Files are what to look at for changes: the files themselves, and what is said of them. They are asked
// for before each look, and what could not be written down by then is written.
func (s *Source) Files() []string {
	if s.path == "" {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.catchUp()
	return append([]string{s.path, s.kept(acceptedFile), s.kept(refusedFile)}, s.named...)
}

// Refuse goes back to the settings before, since an Envoy did not take those of this hash. If a
// newer content is followed already, that one stays.
func (s *Source) Refuse(hash string, before *Settings, because error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.problem = because
	if before != nil && s.now != nil && s.now.Hash == hash {
		s.now = before
		s.remember()
	}
	s.unsaid = &refusal{hash: hash, because: because.Error()}
	if err := s.say(); err != nil {
		s.log.Warn("a refusal is not written down yet: other parts do not hear of it", slog.Any("error", err))
	}
}

// take follows a content and remembers it for the next start.
func (s *Source) take(next *Settings) {
	s.now = next
	if s.path != "" {
		s.remember()
	}
}

// judge is why a content that reads well is not followed all the same.
func (s *Source) judge(next *Settings) error {
	if s.path == "" {
		return nil
	}
	if reason, refused := s.refused(next.Hash); refused {
		return &RefusedError{Path: s.path, Hash: next.Hash, Reason: reason}
	}
	if s.now == nil || next.Hash == s.now.Hash || s.accepted(next.Hash) {
		return nil
	}
	if gone := lost(s.now, next); len(gone) > 0 {
		return &HeldError{Path: s.path, Lost: gone}
	}
	return nil
}

// HeldError is a content that waits for somebody to say that it is meant.
type HeldError struct {
	Path string
	Lost []string // what it lacks of the last good one
}

func (e *HeldError) Error() string {
	return fmt.Sprintf("%s is held, the last good content stays: %s (mend it, or run `leaky accept` if it is meant)", e.Path,
		strings.Join(e.Lost, "; "))
}

// RefusedError is a content that an Envoy did not take.
type RefusedError struct {
	Path, Hash string
	Reason     string
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("%s was refused by an Envoy, the last good content stays: %s (mend it, or try again with `leaky accept`)", e.Path, e.Reason)
}

// errChanging is a file in the middle of a write.
var errChanging = errors.New("it changes while it is read")

// whole reads the files, twice unless they are what is followed: a file may be half-written.
func (s *Source) whole(before *Settings) (*Settings, error) {
	next, err := s.read()
	if s.path == "" || err == nil && before != nil && before.Hash == next.Hash {
		return next, err
	}
	<-time.After(pause)
	again, againErr := s.read()
	if err == nil && againErr == nil && next.Hash != again.Hash {
		return nil, fmt.Errorf("%s: %w", s.path, errChanging)
	}
	return again, againErr
}
