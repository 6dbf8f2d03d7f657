package serve

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/leaky-tokens/leaky-tokens/console"
	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
	"github.com/leaky-tokens/leaky-tokens/internal/secretfile"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

// serveConsole runs the console: behind the gateway at its own address, and at its port for browsers
// on this machine. The two differ in their origin alone.
func serveConsole(ctx context.Context, s service) error {
	c, err := newConsole(s)
	if err != nil {
		return err
	}
	at := s.cfg.Services.Console
	g, ctx := errgroup.WithContext(ctx)
	open := func(setting, address, origin string) error {
		pages, err := c.Handler(origin)
		if err != nil {
			return err
		}
		ln, err := s.listen("services.console."+setting, address)
		if err != nil {
			return err
		}
		g.Go(func() error { return httpapi.Serve(ctx, ln, s.common(nil).Wrap(pages)) })
		return nil
	}
	origins := s.cfg.ConsoleOrigins()
	err = open("http", at.HTTP, origins[min(1, len(origins)-1)]) // in TLS mode mutual only parts reach it
	if err == nil && at.Inner != "" {
		err = open("inner", at.Inner, origins[0])
	}
	if err != nil {
		g.Go(func() error { return err })
	}
	return g.Wait()
}

func newConsole(s service) (*console.Console, error) {
	text, err := secretfile.LoadOrCreate(filepath.Join(s.dir, "secrets", "console.key"), func() ([]byte, error) {
		key := make([]byte, 32)
		_, err := rand.Read(key)
		return []byte(hex.EncodeToString(key)), err
	})
	if err != nil {
		return nil, err
	}
	key, err := hex.DecodeString(string(text))
	if err != nil {
		return nil, fmt.Errorf("secrets/console.key is not 64 hexadecimal digits: delete it to have a new one made")
	}
	base, transport, err := s.peers().API(topology.XDS, s.cfg.Services.XDS)
	if err != nil {
		return nil, err
	}
	return console.New(console.Config{Gateway: cmp.Or(os.Getenv("LEAKY_GATEWAY_URL"), s.cfg.Gateway.URL()), PublicURL: s.cfg.Auth.PublicURL,
		Key: key, Providers: slices.Collect(maps.Keys(s.cfg.Providers)), Model: chatModel(s.cfg), Log: s.log,
		XDS: console.HTTPControlPlane{Base: base, Client: &http.Client{Transport: transport, Timeout: 5 * time.Second}}})
}

// chatModel is the model of the example call: one of a provider that speaks the protocol of OpenAI.
func chatModel(c *config.Config) string {
	for _, m := range c.Models {
		if m.Kind == config.KindChat && c.Providers[m.Provider].Protocol == config.ProtocolOpenAI {
			return m.Name
		}
	}
	return ""
}
