package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/natsd"
)

// serveNATS is the message bus that leaky up starts when LEAKY_NATS_URL names no other.
// LEAKY_NATS_LISTEN is its address; LEAKY_NATS_SYNC see package natsd.
func serveNATS(ctx context.Context, s service) error {
	var sync time.Duration
	if text := os.Getenv("LEAKY_NATS_SYNC"); text != "" && text != "always" {
		var err error
		if sync, err = time.ParseDuration(text); err != nil || sync <= 0 {
			return fmt.Errorf("LEAKY_NATS_SYNC=%q: write always or a duration such as 1s", text)
		}
	}
	listen := cmp.Or(os.Getenv("LEAKY_NATS_LISTEN"), "127.0.0.1:4222")
	server, err := natsd.New(natsd.Config{Listen: listen, Dir: filepath.Join(s.dir, "nats"), Sync: sync, Log: s.log})
	if err != nil {
		return err
	}
	go func() {
		select {
		case <-server.Ready():
			s.log.Info("listening", "url", server.URL())
		case <-ctx.Done():
		}
	}()
	return server.Run(ctx)
}
