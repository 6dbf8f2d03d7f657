package testenv

import (
	"fmt"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// NATSOfThree gives the URLs, joined by commas, of a cluster of three NATS servers with JetStream, in
// this process, and a way to stop each.
func NATSOfThree(tb testing.TB) (urls string, stop []func()) {
	tb.Helper()
	const servers = 3
	var routes []*url.URL
	var ports []int
	for range servers { // each must know of the others from the start
		ln := must[net.Listener](tb, "nats")(net.Listen("tcp", "127.0.0.1:0"))
		at := must[*net.TCPAddr](tb, "nats")(net.ResolveTCPAddr("tcp", ln.Addr().String()))
		ports, routes = append(ports, at.Port), append(routes, &url.URL{Scheme: "nats", Host: at.String()})
		ln.Close()
	}
	var all []*server.Server
	var clients []string
	for i, port := range ports {
		s := must[*server.Server](tb, "nats")(server.NewServer(&server.Options{ServerName: fmt.Sprintf("n%d", i), Host: "127.0.0.1",
			Port: server.RANDOM_PORT, JetStream: true, StoreDir: tb.TempDir(), SyncInterval: time.Minute, NoSigs: true, NoLog: true,
			Cluster: server.ClusterOpts{Name: "three", Host: "127.0.0.1", Port: port}, Routes: routes}))
		go s.Start()
		tb.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
		if !s.ReadyForConnections(startTimeout) {
			tb.Fatal("testenv: a NATS server of the cluster does not start")
		}
		all, clients, stop = append(all, s), append(clients, "nats://"+s.Addr().String()), append(stop, s.Shutdown)
	}
	Eventually(tb, "the cluster's leader", func() bool {
		for _, s := range all {
			if s.JetStreamIsLeader() {
				return len(s.JetStreamClusterPeers()) == servers
			}
		}
		return false
	})
	return strings.Join(clients, ","), stop
}
