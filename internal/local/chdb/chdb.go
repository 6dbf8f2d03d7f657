// Package chdb is the ClickHouse that usage events end up in when no server is given: the
// real engine (libchdb.so, called without cgo) behind ClickHouse's HTTP protocol, so that
// clients such as clickhouse-go cannot tell the difference.
//
// One process has one engine and one data folder. Each request gets a connection of its
// own within the engine (0.3 ms), so that a database, a setting or a parameter of one
// request never reaches another; a few requests run at once and the rest wait.
//
// What differs from a server: no users and passwords (it listens on loopback), no native
// protocol, no external tables, results are sent when they are complete.
package chdb

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/retry"
)

// Config is what a Server needs. Lib, Path, Listen and Log are required.
type Config struct {
	Lib     string                          // libchdb.so
	Path    string                          // data folder; made if it is missing
	Listen  string                          // host:port; port 0 takes a free one
	Queries int                             // run at once, default 4
	Threads int                             // of one query, default 2
	Memory  int64                           // bytes the engine may use for queries and merges, default 1 GiB
	MaxBody int64                           // bytes of a request, packed and unpacked, default 64 MiB
	NoSync  bool                            // answer an insert before its rows are synced to disk
	Wrap    func(http.Handler) http.Handler // e.g. health and metrics paths around ours; may be nil
	Log     *slog.Logger                    //
}

const (
	grace         = 8 * time.Second // for running queries when the server stops
	queryTimeout  = "60"            // seconds; a client's max_execution_time wins
	maxResult     = 256 << 20       // bytes of one answer; it is held in memory
	maxQueryBytes = 1 << 20         // of the URL, and of a statement's own text
)

// Server is the engine and its HTTP side.
type Server struct {
	cfg      Config
	lib      *library
	slots    chan struct{} // one per query that may run
	incoming string        // folder for the rows of inserts
	ready    chan struct{}
	addr     net.Addr
	said     *retry.Troubles
}

// New checks the configuration; it loads and opens nothing.
func New(c Config) (*Server, error) {
	if c.Lib == "" || c.Path == "" || c.Listen == "" || c.Log == nil {
		return nil, errors.New("clickhouse engine: library, path, address and logger must be set")
	}
	c.Queries, c.Threads = cmp.Or(c.Queries, 4), cmp.Or(c.Threads, 2)
	c.Memory, c.MaxBody = cmp.Or(c.Memory, 1<<30), cmp.Or(c.MaxBody, 64<<20)
	if c.Queries < 0 || c.Threads < 0 || c.Memory < 0 || c.MaxBody < 0 {
		return nil, errors.New("clickhouse engine: negative limit")
	}
	return &Server{cfg: c, said: retry.NewTroubles(c.Log), slots: make(chan struct{}, c.Queries), ready: make(chan struct{})}, nil
}

// Ready is closed once queries are answered.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Addr is where the server listens; nil before Ready.
func (s *Server) Addr() net.Addr {
	select {
	case <-s.ready:
		return s.addr
	default:
		return nil
	}
}

// Run opens the engine and answers until ctx ends; then running queries get a few seconds
// and the engine is closed. A process can do this once: the engine is not made to be
// loaded again.
func (s *Server) Run(ctx context.Context) error {
	ln, err := net.Listen("tcp", s.cfg.Listen)
	if err != nil {
		return fmt.Errorf("clickhouse engine: %w", err)
	}
	defer ln.Close()
	engine, err := s.start()
	if err != nil {
		return err
	}
	s.addr = ln.Addr()
	close(s.ready)
	err = s.serve(ctx, ln)
	return errors.Join(err, s.stop(engine))
}

// start loads the library and boots the engine with a connection that stays, since the
// engine ends with its last one.
func (s *Server) start() (*conn, error) {
	if err := closeStdin(); err != nil {
		return nil, err
	}
	path, err := filepath.Abs(s.cfg.Path)
	if err != nil {
		return nil, err
	}
	s.incoming = filepath.Join(path, "incoming")
	if err := os.MkdirAll(s.incoming, 0o700); err != nil {
		return nil, fmt.Errorf("clickhouse engine: %w", err)
	}
	settings := filepath.Join(path, "engine.xml")
	if err := os.WriteFile(settings, []byte(s.settings()), 0o600); err != nil {
		return nil, fmt.Errorf("clickhouse engine: %w", err)
	}
	if s.lib, err = load(s.cfg.Lib); err != nil {
		return nil, err
	}
	s.lib.args = []string{"--path=" + path, "--config-file=" + settings}
	engine, err := s.lib.open()
	if err != nil {
		return nil, err
	}
	if _, err := engine.query([]byte("SELECT 1"), "TabSeparated", nil); err != nil {
		return nil, fmt.Errorf("clickhouse engine does not answer: %w", err)
	}
	return engine, nil
}

// settings are those of the engine as a whole. Its own caches are made for a server with
// the machine to itself: 5 GB each.
func (s *Server) settings() string {
	sync := 1
	if s.cfg.NoSync {
		sync = 0
	}
	const cache = 32 << 20
	return fmt.Sprintf(`<clickhouse>
<max_server_memory_usage>%d</max_server_memory_usage>
<mark_cache_size>%d</mark_cache_size><primary_index_cache_size>%d</primary_index_cache_size>
<index_mark_cache_size>%d</index_mark_cache_size><query_condition_cache_size>%d</query_condition_cache_size>
<background_pool_size>2</background_pool_size><max_thread_pool_size>%d</max_thread_pool_size>
<merge_tree><fsync_after_insert>%d</fsync_after_insert><fsync_part_directory>%d</fsync_part_directory></merge_tree>
</clickhouse>
`, s.cfg.Memory, cache, cache, cache, cache, 64+16*s.cfg.Queries*s.cfg.Threads, sync, sync)
}

func (s *Server) serve(ctx context.Context, ln net.Listener) error {
	// A page in somebody's browser must not be able to send statements to loopback.
	h := http.NewCrossOriginProtection().Handler(s.routes())
	if s.cfg.Wrap != nil {
		h = s.cfg.Wrap(h)
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 2 * time.Minute, IdleTimeout: 5 * time.Minute,
		MaxHeaderBytes: maxQueryBytes, ErrorLog: slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelWarn)}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(ln) }()
	select {
	case err := <-ended:
		return fmt.Errorf("serve clickhouse http: %w", err)
	case <-ctx.Done():
	}
	patience, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	if err := srv.Shutdown(patience); err != nil {
		_ = srv.Close()
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve clickhouse http: %w", err)
	}
	return nil
}

// stop closes the engine once no query runs. Closing it under one would crash; what has
// been inserted is on disk either way.
func (s *Server) stop(engine *conn) error {
	patience := time.After(time.Second)
	for range cap(s.slots) {
		select {
		case s.slots <- struct{}{}:
		case <-patience:
			return errors.New("close clickhouse engine: a query still ran")
		}
	}
	engine.close()
	return nil
}

// Answers reports whether the engine runs a statement.
func (s *Server) Answers(ctx context.Context) error {
	_, err := s.run(ctx, request{text: []byte("SELECT 1"), format: "TabSeparated"})
	return err
}
