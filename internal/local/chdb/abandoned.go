package chdb

import (
	"context"
	"regexp"
	"time"
)

// The engine's C interface has no way to end a statement, and a client that gives up closes its
// connection: the statement would run on to its max_execution_time in a place that others wait for, and
// a client that tries again would take the next. So each statement has a name of its own, by which a
// second connection ends it (KILL QUERY) when the client is gone. As in a server with
// cancel_http_readonly_queries_on_client_close, those that write go on: their rows are on the way.

// nameOf is the setting that carries the name: one that says nothing to an engine without a cache of
// answers, and that it shows. A client that sets it itself has statements that nobody ends.
const nameOf = "query_cache_tag"

// killEvery is the pause between two attempts to end a statement: the first may be before the engine
// knows it, and the engine takes its time.
const killEvery = 50 * time.Millisecond

// reads matches statements that change nothing.
var reads = regexp.MustCompile(`(?i)^\s*(SELECT|WITH|SHOW|DESCRIBE|DESC|EXISTS|EXPLAIN)\b`)

// whileAsked ends the statement of a name when ctx ends, until stop is called, which waits for that.
func (s *Server) whileAsked(ctx context.Context, name string) (stop func()) {
	ended, killed := make(chan struct{}), make(chan struct{})
	unwatch := context.AfterFunc(ctx, func() {
		defer close(killed)
		tick := time.NewTicker(killEvery)
		defer tick.Stop()
		for {
			s.kill(name)
			select {
			case <-ended:
				return
			case <-tick.C:
			}
		}
	})
	return func() {
		close(ended)
		if !unwatch() {
			<-killed
		}
	}
}

// kill tells the engine to end the statement of a name.
func (s *Server) kill(name string) {
	c, err := s.lib.open()
	if err != nil {
		return // it is tried again
	}
	defer c.close()
	_, _ = c.query([]byte("KILL QUERY WHERE Settings['"+nameOf+"'] = '"+name+"' ASYNC"), "TabSeparated", nil) // likewise
}
