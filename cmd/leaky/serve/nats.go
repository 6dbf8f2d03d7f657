package serve

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/notice"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/local/natsd"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

// serveNATS is the message bus that leaky up starts when LEAKY_NATS_URL names no other.
// LEAKY_NATS_LISTEN is its address, the user and password of LEAKY_NATS_URL are its owner, from
// whom the passwords of the parts follow; LEAKY_NATS_SYNC see package natsd.
func serveNATS(ctx context.Context, s service) error {
	sync, err := natsSync(os.Getenv("LEAKY_NATS_SYNC"))
	if err != nil {
		return err
	}
	at, err := url.Parse(s.cfg.Stores.NATS)
	if err != nil {
		return errors.New("LEAKY_NATS_URL is not a URL") // the error itself would show the password
	}
	users, err := natsUsers(at.User)
	if err != nil {
		return err
	}
	listen := cmp.Or(os.Getenv("LEAKY_NATS_LISTEN"), "127.0.0.1:4222")
	server, err := natsd.New(natsd.Config{Listen: listen, Dir: filepath.Join(s.dir, "nats"), Sync: sync, Users: users, Log: s.log})
	if err != nil {
		return err
	}
	go func() {
		select {
		case <-server.Ready():
			s.log.Info("listening", "url", server.URL())
			if err := MakeStreams(ctx, owned(server.URL(), at.User)); err != nil && ctx.Err() == nil {
				s.log.Warn("the streams of events are left to the parts", "error", err)
			}
		case <-ctx.Done():
		}
	}()
	return server.Run(ctx)
}

// owned is an address with the owner's name and password.
func owned(address string, owner *url.Userinfo) string {
	return strings.Replace(address, "://", "://"+owner.String()+"@", 1)
}

// MakeStreams makes the streams of events as the owner of a NATS, or gives them the subjects of a
// newer version, which parts may not do.
func MakeStreams(ctx context.Context, address string) error {
	conn, err := nats.Connect(address, nats.Name("leaky-"+topology.NATS))
	if err != nil {
		return fmt.Errorf("connect to nats: %w", err)
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		return fmt.Errorf("open jetstream: %w", err)
	}
	if _, err = usage.EnsureStream(ctx, js); err != nil {
		return err
	}
	_, err = notice.EnsureStream(ctx, js)
	return err
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
