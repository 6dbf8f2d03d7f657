package main

import (
	"cmp"
	"context"
	"net/http"
	"os"
	"path/filepath"

	"github.com/leaky-tokens/leaky-tokens/internal/chdb"
	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
	"github.com/leaky-tokens/leaky-tokens/internal/parts"
)

// serveClickHouse is the event store that leaky up starts when LEAKY_CLICKHOUSE_URL names
// no other. LEAKY_CLICKHOUSE_LISTEN is its address.
func serveClickHouse(ctx context.Context, s service) error {
	store, err := parts.New(parts.Config{CacheDir: config.CacheDir(os.Getenv)})
	if err != nil {
		return err
	}
	lib, err := store.CHDBLib()
	if err != nil {
		return err
	}
	var server *chdb.Server
	common := httpapi.Common{Name: s.name, Log: s.log, Metrics: s.registry, Ready: func(ctx context.Context) error { return server.Answers(ctx) }}
	server, err = chdb.New(chdb.Config{Lib: lib, Path: filepath.Join(s.dir, "clickhouse"),
		Listen: cmp.Or(os.Getenv("LEAKY_CLICKHOUSE_LISTEN"), "127.0.0.1:8123"), Log: s.log,
		Wrap: func(statements http.Handler) http.Handler { return common.Wrap(statements) }})
	if err != nil {
		return err
	}
	go func() {
		select {
		case <-server.Ready():
			s.log.Info("listening", "url", "http://"+server.Addr().String())
		case <-ctx.Done():
		}
	}()
	return server.Run(ctx)
}
