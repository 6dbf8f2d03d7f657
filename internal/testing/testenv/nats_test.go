package testenv_test

import (
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

func TestNATSKeepsItsStreamOverARestart(t *testing.T) {
	t.Parallel()
	server := testenv.NATSServer(t)
	if _, err := usage.EnsureStream(t.Context(), dial(t, server.URL())); err != nil {
		t.Fatal(err)
	}
	if _, err := dial(t, server.URL()).Publish(t.Context(), usage.Subject("openai"), []byte("x")); err != nil {
		t.Fatal(err)
	}
	before := server.URL()
	server.Stop()
	server.Start()
	if server.URL() != before {
		t.Errorf("address after the restart: want %s, got %s", before, server.URL())
	}
	stream, err := dial(t, server.URL()).Stream(t.Context(), usage.Stream)
	if err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, "the message alone", func() bool { // a server tries to store one of its own when it begins, and deletes it
		info, err := stream.Info(t.Context())
		return err == nil && info.State.Msgs == 1
	})
}

func dial(t *testing.T, url string) jetstream.JetStream {
	t.Helper()
	nc, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}
