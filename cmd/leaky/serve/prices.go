package serve

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/leaky-tokens/leaky-tokens/deploy"
	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/prices"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/secretfile"
	"github.com/leaky-tokens/leaky-tokens/internal/settings"
	"github.com/leaky-tokens/leaky-tokens/ratelimit"
)

// priceList is the list of prices that leaky.yaml names, as it was good last. A list that has a mistake,
// is gone, or is the beginning of the one that is followed, as a cut one is, changes nothing; and a part
// that starts while it is so starts from what was good, which the state folder keeps.
type priceList struct {
	path func() string // of the list now; empty: the built-in one
	kept string        // where the last good one is kept
	log  *slog.Logger
	live *prices.Live

	mu      sync.Mutex
	good    goodPrices
	unkept  bool // good is not written down for the next start yet: the disk was full, say
	problem error
}

// goodPrices is a list that was good, as it is kept.
type goodPrices struct {
	Path string `json:"path"`
	Hash string `json:"sha256"` // of Text
	Text string `json:"text"`
}

func hashed(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// openPrices reads the list, or what was good last. It is an error only where none was.
func (s service) openPrices() (*priceList, *prices.Table, error) {
	l := &priceList{log: s.log, kept: filepath.Join(s.dir, settings.Folder, "last-good-prices.json"),
		path: func() string { return s.files.Beside(s.live.now.Load().Prices.File) }}
	before, err := l.remembered()
	if err != nil {
		l.log.Warn("what was the last good list of prices is not known", slog.Any("error", err))
	}
	l.good = before
	table, err := l.read()
	if err != nil && before.Text != "" {
		if table, againErr := prices.Parse(before.Path, []byte(before.Text)); againErr == nil {
			l.problem = err
			l.log.Warn("starting from the last good list of prices", slog.Any("because", err))
			return l, table, nil
		}
	}
	return l, table, err
}

// prices is the list at the start.
func (s service) prices() (*prices.Table, error) {
	_, table, err := s.openPrices()
	return table, err
}

// livePrices is that list, followed until ctx ends, also where leaky.yaml names another one. Its file is
// looked at as often as every says, 0 for the usual second.
func (s service) livePrices(ctx context.Context, every time.Duration) (*prices.Live, error) {
	l, table, err := s.openPrices()
	if err != nil {
		return nil, err
	}
	l.live = prices.NewLive(table)
	s.live.prices.Store(l)
	go config.Watcher{Files: l.files, Every: every}.Run(ctx, l.follow)
	return l.live, nil
}

// files are what to look at. They are asked for before each look, and a list that could not be kept by then
// is kept.
func (l *priceList) files() []string {
	l.mu.Lock()
	if l.unkept && l.keep() == nil {
		l.unkept = false
		l.log.Info("the list of prices is kept for the next start")
	}
	l.mu.Unlock()
	return []string{l.path()}
}

// keep writes the last good list down for the next start.
func (l *priceList) keep() error {
	content, err := json.Marshal(l.good)
	if err == nil {
		err = secretfile.Replace(l.kept, content)
	}
	return err
}

// follow takes the list as it is now, if it is good.
func (l *priceList) follow() {
	table, err := l.read()
	if err == nil {
		l.live.Set(table)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil && (l.problem == nil || l.problem.Error() != err.Error()) {
		l.log.Error("prices not taken, the last good ones stay", slog.Any("error", err))
	}
	l.problem = err
}

// Problem is why the present list is not followed; nil: it is.
func (l *priceList) Problem() error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.problem
}

// read gives the list as it is now, and keeps one that is good.
func (l *priceList) read() (*prices.Table, error) {
	path, text := l.path(), deploy.DefaultPrices
	if path == "" {
		return prices.Parse("built-in prices.yaml", text)
	}
	text, err := config.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read prices: %w", err)
	}
	text = bytes.TrimPrefix(text, []byte("\ufeff")) // which a beginning may have, or not
	table, err := prices.Parse(path, text)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if before := l.good; before.Path == path && cut(table, string(text), before) {
		return nil, fmt.Errorf("%s is the beginning of the list that is followed, and likely cut; if it is meant, give it another version", path)
	}
	next := goodPrices{Path: path, Hash: hashed(string(text)), Text: string(text)}
	if next == l.good {
		return table, nil
	}
	l.good = next
	err = l.keep()
	if l.unkept = err != nil; l.unkept { // the list is followed all the same
		l.log.Warn("the list of prices is not kept for the next start yet", slog.Any("error", err))
	}
	return table, nil
}

// cut reports whether a list is likely cut. One of another version is meant to be shorter, unless it is the
// very beginning of the one before, whose version it was cut in.
func cut(table *prices.Table, text string, before goodPrices) bool {
	if was, err := prices.Parse(before.Path, []byte(before.Text)); err == nil && was.List() != table.List() {
		return settings.Begins(text, before.Text)
	}
	return settings.Cut(text, before.Text)
}

// remembered is what is kept; without a text: nothing.
func (l *priceList) remembered() (before goodPrices, err error) {
	content, err := os.ReadFile(l.kept)
	if errors.Is(err, fs.ErrNotExist) {
		return goodPrices{}, nil
	}
	if err != nil {
		return goodPrices{}, err
	}
	if err := json.Unmarshal(content, &before); err != nil || before.Hash != hashed(before.Text) {
		return goodPrices{}, fmt.Errorf("%s is damaged", l.kept)
	}
	return before, nil
}

// priced freezes costs in the events of a publisher.
type priced struct {
	list *prices.Live
	to   ratelimit.Publisher
}

// Publish implements ratelimit.Publisher.
func (p priced) Publish(ctx context.Context, e usage.Event) error {
	p.list.Freeze(&e)
	return p.to.Publish(ctx, e)
}
