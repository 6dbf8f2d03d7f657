package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const apiTimeout = 10 * time.Second

// errDown says that nobody listens where a part should.
var errDown = errors.New("the stack is not up: start it with `leaky up`")

// api speaks JSON with one part.
type api struct {
	http *http.Client
	base string // URL without a path

	header map[string]string // of every request, beside the usual ones
}

// call sends in (nil: no body) and decodes the answer into out (nil: it is dropped). It
// waits out a 429 and a 503 a few times, as any client of these routes should.
func (a api) call(ctx context.Context, method, path, bearer string, in, out any) error {
	for attempt := 1; ; attempt++ {
		status, header, body, err := a.once(ctx, method, path, bearer, in)
		if err != nil {
			return err
		}
		if retry := status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable; retry && attempt < 5 && ctx.Err() == nil {
			seconds, _ := strconv.Atoi(header.Get("Retry-After"))
			wait(ctx, min(max(time.Duration(seconds)*time.Second, 500*time.Millisecond), 5*time.Second))
			continue
		}
		if status/100 != 2 {
			return fmt.Errorf("%s %s%s: status %d: %s", method, a.base, path, status, strings.TrimSpace(string(body[:min(len(body), 500)])))
		}
		if out == nil || len(body) == 0 {
			return nil
		}
		if err := json.Unmarshal(body, out); err != nil {
			return fmt.Errorf("%s %s%s: parse answer: %w", method, a.base, path, err)
		}
		return nil
	}
}

func (a api) once(ctx context.Context, method, path, bearer string, in any) (int, http.Header, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	resp, err := a.open(ctx, method, path, bearer, in)
	if err != nil {
		return 0, nil, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, nil, nil, fmt.Errorf("%s %s%s: %w", method, a.base, path, err)
	}
	return resp.StatusCode, resp.Header, body, nil
}

// open sends one request; the caller closes the answer's body.
func (a api) open(ctx context.Context, method, path, bearer string, in any) (*http.Response, error) {
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("%s %s: %w", method, path, err)
		}
		body = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, a.base+path, body)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	for name, value := range a.header {
		req.Header.Set(name, value)
	}
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
	}
	resp, err := a.http.Do(req)
	if down(err) {
		return nil, fmt.Errorf("nothing answers at %s; %w", a.base, errDown)
	}
	if err != nil {
		return nil, fmt.Errorf("call %s: %w", a.base, err)
	}
	return resp, nil
}

// down tells whether nobody listens, rather than somebody who answers badly.
func down(err error) bool {
	var dial *net.OpError
	return errors.As(err, &dial) && dial.Op == "dial" && (errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOENT))
}
