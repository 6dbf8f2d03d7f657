package testenv

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// Copy takes a copy of the server's data, while it is stopped for a moment, and gives what puts it back:
// the server ends as in a crash, and is started again on the copy. It can be put back once.
func (s *PostgresProcess) Copy() (putBack func()) {
	s.tb.Helper()
	data := filepath.Join(s.server.socketDir, "data")
	end := func() { s.server.process.signal(syscall.SIGQUIT); <-s.server.process.done }
	end()
	copied := copied(s.tb, data, s.server.owner)
	begin := func() {
		if err := s.server.run(); err != nil {
			s.tb.Fatalf("testenv: restart postgres: %v", err)
		}
	}
	begin()
	return func() {
		s.tb.Helper()
		end()
		replace(s.tb, data, copied)
		begin()
	}
}

// Copy takes a copy of the engine's data, as that of PostgresProcess does.
func (s *ClickHouseProcess) Copy() (putBack func()) {
	s.tb.Helper()
	data := filepath.Join(s.dir, "data")
	s.Stop()
	copied := copied(s.tb, data, nil)
	s.Restart()
	return func() {
		s.tb.Helper()
		s.Kill()
		replace(s.tb, data, copied)
		s.Restart()
	}
}

// Copy takes a copy of the server's data, as that of PostgresProcess does.
func (s *NATSProcess) Copy() (putBack func()) {
	s.tb.Helper()
	s.Stop()
	copied := copied(s.tb, s.dir, nil)
	s.Start()
	return func() {
		s.tb.Helper()
		s.Stop()
		replace(s.tb, s.dir, copied)
		s.Start()
	}
}

// copied is a copy of a folder beside it.
func copied(tb testing.TB, dir string, owner *syscall.Credential) string {
	tb.Helper()
	to := dir + ".copy"
	if err := copyTree(dir, to, owner); err != nil {
		tb.Fatalf("testenv: copy %s: %v", dir, err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(to) })
	return to
}

func replace(tb testing.TB, dir, by string) {
	tb.Helper()
	if err := os.RemoveAll(dir); err != nil {
		tb.Fatalf("testenv: %v", err)
	}
	if err := os.Rename(by, dir); err != nil {
		tb.Fatalf("testenv: %v", err)
	}
}
