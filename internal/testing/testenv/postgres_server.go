package testenv

import (
	"path/filepath"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
)

// PostgresProcess is a Postgres of its own that a test can break. Its address stays the same
// when it restarts.
type PostgresProcess struct {
	tb     testing.TB
	server *postgresServer
}

//nolint:gochecknoglobals // numbers the folders of this process's servers
var postgresServers atomic.Int64

// PostgresServer gives a Postgres that only this test uses. Its database is empty.
func PostgresServer(tb testing.TB) *PostgresProcess {
	tb.Helper()
	dir := must[string](tb, "postgres")(processDir())
	name := "pg" + strconv.FormatInt(postgresServers.Add(1), 10)
	server := must[*postgresServer](tb, "postgres")(newPostgres(filepath.Join(dir, name), filepath.Join(dir, name+".log")))
	tb.Cleanup(func() { server.process.signal(syscall.SIGQUIT); <-server.process.done })
	return &PostgresProcess{tb: tb, server: server}
}

// URL is the database's.
func (s *PostgresProcess) URL() string { return s.server.url("postgres") }

// Restart ends the server at once, as a crash would, and starts it again: connections are
// cut and what was committed is there.
func (s *PostgresProcess) Restart() {
	s.tb.Helper()
	s.server.process.signal(syscall.SIGQUIT)
	<-s.server.process.done
	if err := s.server.run(); err != nil {
		s.tb.Fatalf("testenv: restart postgres: %v", err)
	}
}
