package supervisor

import (
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/leaky-tokens/leaky-tokens/internal/retry"
)

const (
	backoffFirst   = 200 * time.Millisecond
	backoffMost    = 10 * time.Second
	backoffHealthy = 30 * time.Second // so long ready, and a crash counts as the first again
)

// restarts says how long to wait before a crashed part starts again.
type restarts struct{ pauses backoff.BackOff }

// next is the wait after a run that was ready for so long.
func (r *restarts) next(ready time.Duration) time.Duration {
	if r.pauses == nil {
		r.pauses = retry.Policy{First: backoffFirst, Most: backoffMost}.Pauses()
	}
	if ready >= backoffHealthy {
		r.pauses.Reset()
	}
	return r.pauses.NextBackOff()
}
