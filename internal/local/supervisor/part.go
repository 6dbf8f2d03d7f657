package supervisor

import (
	"context"
	"syscall"
	"time"
)

// Part is one process of the stack: what to run and how to tell that it serves.
type Part struct {
	Name    string
	Address string   // where it listens, for people; without secrets
	After   []string // first started when all of these were ready once; stopped before them

	External bool // runs elsewhere: never started here, only shown

	Path string   // program; looked up anew at each start, so a rebuilt one takes effect at a restart
	Args []string // without the program's own name
	Env  []string // the whole environment, KEY=value; nothing is inherited
	Dir  string   // working folder; empty: the supervisor's
	User *syscall.Credential
	Caps []uintptr // capabilities that it keeps when User is not root, capabilities(7)

	Prepare func(context.Context) error // before each start, e.g. to make a data folder; may be nil
	Ready   func(context.Context) error // nil error or a Warning: it serves; nil func: ready once it runs

	Drain       func(context.Context) // before StopSignal: let work in progress end; may be nil; ctx gives half the grace
	StopSignal  syscall.Signal        // asks for a graceful end, default SIGTERM
	DeathSignal syscall.Signal        // what the kernel sends when the supervisor dies, default SIGKILL
}

// Warning is what Ready says of a part that serves and needs a person's eye.
type Warning string

func (w Warning) Error() string { return string(w) }

// State is where a part is in its life.
type State string

// The states of a part, as `leaky ps` shows them.
const (
	StateWaiting  State = "waiting"  // for the parts named in After
	StateStarting State = "starting" // runs, not ready yet
	StateReady    State = "ready"
	StateUnready  State = "unready"  // runs, was ready, does not answer now
	StateBackoff  State = "backoff"  // crashed, starts again soon
	StateStopping State = "stopping" // asked to end
	StateStopped  State = "stopped"  // and stays so until started
	StateExternal State = "external" // runs elsewhere
)

// Status is one part as the control API reports it.
type Status struct {
	Name     string    `json:"name"`
	State    State     `json:"state"`
	PID      int       `json:"pid,omitempty"`
	Restarts int       `json:"restarts"` // starts after a crash since the supervisor began
	Since    time.Time `json:"since"`    // when the state was entered
	Address  string    `json:"address,omitempty"`
	RSS      int64     `json:"rssBytes,omitempty"` // resident memory of the process itself, bytes
	PSS      int64     `json:"pssBytes,omitempty"` // the same with shared pages (the one binary) shared out
	Message  string    `json:"message,omitempty"`  // why it is not ready, or what is wrong though it is
}

// Up tells whether nothing is left to wait for.
func (s Status) Up() bool { return s.State == StateReady || s.State == StateExternal }
