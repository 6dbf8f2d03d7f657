package settings

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/leaky-tokens/leaky-tokens/internal/secretfile"
)

// Folder is where the state folder keeps what was good.
const Folder = "config"

// Files of the folder. leaky.yaml may hold passwords, so only their owner reads them.
const (
	lastGoodFile = "last-good.json"
	acceptedFile = "accepted" // hash of the content that is meant
	refusedFile  = "refused"  // hash of the content that an Envoy refused, and why
)

// formers is how many earlier contents are known again: who goes back to one means it.
const formers = 32

// memory is what is kept of a good content.
type memory struct {
	Path   string   `json:"path"`   // of leaky.yaml
	Hash   string   `json:"sha256"` // of Files
	Files  text     `json:"files"`
	Former []string `json:"former"` // hashes, the newest last

	settings *Settings
}

func (s *Source) kept(name string) string { return filepath.Join(s.dir, Folder, name) }

// lastGood is what the state folder remembers; nil: nothing of this leaky.yaml that reads well.
func (s *Source) lastGood() (*memory, error) {
	m, err := s.remembered()
	if m == nil || err != nil {
		return nil, err
	}
	m.settings, err = Of(s.path, m.Files, s.getenv)
	if err != nil { // it was good to another version of us
		return nil, fmt.Errorf("%s: %w", s.kept(lastGoodFile), err)
	}
	return m, nil
}

// remembered reads the memory, and takes one that is cut or of another leaky.yaml for none.
func (s *Source) remembered() (*memory, error) {
	if s.path == "" {
		return nil, nil
	}
	content, err := os.ReadFile(s.kept(lastGoodFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	m := &memory{}
	if err := json.Unmarshal(content, m); err != nil || m.Hash != m.Files.hash() {
		return nil, fmt.Errorf("%s is damaged", s.kept(lastGoodFile))
	}
	if m.Path != s.path {
		return nil, nil
	}
	return m, nil
}

// remember keeps what is followed. Where it cannot, a part that starts would begin with an older content
// than the others run, so catchUp tries again.
func (s *Source) remember() {
	err := s.keep(s.now)
	if s.unkept = err != nil; s.unkept {
		s.log.Warn("the configuration is not kept for the next start yet", slog.Any("error", err))
	}
}

// catchUp writes down what could not be written before. It is called each second, and says nothing of
// another failure. A content that has been refused since is not kept: who refused it keeps the one before.
func (s *Source) catchUp() {
	if s.unkept {
		if _, refused := s.refused(s.now.Hash); refused {
			s.unkept = false
		} else if s.keep(s.now) == nil {
			s.unkept = false
			s.log.Info("the configuration is kept for the next start")
		}
	}
	_ = s.say()
}

// refusal is what an Envoy said of a content.
type refusal struct{ hash, because string }

// errUnkept is a refusal that waits.
var errUnkept = errors.New("the content before is not kept yet")

// say writes a refusal down for other parts and the next start, once the content before is: who hears of
// the one looks for the other.
func (s *Source) say() error {
	if s.unsaid == nil {
		return nil
	}
	if s.unkept {
		return errUnkept
	}
	err := s.write(refusedFile, []byte(s.unsaid.hash+" "+s.unsaid.because+"\n"))
	if err == nil {
		s.unsaid = nil
	}
	return err
}

// keep writes a content down for the next start.
func (s *Source) keep(next *Settings) error {
	m := memory{Path: s.path, Hash: next.Hash, Files: next.text}
	if before, err := s.remembered(); err == nil && before != nil {
		if before.Hash == next.Hash {
			return nil
		}
		m.Former = slices.DeleteFunc(append(before.Former, before.Hash), func(hash string) bool { return hash == next.Hash })
		m.Former = m.Former[max(0, len(m.Former)-formers):]
	}
	content, err := json.Marshal(m)
	if err == nil {
		err = s.write(lastGoodFile, content)
	}
	return err
}

// write leaves the file to the owner of its folder: a person's command may run as root, and the parts
// do not.
func (s *Source) write(name string, content []byte) error {
	path := s.kept(name)
	if err := secretfile.Replace(path, content); err != nil {
		return err
	}
	folder, err := os.Stat(filepath.Dir(path))
	if err != nil {
		return err
	}
	if of, ok := folder.Sys().(*syscall.Stat_t); ok && os.Geteuid() == 0 && of.Uid != 0 {
		return os.Chown(path, int(of.Uid), int(of.Gid))
	}
	return nil
}

// accepted reports whether somebody said that a content is meant, or whether it was good before.
func (s *Source) accepted(hash string) bool {
	if content, err := os.ReadFile(s.kept(acceptedFile)); err == nil && strings.TrimSpace(string(content)) == hash {
		return true
	}
	m, err := s.remembered()
	return err == nil && m != nil && (m.Hash == hash || slices.Contains(m.Former, hash))
}

// refused tells why an Envoy refused a content.
func (s *Source) refused(hash string) (because string, refused bool) {
	if s.unsaid != nil && s.unsaid.hash == hash {
		return s.unsaid.because, true
	}
	content, err := os.ReadFile(s.kept(refusedFile))
	if err != nil {
		return "", false
	}
	of, because, _ := strings.Cut(strings.TrimSpace(string(content)), " ")
	return because, of == hash
}

// Accept says that the files' present content is meant, whatever it lacks and whoever refused it
// before. It returns what it lacks of the last good one. A content that does not read well is an
// error.
func (s *Source) Accept() (gone []string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.path == "" {
		return nil, nil
	}
	next, err := s.read()
	if err != nil {
		return nil, err
	}
	return s.accept(next)
}

// Expect is Accept of a content that will be written into the files.
func (s *Source) Expect(next *Settings) (gone []string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.accept(next)
}

func (s *Source) accept(next *Settings) (gone []string, err error) {
	before, err := s.lastGood()
	if err == nil && before != nil {
		gone = lost(before.settings, next)
	}
	if err := s.write(acceptedFile, []byte(next.Hash+"\n")); err != nil {
		return nil, fmt.Errorf("accept configuration: %w", err)
	}
	if _, refused := s.refused(next.Hash); refused {
		if err := os.Remove(s.kept(refusedFile)); err != nil {
			return nil, fmt.Errorf("accept configuration: %w", err)
		}
	}
	return gone, nil
}

// Lost is what a content lacks of the last good one, for people to look at.
func (s *Source) Lost(next *Settings) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	before, err := s.lastGood()
	if err != nil || before == nil || s.accepted(next.Hash) {
		return nil
	}
	return lost(before.settings, next)
}
