package testenv

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/leaky-tokens/leaky-tokens/internal/local/binaries"
)

// RedisOnSocket gives the URL of a Valkey of its own on a Unix socket that every user may open.
func RedisOnSocket(tb testing.TB) string {
	tb.Helper()
	dir := must[string](tb, "redis")(os.MkdirTemp("", "redis"))
	tb.Cleanup(func() { os.RemoveAll(dir) })
	if err := openFolder(dir); err != nil {
		tb.Fatal(err)
	}
	socket := filepath.Join(dir, "s")
	server := must[*RedisProcess](tb, "redis")(startRedis(tb.TempDir(), "--unixsocket", socket, "--unixsocketperm", "777"))
	tb.Cleanup(server.process.kill)
	return "unix://" + socket
}

// RedisByTLS gives the URL of a Valkey of its own behind TLS with the certificate, whose name must be
// localhost.
func RedisByTLS(tb testing.TB, certificate tls.Certificate) string {
	tb.Helper()
	server := RedisServer(tb)
	ln := must[net.Listener](tb, "redis")(tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{certificate},
		MinVersion: tls.VersionTLS12}))
	tb.Cleanup(func() { ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go splice(conn, server.addr)
		}
	}()
	_, port, err := net.SplitHostPort(ln.Addr().String())
	if err != nil {
		tb.Fatal(err)
	}
	return "rediss://localhost:" + port
}

// splice passes bytes between a connection and an address until one of them ends.
func splice(conn net.Conn, address string) {
	defer conn.Close()
	back, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", address)
	if err != nil {
		return
	}
	defer back.Close()
	go func() { _, _ = io.Copy(back, conn); back.Close() }()
	_, _ = io.Copy(conn, back)
}

// RedisOfThree gives the URL of a cluster of three masters that only this test uses, and the masters.
func RedisOfThree(tb testing.TB) (url string, all []*RedisProcess) {
	tb.Helper()
	const servers, slots = 3, 16384
	var firstAddr *net.TCPAddr
	var clients []*redis.Client
	var addrs []string
	for i := range servers {
		server := must[*RedisProcess](tb, "redis")(startRedis(tb.TempDir(), "--cluster-enabled", "yes", "--appendonly", "yes",
			"--appendfsync", "always"))
		tb.Cleanup(server.process.kill)
		server.tb = tb
		all = append(all, server)
		client := server.Client()
		if err := client.ClusterAddSlotsRange(tb.Context(), i*slots/servers, (i+1)*slots/servers-1).Err(); err != nil {
			tb.Fatalf("testenv: give a cluster its slots: %v", err)
		}
		addrs, clients = append(addrs, server.addr), append(clients, client)
		if i == 0 {
			firstAddr = must[*net.TCPAddr](tb, "redis")(net.ResolveTCPAddr("tcp", server.addr))
			continue
		}
		if err := client.ClusterMeet(tb.Context(), firstAddr.IP.String(), fmt.Sprint(firstAddr.Port)).Err(); err != nil {
			tb.Fatalf("testenv: make a cluster: %v", err)
		}
	}
	Eventually(tb, "the cluster of three", func() bool {
		for _, client := range clients { // each of them must know
			info, err := client.ClusterInfo(tb.Context()).Result()
			if err != nil || !strings.Contains(info, "cluster_state:ok") || !strings.Contains(info, "cluster_known_nodes:3") {
				return false
			}
		}
		return true
	})
	return "redis+cluster://" + strings.Join(addrs, ","), all
}

// RedisBySentinel gives the URL of a Valkey that a Sentinel of its own names.
func RedisBySentinel(tb testing.TB) string {
	tb.Helper()
	master := RedisServer(tb)
	host, port, err := net.SplitHostPort(master.addr)
	if err != nil {
		tb.Fatal(err)
	}
	store := must[*binaries.Store](tb, "redis")(ensure(binaries.Redis))
	bin := must[string](tb, "redis")(store.RedisServer(tb.Context()))
	addr := freeAddresses(tb, "redis", 1)[0]
	_, own, err := net.SplitHostPort(addr)
	if err != nil {
		tb.Fatal(err)
	}
	conf := filepath.Join(tb.TempDir(), "sentinel.conf")
	text := fmt.Sprintf("port %s\nbind 127.0.0.1\nsentinel monitor main %s %s 1\n", own, host, port)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
	sentinel := must[*process](tb, "sentinel")(startProcess("sentinel", exec.Command(bin, conf, "--sentinel"), conf+".log", syscall.SIGKILL))
	tb.Cleanup(sentinel.kill)
	client := redis.NewSentinelClient(&redis.Options{Addr: addr})
	defer client.Close()
	if err := poll(sentinel, func(ctx context.Context) error { return client.GetMasterAddrByName(ctx, "main").Err() }); err != nil {
		tb.Fatalf("testenv: %v", err)
	}
	return "redis+sentinel://" + addr + "/main"
}
