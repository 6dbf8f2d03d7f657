// Command chdbd is the ClickHouse engine as a process of its own for tests: test binaries
// cannot be one, and the leaky binary would take longer to build. It ends with SIGTERM.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/leaky-tokens/leaky-tokens/internal/local/chdb"
)

func main() {
	lib := flag.String("lib", "", "path of libchdb.so")
	path := flag.String("path", "", "data folder")
	listen := flag.String("listen", "127.0.0.1:0", "address")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := run(ctx, *lib, *path, *listen); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, lib, path, listen string) error {
	// Not synced: tests do not cut the power.
	server, err := chdb.New(chdb.Config{Lib: lib, Path: path, Listen: listen, NoSync: true,
		Log: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	if err != nil {
		return err
	}
	go func() {
		<-server.Ready()
		fmt.Printf("listening on %s\n", server.Addr())
	}()
	return server.Run(ctx)
}
