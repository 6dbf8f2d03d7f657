package testenv

import (
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// NATSCluster is three NATS servers with JetStream, in this process.
type NATSCluster struct {
	tb      testing.TB
	options []*server.Options
	servers []*server.Server
}

// NATSOfThree gives a cluster that only this test uses.
func NATSOfThree(tb testing.TB) *NATSCluster {
	tb.Helper()
	const servers = 3
	var routes []*url.URL
	c := &NATSCluster{tb: tb}
	for i, free := range freeAddresses(tb, "nats", servers) { // each must know of the others from the start
		at := must[*net.TCPAddr](tb, "nats")(net.ResolveTCPAddr("tcp", free))
		routes = append(routes, &url.URL{Scheme: "nats", Host: free})
		c.options = append(c.options, &server.Options{ServerName: fmt.Sprintf("n%d", i), Host: "127.0.0.1", Port: server.RANDOM_PORT,
			JetStream: true, StoreDir: tb.TempDir(), SyncInterval: time.Minute, NoSigs: true, NoLog: true,
			Cluster: server.ClusterOpts{Name: "three", Host: "127.0.0.1", Port: at.Port}})
	}
	c.servers = make([]*server.Server, servers)
	for i, o := range c.options {
		o.Routes = routes
		c.Start(i)
	}
	tb.Cleanup(func() {
		for i := range c.servers {
			c.Stop(i)
		}
	})
	Eventually(tb, "the cluster's leader", c.led)
	return c
}

// led reports whether there is a leader that knows of every server.
func (c *NATSCluster) led() bool {
	for _, s := range c.servers {
		if s.JetStreamIsLeader() {
			return len(s.JetStreamClusterPeers()) == len(c.servers)
		}
	}
	return false
}

// URL names all servers, joined by commas.
func (c *NATSCluster) URL() string {
	var urls []string
	for _, o := range c.options {
		urls = append(urls, fmt.Sprintf("nats://%s:%d", o.Host, o.Port))
	}
	return strings.Join(urls, ",")
}

// Start starts a server on its data, and on its address if it had one before.
func (c *NATSCluster) Start(i int) {
	c.tb.Helper()
	s := must[*server.Server](c.tb, "nats")(server.NewServer(c.options[i].Clone()))
	go s.Start()
	if !s.ReadyForConnections(startTimeout) {
		c.tb.Fatal("testenv: a NATS server of the cluster does not start")
	}
	c.options[i].Port = must[*net.TCPAddr](c.tb, "nats")(net.ResolveTCPAddr("tcp", s.Addr().String())).Port
	c.servers[i] = s
}

// Stop ends a server and drops its connections; the data stays.
func (c *NATSCluster) Stop(i int) {
	c.servers[i].Shutdown()
	c.servers[i].WaitForShutdown()
}

// Whole reports whether every server serves and has all that the others have.
func (c *NATSCluster) Whole() bool {
	for _, s := range c.servers {
		if s.Healthz(&server.HealthzOptions{}).StatusCode != http.StatusOK {
			return false
		}
	}
	return c.led()
}
