package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/durable"
	"github.com/leaky-tokens/leaky-tokens/internal/settings"
	"github.com/leaky-tokens/leaky-tokens/xds"
	"github.com/leaky-tokens/leaky-tokens/xds/history"
)

type pushCommand struct {
	File    string        `arg:"" optional:"" type:"path" help:"leaky.yaml to put in the place of the running one, with the limits beside it; the running one as it is now when not given."`
	Why     string        `short:"m" help:"Why, for the history."`
	Timeout time.Duration `default:"30s" help:"How long Envoys may take."`
}

// Help says what happens.
func (pushCommand) Help() string {
	return `Checks the file, gives it to every Envoy and waits until they run it. One that any Envoy refuses, or that has a mistake, changes nothing: the files and the Envoys are as before, the reason is printed, and the exit code is 1.

Editing the files in place does the same without waiting; leaky push without a file tells what became of it.

Examples:

    leaky diff new.yaml && leaky push new.yaml -m "a second provider"
    leaky push
    leaky rollback`
}

// Run pushes.
func (k pushCommand) Run(ctx context.Context, c *cli) error {
	p, live, err := openFiles(ctx, c)
	if err != nil {
		return err
	}
	defer p.close()
	from := cmp.Or(k.File, live.Path)
	texts, err := textsAt(from, live.Path)
	if err != nil {
		return p.refuse(ctx, from, k.Why, err)
	}
	return p.push(ctx, push{live: live, texts: texts, why: k.Why, timeout: k.Timeout, inPlace: from == live.Path})
}

// textsAt reads a configuration as it would be with its leaky.yaml at another path.
func textsAt(from, path string) (map[string]string, error) {
	next, err := settings.Load(from, os.Getenv)
	if err != nil {
		return nil, err
	}
	return history.FilesOf(from, next.Texts()).At(path), nil
}

// refuse notes in the history that a file was not even tried.
func (p *controlPlane) refuse(ctx context.Context, path, why string, because error) error {
	if p.historyProblem != nil {
		return because
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	v := history.Version{At: time.Now().UTC(), Who: whoAmI(), Why: why, State: history.Refused, Reason: because.Error()}
	if err := p.history.Refuse(ctx, v); err != nil {
		return errors.Join(because, fmt.Errorf("(%s is not in the history: %w)", path, err))
	}
	return because
}

// push is one configuration on its way.
type push struct {
	live    xds.Status // before it
	texts   map[string]string
	why     string
	timeout time.Duration
	inPlace bool // the files hold it already
}

// push writes the files, and puts them back if the configuration is refused.
func (p *controlPlane) push(ctx context.Context, c push) error {
	next, err := settings.Of(c.live.Path, c.texts, os.Getenv)
	if err != nil {
		return p.refuse(ctx, c.live.Path, c.why, err)
	}
	if next.Hash == c.live.Content && c.live.Refused == nil {
		fmt.Println("Nothing to do: this is live.")
		return nil
	}
	if p.historyProblem != nil {
		fmt.Fprintf(os.Stderr, "warning: the history will not say who pushed and why: %v\n", p.historyProblem)
	} else if err := p.history.Say(ctx, next.Hash, whoAmI(), c.why); err != nil {
		return err
	}
	before, err := currentTexts(c.texts)
	if err != nil {
		return err
	}
	begun := time.Now()
	gone, err := settings.New(c.live.Path, p.dir, os.Getenv, slog.New(slog.DiscardHandler)).Expect(next)
	if err != nil {
		return err
	}
	for _, what := range gone {
		fmt.Println(what)
	}
	if !c.inPlace {
		if err := writeTexts(c.live.Path, c.texts); err != nil {
			return errors.Join(err, writeTexts(c.live.Path, before))
		}
	}
	if err := p.await(ctx, c, next.Hash, begun); err != nil {
		return errors.Join(err, c.restore(before))
	}
	return p.tell(ctx)
}

// restore undoes what push wrote.
func (c push) restore(before map[string]string) error {
	if c.inPlace {
		return fmt.Errorf("%s still holds what was not taken: mend it, or run `leaky rollback`", c.live.Path)
	}
	if err := writeTexts(c.live.Path, before); err != nil {
		return fmt.Errorf("put the files back: %w", err)
	}
	return fmt.Errorf("%s is as before", c.live.Path)
}

// settle is how long after all Envoys have taken a configuration a refusal of what they ask for
// late, a secret say, is still waited for.
const settle = 300 * time.Millisecond

// await returns when the content is live, or tells why it is not.
func (p *controlPlane) await(ctx context.Context, c push, hash string, begun time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	var since time.Time // it has been live
	for {
		s, err := p.status(ctx)
		switch {
		case err != nil && ctx.Err() == nil:
			return err
		case err == nil && s.Refused != nil && s.Refused.At.After(begun) && (s.Refused.Content == hash || s.Refused.Content == ""):
			return refusal(*s.Refused)
		case err == nil && s.Content == hash && since.IsZero():
			since = time.Now()
		case err == nil && s.Content == hash && time.Since(since) > settle:
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not every Envoy has answered within %v (leaky status)", c.timeout)
		case <-tick.C:
		}
	}
}

// refusal is who refused a configuration, and why.
func refusal(f xds.Failure) error {
	if f.Node == "" {
		return fmt.Errorf("refused: %s", f.Reason)
	}
	return fmt.Errorf("refused by Envoy %s (%s): %s", f.Node, f.Type, f.Reason)
}

// tell says what is live now.
func (p *controlPlane) tell(ctx context.Context) error {
	s, err := p.status(ctx)
	if err != nil {
		return err
	}
	envoys, err := p.envoys(ctx)
	if err != nil {
		return err
	}
	fmt.Printf("Live: %s, which %d Envoys run.\n", s.Version, len(envoys))
	return nil
}

// currentTexts are what the files hold now; one that is not there has no text.
func currentTexts(of map[string]string) (map[string]string, error) {
	found := map[string]string{}
	for path := range of {
		text, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		found[path] = string(text)
	}
	return found, nil
}

// writeTexts puts each text in the place of its file, leaky.yaml last: what it names is there then.
func writeTexts(main string, texts map[string]string) error {
	for path, text := range texts {
		if path != main {
			if err := replaceFile(path, text); err != nil {
				return err
			}
		}
	}
	if text, ok := texts[main]; ok {
		return replaceFile(main, text)
	}
	return nil
}

// replaceFile puts a text in the place of a file in one step and keeps its mode and owner, so that
// parts which run as another user can still read it.
func replaceFile(path, text string) error {
	as := []durable.As{durable.Mode(0o644)}
	if info, err := os.Stat(path); err == nil {
		as = []durable.As{durable.Mode(info.Mode().Perm())}
		if uid, gid := owner(info); uid >= 0 {
			as = append(as, durable.Owner(uid, gid))
		}
	}
	if err := durable.Replace(path, []byte(text), as...); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
