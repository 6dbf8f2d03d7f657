package prices

import (
	"sync/atomic"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
)

// Live is a list that is read again while calls are priced by it. Events of a call under way get
// the list that is there when they are published.
type Live struct {
	path func() string
	now  atomic.Pointer[Table]
}

// NewLive reads the list whose path a function tells, "" for the built-in one.
func NewLive(path func() string) (*Live, error) {
	l := &Live{path: path}
	return l, l.Read()
}

// Read takes the list as its file has it now. One with a mistake, or none, is an error as Load's, and
// the list from before goes on.
func (l *Live) Read() error {
	next, err := Load(l.path())
	if err != nil {
		return err
	}
	l.now.Store(next)
	return nil
}

// Freeze is Table's, by the list of this moment.
func (l *Live) Freeze(e *usage.Event) { l.now.Load().Freeze(e) }
