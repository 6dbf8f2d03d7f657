// Package redisconn is beside the request path: it is how every part is connected to Redis, so that
// each form of URL works for all of them: one server by TCP, TLS or a Unix socket, a cluster, or
// whichever server Sentinel names.
package redisconn

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	schemeCluster  = "+cluster"
	schemeSentinel = "+sentinel"
)

var errURL = errors.New("write redis://host:port[/db], unix:///path, redis+cluster://host:port[,host:port...] or redis+sentinel://host:port[,host:port...]/master[/db], " +
	"with user:password@ before the host if need be and rediss for TLS")

// Extra is what a URL does not say of the connections.
type Extra struct {
	TLS              *tls.Config // of rediss; nil: the system's roots
	PoolSize         int         // connections to a server at most; 0: 32
	SentinelUser     string
	SentinelPassword string
}

// Config is what Dial needs.
type Config struct {
	URL string
	// DialTimeout and Timeout bound a connection attempt and a round trip.
	DialTimeout, Timeout time.Duration
	// Retries is how often a command is tried again; 0: once and no more.
	Retries int
	Extra
	// Connected is given each new connection before it carries a command; may be nil. With an error
	// the connection is not used.
	Connected func(context.Context, *redis.Conn) error
}

// Dial makes a client; it does not connect. cluster tells that keys of different hash tags may be on
// different servers. An error is of the URL and shows no password.
func Dial(c Config) (client redis.UniversalClient, cluster bool, err error) {
	if c.Retries == 0 {
		c.Retries = -1 // as the client writes it
	}
	scheme, rest, _ := strings.Cut(c.URL, "://")
	secure, kind, many := strings.Cut(scheme, "+")
	if !many {
		o, err := redis.ParseURL(c.URL)
		if err != nil { // its own error may show the password
			return nil, false, fmt.Errorf("redis url: %w", errURL)
		}
		o.DialTimeout, o.ReadTimeout, o.WriteTimeout, o.PoolTimeout = c.DialTimeout, c.Timeout, c.Timeout, c.Timeout
		o.DialerRetries, o.MaxRetries = 1, c.Retries
		o.MinRetryBackoff, o.MaxRetryBackoff = retryLeast, retryMost
		o.PoolSize, o.MaxIdleConns = cmp.Or(c.PoolSize, poolConns), poolIdle
		if o.TLSConfig != nil && c.TLS != nil {
			o.TLSConfig = c.TLS
		}
		o.ContextTimeoutEnabled, o.DisableIdentity, o.OnConnect = true, true, c.Connected
		return redis.NewClient(o), false, nil
	}
	u := redis.UniversalOptions{DialTimeout: c.DialTimeout, ReadTimeout: c.Timeout, WriteTimeout: c.Timeout, PoolTimeout: c.Timeout,
		MaxRetries:    c.Retries,
		DialerRetries: 1, MinRetryBackoff: retryLeast, MaxRetryBackoff: retryMost, PoolSize: cmp.Or(c.PoolSize, poolConns),
		MaxIdleConns:     poolIdle,
		SentinelUsername: c.SentinelUser, SentinelPassword: c.SentinelPassword,
		ContextTimeoutEnabled: true, DisableIdentity: true, OnConnect: c.Connected}
	switch secure {
	case "redis":
	case "rediss":
		if u.TLSConfig = c.TLS; u.TLSConfig == nil {
			u.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
		}
	default:
		return nil, false, fmt.Errorf("redis url: %w", errURL)
	}
	path, err := authority(&u, rest)
	if err != nil {
		return nil, false, err
	}
	master, db, _ := strings.Cut(path, "/")
	if db != "" {
		if u.DB, err = strconv.Atoi(db); err != nil || u.DB < 0 {
			return nil, false, fmt.Errorf("redis url: database %q: %w", db, errURL)
		}
	}
	switch {
	case "+"+kind == schemeCluster && path == "":
		return redis.NewClusterClient(u.Cluster()), true, nil
	case "+"+kind == schemeSentinel && master != "":
		u.MasterName = master
		return redis.NewFailoverClient(u.Failover()), false, nil
	}
	return nil, false, fmt.Errorf("redis url: %w", errURL)
}

// What bounds a client.
const (
	retryLeast = time.Millisecond
	retryMost  = 5 * time.Millisecond
	poolConns  = 32
	poolIdle   = 8
)

// authority reads user, password and addresses, and gives the path after them. net/url
// does not read several addresses.
func authority(u *redis.UniversalOptions, rest string) (path string, err error) {
	hosts, path, _ := strings.Cut(rest, "/")
	if at := strings.LastIndexByte(hosts, '@'); at >= 0 {
		user, password, stated := strings.Cut(hosts[:at], ":")
		if !stated {
			user, password = "", user
		}
		if u.Username, err = url.PathUnescape(user); err == nil {
			u.Password, err = url.PathUnescape(password)
		}
		if err != nil { // not wrapped: it would show the password
			return "", fmt.Errorf("redis url: percent-encode user and password: %w", errURL)
		}
		hosts = hosts[at+1:]
	}
	for host := range strings.SplitSeq(hosts, ",") {
		if name, port, ok := strings.Cut(host, ":"); !ok || name == "" || port == "" {
			return "", fmt.Errorf("redis url: address %q: %w", host, errURL)
		}
		u.Addrs = append(u.Addrs, host)
	}
	return path, nil
}

// SetLogger passes on what the Redis client has to say: that connections failed, which
// callers are told too. The client has one logger for the process: a composition root sets
// it once.
func SetLogger(log *slog.Logger) { redis.SetLogger(clientLog{log}) }

type clientLog struct{ log *slog.Logger }

// Printf implements the client's logger.
func (l clientLog) Printf(ctx context.Context, format string, args ...any) {
	l.log.LogAttrs(ctx, slog.LevelDebug, fmt.Sprintf(format, args...))
}
