package prices

import (
	"sync/atomic"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
)

// Live is a list that another takes the place of while calls are priced by it. Events of a call under
// way get the list that is there when they are published.
type Live struct{ now atomic.Pointer[Table] }

// NewLive begins with a list.
func NewLive(first *Table) *Live {
	l := &Live{}
	l.Set(first)
	return l
}

// Set has calls priced by another list from now on.
func (l *Live) Set(next *Table) { l.now.Store(next) }

// Freeze is Table's, by the list of this moment.
func (l *Live) Freeze(e *usage.Event) { l.now.Load().Freeze(e) }
