package testenv

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
)

// PgBouncer gives the URL of an empty database of its own behind PgBouncer in transaction mode: of
// two statements outside a transaction each may get another connection.
func PgBouncer(tb testing.TB) string {
	tb.Helper()
	bin, libs := debianPgBouncer(tb)
	server := PostgresServer(tb).server
	dir := must[string](tb, "pgbouncer")(os.MkdirTemp("", "pgb"))
	tb.Cleanup(func() { os.RemoveAll(dir) })
	if err := ownedFolder(dir, server.owner); err != nil {
		tb.Fatal(err)
	}
	_, port, err := net.SplitHostPort(freeAddresses(tb, "pgbouncer", 1)[0])
	if err != nil {
		tb.Fatal(err)
	}
	conf := filepath.Join(dir, "pgbouncer.ini")
	text := fmt.Sprintf("[databases]\npostgres = host=%s port=5432 user=leaky\n[pgbouncer]\nlisten_addr=127.0.0.1\nlisten_port=%s\n"+
		"unix_socket_dir=\nauth_type=any\npool_mode=transaction\nmax_client_conn=500\ndefault_pool_size=8\n", server.socketDir, port)
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		tb.Fatal(err)
	}
	cmd := exec.Command(bin, conf)
	cmd.SysProcAttr = asOwner(server.owner) // it refuses to run as root
	cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+libs)
	p := must[*process](tb, "pgbouncer")(startProcess("pgbouncer", cmd, filepath.Join(tb.TempDir(), "log"), syscall.SIGKILL))
	tb.Cleanup(p.kill)
	url := "postgres://leaky@127.0.0.1:" + port + "/postgres?sslmode=disable"
	err = poll(p, func(ctx context.Context) error {
		conn, err := pgx.Connect(ctx, url)
		if err != nil {
			return err
		}
		return conn.Close(ctx)
	})
	if err != nil {
		tb.Fatalf("testenv: %v", err)
	}
	return url
}

// debianPgBouncer finds PgBouncer, or unpacks Debian's package with its libraries into the cache.
func debianPgBouncer(tb testing.TB) (bin, libs string) {
	tb.Helper()
	if bin, err := exec.LookPath("pgbouncer"); err == nil {
		return bin, ""
	}
	bin = debianFile(tb, "pgbouncer", "usr/sbin/pgbouncer", "pgbouncer", "libevent-2.1-7", "libc-ares2")
	return bin, filepath.Join(bin, "../../lib/x86_64-linux-gnu")
}
