package supervisor

import "time"

const (
	backoffFirst   = 200 * time.Millisecond
	backoffMost    = 10 * time.Second
	backoffHealthy = 30 * time.Second // so long ready, and a crash counts as the first again
)

// backoff says how long to wait before a crashed part starts again.
type backoff struct{ last time.Duration }

// next is the wait after a run that was ready for so long.
func (b *backoff) next(ready time.Duration) time.Duration {
	if b.last == 0 || ready >= backoffHealthy {
		b.last = backoffFirst
	} else {
		b.last = min(2*b.last, backoffMost)
	}
	return b.last
}
