// Package spoolfolder is beside the request path: it says whose the folder is that an Envoy writes its
// usage log into. Each Envoy has one of its own with one meter: a second Envoy's lines would stand in
// the first one's file, which its meter moves away and deletes while the second goes on writing to it.
//
// Two files in the folder are held by processes and name their state folder: envoy.lock by the
// supervisor that runs an Envoy, meter.lock by a meter. Who is about to start an Envoy, or to tell one
// where to write, looks at both. A state folder is the same by its device and inode, since containers
// may see one at several paths, and several at one path.
package spoolfolder

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/leaky-tokens/leaky-tokens/internal/filelock"
)

// Role is what a process does with the folder.
type Role string

// The roles; each has a lock.
const (
	Writer Role = "envoy.lock" // runs the Envoy
	Reader Role = "meter.lock"
)

// SharedError says that the folder is another's.
type SharedError struct {
	Folder string
	Owner  string // path of the state folder; empty: it does not say
}

func (e *SharedError) Error() string {
	owner := "another stack"
	if e.Owner != "" {
		owner = "the stack in " + e.Owner
	}
	return fmt.Sprintf("envoy.spool: %s belongs to %s, which runs; each Envoy has a spool and a meter of its own", e.Folder, owner)
}

// Owner is who a state folder is, to others.
type Owner struct{ path, id string }

// Of is the owner by its state folder. One that cannot be looked at is known by its path.
func Of(stateDir string) Owner {
	o := Owner{path: stateDir}
	if path, err := filepath.Abs(stateDir); err == nil {
		o.path = path
	}
	if info, err := os.Stat(stateDir); err == nil {
		if s, ok := info.Sys().(*syscall.Stat_t); ok {
			o.id = fmt.Sprintf("%d:%d", s.Dev, s.Ino)
		}
	}
	return o
}

// text is what a lock says, and read the reverse.
func (o Owner) text() string { return o.path + "\n" + o.id + "\n" }

func read(text string) Owner {
	path, id, _ := strings.Cut(text, "\n")
	return Owner{path: path, id: strings.TrimSpace(id)}
}

func (o Owner) is(other Owner) bool {
	if o.id == "" || other.id == "" {
		return o.path == other.path
	}
	return o.id == other.id
}

// Check is a SharedError when somebody else's Envoy or meter has the folder. A holder that has not said
// yet who it is counts for none: it is just starting, and looks itself.
func Check(folder string, mine Owner) error {
	for _, role := range []Role{Writer, Reader} {
		text, held, err := filelock.Holder(filepath.Join(folder, string(role)))
		if errors.Is(err, os.ErrPermission) { // another user's folder, which we could not use either
			continue
		}
		if err != nil {
			return fmt.Errorf("look whose %s is: %w", folder, err)
		}
		if owner := read(text); held && text != "" && !owner.is(mine) {
			return &SharedError{Folder: folder, Owner: owner.path}
		}
	}
	return nil
}

// Vacant is Check, and a SharedError too when an Envoy is run on the folder for the own state folder.
func Vacant(folder string, mine Owner) error {
	if err := Check(folder, mine); err != nil {
		return err
	}
	text, held, err := filelock.Holder(filepath.Join(folder, string(Writer)))
	if err == nil && held {
		return &SharedError{Folder: folder, Owner: read(text).path}
	}
	return nil
}

// Claim is a folder that is held.
type Claim struct {
	lock *filelock.Lock // nil: there was no room for it
	// Unsure is why others cannot see that the folder is taken; nil: they can.
	Unsure error
}

// Hold takes the folder for a state folder until Release or the end of the process. It is a SharedError
// when somebody has it in this role, or somebody else in the other. A full disk hides the claim from
// others and hinders nobody: what runs must go on.
func Hold(folder string, as Role, mine Owner) (*Claim, error) {
	return hold(folder, as, mine, filelock.Take)
}

func hold(folder string, as Role, mine Owner, take func(path string) (*filelock.Lock, error)) (*Claim, error) {
	lock, err := take(filepath.Join(folder, string(as)))
	switch {
	case errors.Is(err, filelock.ErrHeld):
		text, _, _ := filelock.Holder(filepath.Join(folder, string(as))) // empty if it has just ended
		return nil, &SharedError{Folder: folder, Owner: read(text).path}
	case full(err):
		return &Claim{Unsure: fmt.Errorf("nobody sees that %s is in use: %w", folder, err)}, nil
	case err != nil:
		return nil, fmt.Errorf("take %s: %w", folder, err)
	}
	c := &Claim{lock: lock}
	// It says so before it looks: of two that come at once in two roles, one at least sees the other.
	if err := lock.Say(mine.text()); full(err) {
		c.Unsure = fmt.Errorf("nobody sees whose %s is: %w", folder, err)
	} else if err != nil {
		c.Release()
		return nil, fmt.Errorf("take %s: %w", folder, err)
	}
	if err := Check(folder, mine); err != nil {
		c.Release()
		return nil, err
	}
	return c, nil
}

// full reports whether there is no room, on the disk or for this user.
func full(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

// Release gives the folder back.
func (c *Claim) Release() {
	if c.lock != nil {
		c.lock.Release()
	}
}
