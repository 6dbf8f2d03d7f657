package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"syscall"
	"time"
)

// ErrDown says that no supervisor runs on the folder.
var ErrDown = errors.New("nothing is running: start it with `leaky up`")

// Client talks to the supervisor of one state folder.
type Client struct {
	runDir   string
	http     *http.Client
	patience time.Duration // how long all parts may take to end
}

// NewClient dials nothing yet.
func NewClient(runDir string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", filepath.Join(runDir, socketName))
	}
	// One request takes at most a graceful stop (10 s) and a kill; keep-alive would hold back the server's own end.
	return &Client{runDir: runDir, patience: 40 * time.Second, http: &http.Client{Timeout: 30 * time.Second,
		Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}}
}

// Status is the state of every part. ErrDown when no supervisor answers.
func (c *Client) Status(ctx context.Context) (Overview, error) {
	var o Overview
	err := c.call(ctx, http.MethodGet, "/v1/status", &o)
	return o, err
}

// Start, Stop, Restart and Kill act on one part and return how it is afterwards.
func (c *Client) Start(ctx context.Context, name string) (Status, error) {
	return c.operate(ctx, name, "start")
}

// Stop ends a part; it stays down until started.
func (c *Client) Stop(ctx context.Context, name string) (Status, error) {
	return c.operate(ctx, name, "stop")
}

// Restart ends a part gracefully and starts it again.
func (c *Client) Restart(ctx context.Context, name string) (Status, error) {
	return c.operate(ctx, name, "restart")
}

// Kill sends SIGKILL; the supervisor then treats the part as crashed.
func (c *Client) Kill(ctx context.Context, name string) (Status, error) {
	return c.operate(ctx, name, "kill")
}

// Replan has the supervisor read anew which parts there are to be: new ones are started, and those
// that are gone are stopped.
func (c *Client) Replan(ctx context.Context) (Changes, error) {
	var changes Changes
	err := c.call(ctx, http.MethodPost, "/v1/replan", &changes)
	return changes, err
}

// Down ends every part and the supervisor, and returns when they are gone. A
// supervisor that does not answer is killed; its parts die with it. Nothing running is
// no error: false is returned.
func (c *Client) Down(ctx context.Context) (bool, error) {
	pid, err := Holder(c.runDir)
	if err != nil || pid == 0 {
		return false, err
	}
	if c.ask(ctx) != nil {
		// It holds the lock and does not answer: it starts, ends, or is stuck. A signal is right in each case.
		if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
			return true, fmt.Errorf("stop supervisor %d: %w", pid, err)
		}
	}
	if c.gone(ctx, c.patience) {
		return true, nil
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return true, fmt.Errorf("kill supervisor %d: %w", pid, err)
	}
	if !c.gone(ctx, 5*time.Second) {
		return true, fmt.Errorf("supervisor %d does not end", pid)
	}
	return true, nil
}

// ask tells the supervisor to end, which it answers at once.
func (c *Client) ask(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	return c.call(ctx, http.MethodPost, "/v1/down", nil)
}

// gone waits until nobody holds the lock.
func (c *Client) gone(ctx context.Context, limit time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		if pid, err := Holder(c.runDir); err == nil && pid == 0 {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// WaitReady polls until the part is ready or ctx ends.
func (c *Client) WaitReady(ctx context.Context, name string) (Status, error) {
	last := Status{Name: name}
	for {
		o, err := c.Status(ctx)
		if err != nil {
			return last, err
		}
		for _, p := range o.Parts {
			if p.Name == name {
				last = p
			}
		}
		if last.Up() {
			return last, nil
		}
		select {
		case <-ctx.Done():
			return last, fmt.Errorf("%s is not ready: %s %s", name, last.State, last.Message)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (c *Client) operate(ctx context.Context, name, verb string) (Status, error) {
	var s Status
	err := c.call(ctx, http.MethodPost, "/v1/parts/"+url.PathEscape(name)+"/"+verb, &s)
	return s, err
}

func (c *Client) call(ctx context.Context, method, path string, into any) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://supervisor"+path, nil)
	if err != nil {
		return fmt.Errorf("ask supervisor: %w", err)
	}
	resp, err := c.http.Do(req)
	if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED) {
		return ErrDown
	}
	if err != nil {
		return fmt.Errorf("ask supervisor: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return fmt.Errorf("ask supervisor: %w", err)
	}
	if resp.StatusCode >= 300 {
		var f failure
		if json.Unmarshal(body, &f) != nil || f.Error == "" {
			return fmt.Errorf("ask supervisor: %s %s answered %s", method, path, resp.Status)
		}
		return errors.New(f.Error)
	}
	if into == nil {
		return nil
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("ask supervisor: %w", err)
	}
	return nil
}
