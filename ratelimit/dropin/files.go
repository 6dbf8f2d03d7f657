package dropin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
)

// Values of CONFIG_TYPE.
const (
	fileConfig = "FILE"
	xdsConfig  = "GRPC_XDS_SOTW"
)

// lookEvery is how often the folder is looked at.
const lookEvery = 400 * time.Millisecond

// folder is where FILE's rules are.
func (s *Settings) folder() string { return filepath.Join(s.RuntimeRoot, s.RuntimeSub, s.RuntimeApp) }

// files are the folder's files as envoyproxy/ratelimit finds them: every file is rules, a link
// to a file too, one to a folder is passed over (Kubernetes' ..data).
func (s *Settings) files() (found []string, err error) {
	err = filepath.WalkDir(s.folder(), func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist) && path != s.folder():
			return nil // gone since it was listed
		case err != nil:
			return err
		case s.IgnoreDotFiles && strings.HasPrefix(d.Name(), ".") && path != s.folder():
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		case d.IsDir():
			return nil
		}
		if info, err := os.Stat(path); err == nil && !info.IsDir() {
			found = append(found, path)
		}
		return nil
	})
	return found, err
}

// read reads the rules of all files.
func (s *Settings) read() ([]*limits.Set, error) {
	files, err := s.files()
	if err != nil {
		return nil, err
	}
	texts := make([]limits.Text, len(files))
	for i, path := range files {
		text, err := config.ReadFile(path)
		if err != nil {
			return nil, err
		}
		texts[i] = limits.Text{Name: path, YAML: text}
	}
	return limits.ParseDomains(texts, s.reading())
}

// reading is how rules are read, wherever they come from.
func (s *Settings) reading() limits.Reading {
	return limits.Reading{Merge: s.Merge, CalendarMonths: s.CalendarMonths}
}

// watchFiles gives the folder's rules to take, now and after each change, until ctx ends.
func (s *Settings) watchFiles(ctx context.Context, take func([]*limits.Set, error)) {
	list := func() []string {
		files, _ := s.files() // read tells why
		return files
	}
	var last []*limits.Set
	config.Watcher{Files: list, Every: lookEvery}.Run(ctx, func() {
		sets, err := s.read()
		if err == nil {
			err = s.vanished(last, sets)
		}
		if err == nil {
			last = sets
		}
		take(sets, err)
	})
}

// vanished is an error where files say that there are no rules any more, which is what a cut file and a
// folder that is being filled look like: everything would pass. A file that is gone took its domain with it.
func (s *Settings) vanished(last, now []*limits.Set) error {
	if len(last) > 0 && len(now) == 0 {
		return fmt.Errorf("%s has no file any more; the last rules stay", s.folder())
	}
	for _, set := range now {
		before := slices.IndexFunc(last, func(l *limits.Set) bool { return l.Domain() == set.Domain() })
		if before >= 0 && len(set.Rules()) == 0 && len(last[before].Rules()) > 0 {
			return fmt.Errorf("domain %s has no rule any more; the last ones stay (remove its file if that is meant)", set.Domain())
		}
	}
	return nil
}
