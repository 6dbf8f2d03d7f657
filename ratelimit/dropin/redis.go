package dropin

import (
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/redisconn"
)

// Values of REDIS_TYPE.
const (
	redisSingle   = "SINGLE"
	redisCluster  = "CLUSTER"
	redisSentinel = "SENTINEL"
)

// longestAsk bounds a round trip to Redis: an Envoy that waits that long has given up.
const longestAsk = time.Second

// connection is how the store connects.
func (r *RedisSettings) connection() (string, redisconn.Extra, error) {
	extra := redisconn.Extra{PoolSize: r.PoolSize}
	if r.SentinelAuth != "" {
		extra.SentinelUser, extra.SentinelPassword = auth(r.SentinelAuth)
	}
	scheme := "redis"
	if r.TLS {
		scheme = "rediss"
		var err error
		if extra.TLS, err = clientTLS(r.Cert, r.Key, r.CA, "", r.AnyName); err != nil {
			return "", extra, fmt.Errorf("REDIS_TLS: %w", err)
		}
	}
	who := ""
	if r.Auth != "" {
		who = url.UserPassword(auth(r.Auth)).String() + "@"
	}
	addresses := strings.Split(r.URL, ",")
	for i, a := range addresses { // also with a scheme, and with credentials that are the same for all
		if rest, had := strings.CutPrefix(a, "redis://"); had {
			if at := strings.LastIndexByte(rest, '@'); at >= 0 {
				who, rest = rest[:at+1], rest[at+1:]
			}
			a = strings.TrimSuffix(rest, "/")
		}
		addresses[i] = a
	}
	switch strings.ToUpper(r.Type) {
	case redisCluster:
		return scheme + "+cluster://" + who + strings.Join(addresses, ","), extra, nil
	case redisSentinel:
		if len(addresses) < 2 {
			return "", extra, fmt.Errorf("REDIS_URL of sentinels is the master's name, a comma, and their addresses with commas")
		}
		return scheme + "+sentinel://" + who + strings.Join(addresses[1:], ",") + "/" + addresses[0], extra, nil
	}
	if len(addresses) > 1 {
		return "", extra, fmt.Errorf("REDIS_URL names several servers; set REDIS_TYPE to CLUSTER or SENTINEL")
	}
	if strings.EqualFold(r.Socket, "unix") && strings.HasPrefix(addresses[0], "/") {
		return "unix://" + who + addresses[0], extra, nil
	}
	return scheme + "://" + who + addresses[0], extra, nil
}

// auth reads password or user:password.
func auth(text string) (user, password string) {
	if user, password, both := strings.Cut(text, ":"); both {
		return user, password
	}
	return "", text
}
