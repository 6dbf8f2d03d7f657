package judge

import (
	"fmt"
	"strings"
	"time"
)

// Outcome is how a call ended for the client.
type Outcome string

const (
	Completed  Outcome = "completed"  // 200, and the answer ended as its protocol says
	Aborted    Outcome = "aborted"    // 200, and the client hung up in the middle
	Broken     Outcome = "broken"     // 200, and the answer stopped before its end
	Refused    Outcome = "refused"    // 429: a limit said no
	Failed     Outcome = "failed"     // no answer, or 5xx
	Declined   Outcome = "declined"   // the provider refused or failed, as it was told to
	Unexpected Outcome = "unexpected" // an answer that the demo never asks for, such as 401
)

// Call is what one client knows of one request. Times are since the demo began.
type Call struct {
	Account    int           // index of the account
	Provider   string        // whose route was called
	Stream     bool          // SSE was asked for
	ID         string        // x-request-id of the answer, empty when none came
	Outcome    Outcome       //
	Status     int           // HTTP status, 0 when no answer came
	Blind      string        // x-leaky-outage: the mode in which it was admitted without Redis, else empty
	Held       int64         // x-leaky-hold: tokens held, 0 when the answer had none
	Input      int64         // tokens as the answer told, -1 when it told none
	Output     int64         // tokens as the answer told, -1 when it told none
	RetryAfter time.Duration // of a refusal; below zero when a retry never fits
	Type, Code string        // of a refusal in OpenAI's shape
	Manner     string        // of a call in a rude demo
	Untold     bool          // the stub was told to leave the usage out
	Problem    string        // what was wrong, for all but Completed and Aborted
	Sent       time.Duration // just before the request left
	Answered   time.Duration // when the head of the answer was there
	Ended      time.Duration // when the last byte was there, or the client hung up
}

// Admitted tells whether the limiter let the call pass.
func (c *Call) Admitted() bool { return c.Status == 200 }

// Dry tells whether the pool was too small for the call.
func (c *Call) Dry() bool { return c.Outcome == Refused && c.Code == CodeDry }

// Told says what became of a call, for an error.
func (c *Call) Told() string {
	return strings.TrimSpace(fmt.Sprintf("%s with status %d %s %s", c.Outcome, c.Status, c.Code, c.Problem))
}
