package serve

import (
	"cmp"
	"context"
	"crypto/subtle"
	"errors"
	"net/http"
	"net/url"
	"os"
	"path/filepath"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/local/binaries"
	"github.com/leaky-tokens/leaky-tokens/internal/local/chdb"
)

// serveClickHouse is the event store that leaky up starts when LEAKY_CLICKHOUSE_URL names
// no other. LEAKY_CLICKHOUSE_LISTEN is its address, the user and password of
// LEAKY_CLICKHOUSE_URL are who may send statements.
func serveClickHouse(ctx context.Context, s service) error {
	store, err := binaries.New(binaries.Config{CacheDir: config.CacheDir(os.Getenv)})
	if err != nil {
		return err
	}
	lib, err := store.CHDBLib()
	if err != nil {
		return err
	}
	at, err := url.Parse(s.cfg.Stores.ClickHouse)
	if err != nil {
		return errors.New("LEAKY_CLICKHOUSE_URL is not a URL") // the error itself would show the password
	}
	var server *chdb.Server
	common := s.common(func(ctx context.Context) error { return server.Answers(ctx) })
	server, err = chdb.New(chdb.Config{Lib: lib, Path: filepath.Join(s.dir, "clickhouse"),
		Listen: cmp.Or(os.Getenv("LEAKY_CLICKHOUSE_LISTEN"), "127.0.0.1:8123"), Log: s.log,
		Wrap: func(statements http.Handler) http.Handler { return common.Wrap(onlyFor(at.User, statements)) }})
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

// onlyFor lets a user with its password through, in either way ClickHouse clients send
// them. Without a user everybody who reaches the address may ask.
func onlyFor(user *url.Userinfo, next http.Handler) http.Handler {
	if user == nil {
		return next
	}
	wantPassword, _ := user.Password()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/ping" { // as ClickHouse has it: liveness is no secret
			next.ServeHTTP(w, r)
			return
		}
		name, password, basic := r.BasicAuth()
		if !basic {
			name, password = r.Header.Get("X-ClickHouse-User"), r.Header.Get("X-ClickHouse-Key")
		}
		if subtle.ConstantTimeCompare([]byte(name), []byte(user.Username()))&subtle.ConstantTimeCompare([]byte(password),
			[]byte(wantPassword)) != 1 {
			w.Header().Set("X-ClickHouse-Exception-Code", "516") // AUTHENTICATION_FAILED
			http.Error(w, "Code: 516. DB::Exception: user or password is wrong. (AUTHENTICATION_FAILED)", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}
