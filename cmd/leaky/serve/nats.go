package serve

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/local/natsd"
)

// serveNATS is the message bus that leaky up starts when LEAKY_NATS_URL names no other.
// LEAKY_NATS_LISTEN is its address, the user and password of LEAKY_NATS_URL are who may
// connect; LEAKY_NATS_SYNC see package natsd.
func serveNATS(ctx context.Context, s service) error {
	sync, err := natsSync(os.Getenv("LEAKY_NATS_SYNC"))
	if err != nil {
		return err
	}
	at, err := url.Parse(s.cfg.Stores.NATS)
	if err != nil {
		return errors.New("LEAKY_NATS_URL is not a URL") // the error itself would show the password
	}
	listen := cmp.Or(os.Getenv("LEAKY_NATS_LISTEN"), "127.0.0.1:4222")
	server, err := natsd.New(natsd.Config{Listen: listen, Dir: filepath.Join(s.dir, "nats"), Sync: sync, User: at.User, Log: s.log})
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

// natsSync reads LEAKY_NATS_SYNC: "always" (0) or a positive duration; a second when empty.
func natsSync(text string) (time.Duration, error) {
	switch text {
	case "":
		return time.Second, nil
	case "always":
		return 0, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("LEAKY_NATS_SYNC=%q: write always or a duration such as 1s", text)
	}
	return d, nil
}
