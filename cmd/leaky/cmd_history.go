package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/leaky-tokens/leaky-tokens/xds/history"
)

type historyCommand struct {
	output
	Number int `arg:"" optional:"" help:"Version whose files are printed; all versions are listed when not given."`
	Last   int `short:"n" default:"20" help:"How many are listed."`
}

// Help shows how it is used.
func (historyCommand) Help() string {
	return `Versions are kept in NATS: what the files held, who pushed it, when and why, and what became of it. The newest that was taken is live.

Examples:

    leaky history
    leaky history 12
    leaky history -o json | jq '.[] | select(.state == "refused") | .reason'`
}

// Run lists them, the newest first.
func (k historyCommand) Run(ctx context.Context, c *cli) error {
	p, err := openControlPlane(ctx, c)
	if err != nil {
		return err
	}
	defer p.close()
	all, err := p.versions(ctx)
	if err != nil {
		return err
	}
	if k.Number != 0 {
		return p.show(ctx, k)
	}
	live, _ := history.Live(all)
	slices.Reverse(all)
	all = all[:min(len(all), max(k.Last, 1))]
	rows := make([][]string, len(all))
	for i, v := range all {
		state, about := string(v.State), v.Why
		if v.Number == live.Number {
			state = "live"
		}
		if v.State == history.Refused {
			reason, _, _ := strings.Cut(v.Reason, "\n")
			about = strings.TrimSpace(about + " (" + reason + ")")
		}
		rows[i] = []string{fmt.Sprint(v.Number), v.At.Local().Format(time.DateTime), state, cmp.Or(v.Who, "-"), v.Hash[:min(len(v.Hash), 8)],
			about}
	}
	return k.print(os.Stdout, all, []string{"VERSION", "WHEN", "STATE", "WHO", "CONTENT", "WHY"}, rows)
}

// show prints the files of one version.
func (p *controlPlane) show(ctx context.Context, k historyCommand) error {
	v, files, err := p.version(ctx, k.Number)
	if err != nil {
		return err
	}
	if k.Output == "json" {
		return printJSON(os.Stdout, map[string]any{"version": v, "files": files.Texts})
	}
	for _, name := range slices.Sorted(maps.Keys(files.Texts)) {
		fmt.Printf("# %s of version %d\n%s\n", name, v.Number, strings.TrimRight(files.Texts[name], "\n"))
	}
	return nil
}

// version is one version with its files.
func (p *controlPlane) version(ctx context.Context, number int) (history.Version, history.Files, error) {
	if p.historyProblem != nil {
		return history.Version{}, history.Files{}, p.historyProblem
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	v, err := p.history.Get(ctx, number)
	if errors.Is(err, history.ErrUnknown) {
		err = fmt.Errorf("%w (leaky history lists them)", err)
	}
	if err != nil {
		return v, history.Files{}, err
	}
	files, err := p.history.Files(ctx, v)
	return v, files, err
}

type rollbackCommand struct {
	Number  int           `arg:"" optional:"" help:"Version to go back to; the one before the live one when not given, or the live one if the files hold what was refused."`
	Why     string        `short:"m" help:"Why, for the history."`
	Timeout time.Duration `default:"30s" help:"How long Envoys may take."`
}

// Help says what happens.
func (rollbackCommand) Help() string {
	return `Puts the files of an earlier version back and pushes them, as a version of its own.

Examples:

    leaky rollback
    leaky rollback 12 -m "the new provider is slow"`
}

// Run goes back.
func (k rollbackCommand) Run(ctx context.Context, c *cli) error {
	p, live, err := openFiles(ctx, c)
	if err != nil {
		return err
	}
	defer p.close()
	all, err := p.versions(ctx)
	if err != nil {
		return err
	}
	number := k.Number
	if number == 0 {
		if number, err = earlier(all, live.Refused != nil); err != nil {
			return err
		}
	}
	v, files, err := p.version(ctx, number)
	if err != nil {
		return err
	}
	fmt.Printf("Back to version %d of %s.\n", v.Number, v.At.Local().Format(time.DateTime))
	return p.push(ctx, push{live: live, texts: files.At(live.Path), why: cmp.Or(k.Why, fmt.Sprintf("back to version %d", v.Number)),
		timeout: k.Timeout})
}

// earlier is the version to go back to: the live one if something else lies in the files, else
// the newest that was taken before it and is another.
func earlier(all []history.Version, refused bool) (int, error) {
	live, ok := history.Live(all)
	if ok && refused {
		return live.Number, nil
	}
	for _, v := range slices.Backward(all) {
		if v.State == history.Taken && v.Number < live.Number && v.Hash != live.Hash {
			return v.Number, nil
		}
	}
	return 0, errors.New("there is no earlier version (leaky history)")
}

// owner is who a file belongs to; -1: unknown.
func owner(info os.FileInfo) (uid, gid int) {
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(s.Uid), int(s.Gid)
	}
	return -1, -1
}
