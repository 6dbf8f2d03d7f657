package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/netaddr"
	"github.com/leaky-tokens/leaky-tokens/internal/wording"
)

// Overview is what GET /v1/status answers.
type Overview struct {
	PID      int       `json:"pid"` // of the supervisor
	Started  time.Time `json:"started"`
	StateDir string    `json:"stateDir"`
	Stopping bool      `json:"stopping"`
	Parts    []Status  `json:"parts"` // in start order
}

// Ready tells whether every part serves, but for those stopped on purpose.
func (o Overview) Ready() bool {
	for _, p := range o.Parts {
		if !p.Up() && p.State != StateStopped {
			return false
		}
	}
	return len(o.Parts) > 0
}

type failure struct {
	Error string `json:"error"`
}

type control struct {
	server *http.Server
	failed chan error
}

// listenControl opens the control socket; only the user who runs the supervisor may
// connect, since the folder and the socket are closed to others.
func listenControl(runDir string) (net.Listener, error) {
	ln, err := netaddr.Addr{Network: "unix", Path: filepath.Join(runDir, socketName)}.Listen()
	if err != nil {
		return nil, fmt.Errorf("open control socket: %w", err)
	}
	return ln, nil
}

func (s *Supervisor) serveControl(ln net.Listener) *control {
	c := &control{server: &http.Server{Handler: s.routes(), ReadHeaderTimeout: 5 * time.Second}, failed: make(chan error, 1)}
	go func() {
		if err := c.server.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			c.failed <- fmt.Errorf("serve control socket: %w", err)
		}
	}()
	return c
}

func (c *control) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := c.server.Shutdown(ctx); err != nil {
		return errors.Join(err, c.server.Close())
	}
	return nil
}

func (s *Supervisor) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, Overview{PID: os.Getpid(), Started: s.started, StateDir: s.cfg.StateDir, Stopping: s.stopping(),
			Parts: s.Statuses()})
	})
	mux.HandleFunc("POST /v1/down", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusAccepted, struct{}{})
		s.askDown()
	})
	mux.HandleFunc("POST /v1/replan", func(w http.ResponseWriter, r *http.Request) {
		changes, err := s.replan(r.Context())
		if err != nil {
			answer(w, http.StatusConflict, failure{err.Error()})
			return
		}
		answer(w, http.StatusOK, changes)
	})
	for name, op := range map[string]operation{"start": opStart, "stop": opStop, "restart": opRestart, "kill": opKill} {
		mux.HandleFunc("POST /v1/parts/{name}/"+name, func(w http.ResponseWriter, r *http.Request) { s.operate(w, r, op) })
	}
	return mux
}

func (s *Supervisor) operate(w http.ResponseWriter, r *http.Request, op operation) {
	part, err := s.find(r.PathValue("name"))
	if err != nil && op == opStart {
		part, err = s.further(r.Context(), r.PathValue("name"))
	}
	if err != nil {
		answer(w, http.StatusNotFound, failure{err.Error()})
		return
	}
	if s.stopping() {
		answer(w, http.StatusConflict, failure{"the stack is going down"})
		return
	}
	if err := part.do(r.Context(), op); err != nil {
		answer(w, http.StatusConflict, failure{err.Error()})
		return
	}
	answer(w, http.StatusOK, part.snapshot())
	if op == opStop {
		s.drop(part)
	}
}

func (s *Supervisor) find(name string) (*runner, error) {
	if r := find(s.all(), name); r != nil {
		return r, nil
	}
	return nil, UnknownPart(name, s.names())
}

// UnknownPart is the error for a name that is none of names, with the nearest one.
func UnknownPart(name string, names []string) error {
	return fmt.Errorf("no part is named %q%s (parts: %s)", name, wording.DidYouMean(name, names), strings.Join(names, ", "))
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the client may be gone; nothing to do about it
}
