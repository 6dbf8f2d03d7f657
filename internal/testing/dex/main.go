// Command dex is for tests: an OpenID provider that others wrote, with one person who signs in without
// being asked (dex' connector mockCallback), all of it in memory. dex' own command keeps its data in
// SQLite, which needs a C compiler, and its module can't be installed, as it replaces another.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"time"

	gosundheit "github.com/AppsFlyer/go-sundheit"
	"github.com/dexidp/dex/server"
	"github.com/dexidp/dex/storage"
	"github.com/dexidp/dex/storage/memory"
	"github.com/prometheus/client_golang/prometheus"
)

func main() {
	listen := flag.String("listen", "", "host:port")
	issuer := flag.String("issuer", "", "URL that it is found at")
	redirect := flag.String("redirect", "", "URL that the client leaky is answered at")
	secret := flag.String("secret", "", "of the client leaky")
	flag.Parse()
	if err := serve(*listen, *issuer, *redirect, *secret); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func serve(listen, issuer, redirect, secret string) error {
	ctx := context.Background()
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	store := storage.WithStaticClients(memory.New(log), []storage.Client{{ID: "leaky", Name: "Leaky Tokens", Secret: secret,
		RedirectURIs: []string{redirect}}})
	if err := store.CreateConnector(ctx, storage.Connector{ID: "mock", Type: "mockCallback", Name: "Example", ResourceVersion: "1"}); err != nil {
		return fmt.Errorf("make connector: %w", err)
	}
	refresh, err := server.NewRefreshTokenPolicy(log, false, "", "", "")
	if err != nil {
		return fmt.Errorf("make policy of refresh tokens: %w", err)
	}
	handler, err := server.NewServer(ctx, server.Config{Issuer: issuer, Storage: store, SkipApprovalScreen: true, RefreshTokenPolicy: refresh,
		Logger: log, PrometheusRegistry: prometheus.NewRegistry(), HealthChecker: gosundheit.New()})
	if err != nil {
		return fmt.Errorf("make provider: %w", err)
	}
	return (&http.Server{Addr: listen, Handler: handler, ReadHeaderTimeout: 10 * time.Second}).ListenAndServe()
}
