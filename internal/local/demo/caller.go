package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/local/demo/judge"
	"github.com/leaky-tokens/leaky-tokens/internal/retry"

	"github.com/google/uuid"
)

const (
	callTimeout  = 60 * time.Second       // longest a client waits for one call
	longestWait  = 250 * time.Millisecond // of what a refusal asks for, so that the pressure stays
	pauseOnFault = 100 * time.Millisecond // before the next call after a failed one
	maxAnswer    = 16 << 20               // bytes of a JSON answer
)

// caller is one client: it asks, listens, and writes down what came back.
type caller struct {
	http    *http.Client
	gateway string
	account int
	key     string // API key
	text    string // the filling of prompts
	start   time.Time
	targets []judge.Target
	plan    *planner
	book    *book
}

// run asks until ctx ends. A call that is under way then is carried to its end, unless
// lifetime ends too.
func (c *caller) run(ctx, lifetime context.Context) {
	for ctx.Err() == nil {
		call := c.call(lifetime, c.plan.next())
		if lifetime.Err() != nil {
			return // interrupted: what was cut off proves nothing
		}
		c.book.add(call)
		pause := time.Duration(0)
		switch call.Outcome {
		case judge.Refused:
			pause = call.RetryAfter
			if pause < 0 || pause > longestWait {
				pause = longestWait
			}
		case judge.Failed, judge.Broken, judge.Unexpected:
			pause = pauseOnFault
		}
		retry.Pause(ctx, pause)
	}
}

// call carries out one ask.
func (c *caller) call(ctx context.Context, a ask) judge.Call {
	patience := callTimeout
	if a.manner.patience > 0 {
		patience = a.manner.patience
	}
	ctx, hangUp := context.WithTimeout(ctx, patience)
	defer hangUp() // before the end of an answer it closes the connection
	target := &c.targets[a.provider]
	path, body := a.request(target, c.text)
	got := judge.Call{Account: c.account, Provider: target.Provider, Stream: a.stream, Manner: a.manner.name, Untold: a.manner.untold,
		Input: -1, Output: -1, Sent: time.Since(c.start)}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.gateway+path, bytes.NewReader(body))
	if err != nil {
		return c.ended(got, judge.Failed, err.Error())
	}
	req.Header.Set("Content-Type", "application/json")
	c.authorize(req, target, a.offset)
	for i := 0; i+1 < len(a.manner.faults); i += 2 {
		req.Header.Set(a.manner.faults[i], a.manner.faults[i+1])
	}
	resp, err := c.http.Do(req)
	got.Answered = time.Since(c.start)
	if err != nil && a.manner.patience > 0 && ctx.Err() != nil {
		return c.ended(got, judge.Aborted, "")
	}
	if err != nil {
		return c.ended(got, judge.Failed, err.Error())
	}
	defer resp.Body.Close()
	got.Status = resp.StatusCode
	if got.ID = resp.Header.Get("X-Request-Id"); uuid.Validate(got.ID) != nil {
		problem := fmt.Sprintf("status %d with x-request-id %q, which is not Envoy's", got.Status, got.ID)
		got.ID = ""
		return c.ended(got, judge.Unexpected, problem)
	}
	got.Blind = resp.Header.Get("X-Leaky-Outage")
	got.Held, _ = strconv.ParseInt(resp.Header.Get("X-Leaky-Hold"), 10, 64)
	switch {
	case got.Status == http.StatusOK && a.stream:
		return c.listen(ctx, got, resp.Body, target.Protocol, &a)
	case got.Status == http.StatusOK:
		return c.read(ctx, got, resp.Body, target.Protocol, &a)
	case a.manner.declined && got.Status != http.StatusTooManyRequests:
		return c.ended(got, judge.Declined, "")
	}
	return c.refused(got, resp)
}

// authorize shows the key in each of the ways a client may.
func (c *caller) authorize(req *http.Request, t *judge.Target, turn int) {
	switch {
	case turn%4 == 0:
		req.Header.Set("X-Api-Key", c.key)
	case t.Protocol == judge.ProtocolGemini:
		req.Header.Set("X-Goog-Api-Key", c.key)
	default:
		req.Header.Set("Authorization", "Bearer "+c.key)
	}
}

func (c *caller) ended(got judge.Call, o judge.Outcome, problem string) judge.Call {
	got.Outcome, got.Problem, got.Ended = o, problem, time.Since(c.start)
	return got
}

// refused sorts an answer other than 200.
func (c *caller) refused(got judge.Call, resp *http.Response) judge.Call {
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 2_000))
	// Without its id, so that equal problems count as one.
	problem := fmt.Sprintf("status %d: %s", got.Status, strings.ReplaceAll(strings.TrimSpace(string(text)), got.ID, "ID"))
	switch {
	case got.Status == http.StatusTooManyRequests:
		got.RetryAfter = retryAfter(resp.Header)
		var body struct {
			Error struct{ Type, Code, Message any }
		} // Gemini's code is a number
		_ = json.Unmarshal(text, &body)
		got.Type, _ = body.Error.Type.(string)
		got.Code, _ = body.Error.Code.(string)
		message, _ := body.Error.Message.(string)
		return c.ended(got, judge.Refused, message)
	case got.Status >= http.StatusInternalServerError:
		return c.ended(got, judge.Failed, problem)
	}
	return c.ended(got, judge.Unexpected, problem)
}

// retryAfter reads what SDKs read: x-should-retry, retry-after-ms, then retry-after.
func retryAfter(h http.Header) time.Duration {
	if h.Get("X-Should-Retry") == "false" {
		return -1
	}
	if ms, err := strconv.ParseFloat(h.Get("Retry-After-Ms"), 64); err == nil && ms >= 0 {
		return time.Duration(min(ms, 1e9) * float64(time.Millisecond))
	}
	if s, err := strconv.Atoi(h.Get("Retry-After")); err == nil && s >= 0 {
		return time.Duration(min(s, 1e6)) * time.Second
	}
	return longestWait
}

// read takes a JSON answer.
func (c *caller) read(ctx context.Context, got judge.Call, body io.Reader, p judge.Protocol, a *ask) judge.Call {
	text, err := io.ReadAll(io.LimitReader(body, maxAnswer))
	if err == nil {
		got.Input, got.Output, err = parseUsage(text, p)
	}
	return c.over(ctx, got, err == nil, err, a)
}

// listen takes an SSE answer and hangs up after so many chunks when told to.
func (c *caller) listen(ctx context.Context, got judge.Call, body io.Reader, p judge.Protocol, a *ask) judge.Call {
	s := newSSE(body, p)
	for chunks := 1; ; chunks++ {
		err := s.next()
		got.Input, got.Output = s.input, s.output
		switch {
		case s.complete && (errors.Is(err, io.EOF) || err == nil && a.manner.hastily):
			return c.over(ctx, got, true, nil, a)
		case err != nil:
			return c.over(ctx, got, false, err, a)
		case a.hangUp > 0 && chunks >= a.hangUp:
			return c.ended(got, judge.Aborted, "")
		}
	}
}

// over sorts an answer that has ended, by itself or since its client lost patience.
func (c *caller) over(ctx context.Context, got judge.Call, complete bool, err error, a *ask) judge.Call {
	switch {
	case a.manner.declined:
		return c.ended(got, judge.Declined, "")
	case complete:
		return c.ended(got, judge.Completed, "")
	case a.manner.patience > 0 && ctx.Err() != nil:
		return c.ended(got, judge.Aborted, "")
	case errors.Is(err, errNoUsage) && a.manner.untold:
		return c.ended(got, judge.Completed, "")
	}
	return c.ended(got, judge.Broken, fmt.Sprintf("read answer: %v", err))
}
