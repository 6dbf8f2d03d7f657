// Command upstream serves envoyproxy/ratelimit itself, built from its module: its
// service, its limiter and its Redis client, put together as its own runner does, for
// tests and benchmarks to compare with. It differs from the runner in a few things: the
// address is any free one and is printed, it ends when its standard input does, the clock can be set by a request's metadata
// ("at", seconds of Unix time), and there is neither debug server nor statistics.
//
// It is a module of its own, so that what upstream needs does not become what Leaky
// Tokens needs, and so that upstream runs with the versions it pins.
//
// Flags: -redis host:port, -config FILE, -prefix TEXT. Redis pooling and pipelining are
// upstream's settings, from the environment (REDIS_POOL_SIZE, REDIS_PIPELINE_WINDOW, ...).
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"math/rand"
	"net"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	pb "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/envoyproxy/ratelimit/src/config"
	"github.com/envoyproxy/ratelimit/src/provider"
	"github.com/envoyproxy/ratelimit/src/redis"
	"github.com/envoyproxy/ratelimit/src/server"
	ratelimit "github.com/envoyproxy/ratelimit/src/service"
	"github.com/envoyproxy/ratelimit/src/settings"
	"github.com/envoyproxy/ratelimit/src/stats"
	"github.com/envoyproxy/ratelimit/src/utils"
	gostats "github.com/lyft/gostats"
	"github.com/sirupsen/logrus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/metadata"
)

func main() {
	address := flag.String("redis", "", "host:port of Redis")
	file := flag.String("config", "", "limits file")
	prefix := flag.String("prefix", "", "before every key")
	flag.Parse()
	if err := run(*address, *file, *prefix); err != nil {
		log.Fatal(err)
	}
}

func run(address, file, prefix string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	logrus.SetLevel(logrus.ErrorLevel)
	s := settings.NewSettings()
	store := gostats.NewStore(gostats.NewNullSink(), false)
	manager := stats.NewStatManager(store, s)
	client := redis.NewClientImpl(store.Scope("redis"), s.RedisTls, s.RedisAuth, "tcp", "single", address, s.RedisPoolSize,
		s.RedisPipelineWindow, s.RedisPipelineLimit,
		s.RedisTlsConfig, false, nil, s.RedisTimeout, s.RedisPoolOnEmptyBehavior, "")
	now := &clock{}
	cache := redis.NewFixedRateLimitCacheImpl(client, nil, now, rand.New(utils.NewLockedSource(1)), s.ExpirationJitterMaxSeconds, nil,
		s.NearLimitRatio, prefix, manager,
		s.StopCacheKeyIncrementWhenOverlimit)
	limits := config.NewRateLimitConfigImpl([]config.RateLimitConfigToLoad{{Name: file, ConfigYaml: config.ConfigFileContentToYaml(file,
		string(text))}}, manager, false)
	service := ratelimit.NewService(cache, once{limits}, manager, server.NewHealthChecker(health.NewServer(), "ratelimit", false), now,
		false, false, false)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	g := grpc.NewServer(grpc.UnaryInterceptor(now.intercept))
	pb.RegisterRateLimitServiceServer(g, service)
	fmt.Println(ln.Addr())
	go func() { // whoever started this has gone
		_, _ = io.Copy(io.Discard, os.Stdin)
		g.Stop()
	}()
	return g.Serve(ln)
}

// clock is the machine's until a request sets it.
type clock struct{ at atomic.Int64 }

// UnixNow implements utils.TimeSource.
func (c *clock) UnixNow() int64 {
	if at := c.at.Load(); at != 0 {
		return at
	}
	return time.Now().Unix()
}

func (c *clock) intercept(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		if values := md.Get("at"); len(values) == 1 {
			at, err := strconv.ParseInt(values[0], 10, 64)
			if err != nil {
				return nil, err
			}
			c.at.Store(at)
		}
	}
	return handle(ctx, request)
}

// once provides one configuration.
type once struct{ limits config.RateLimitConfig }

// ConfigUpdateEvent implements provider.RateLimitConfigProvider.
func (o once) ConfigUpdateEvent() <-chan provider.ConfigUpdateEvent {
	c := make(chan provider.ConfigUpdateEvent, 1)
	c <- o
	return c
}

// GetConfig implements provider.ConfigUpdateEvent.
func (o once) GetConfig() (config.RateLimitConfig, any) { return o.limits, nil }

// Stop implements provider.RateLimitConfigProvider.
func (once) Stop() {}
