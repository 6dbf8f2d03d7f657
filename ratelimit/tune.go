package ratelimit

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"

	"github.com/redis/go-redis/v9"
)

// gcPercent lets the heap grow to this share of what lives before it is collected.
// Little lives long here and every request makes some short-lived text: at Go's default
// the collector would run every few hundred requests for the sake of a few megabytes.
const gcPercent = 400

// Tune sets what belongs to the process and not to a service: the collector's pace and
// the Redis client's logger. The composition root calls it once.
func Tune(log *slog.Logger) {
	debug.SetGCPercent(gcPercent)
	redis.SetLogger(redisLog{log})
}

// redisLog passes on what the Redis client has to say: that connections failed, which
// callers are told too.
type redisLog struct{ log *slog.Logger }

// Printf implements the client's logger.
func (l redisLog) Printf(ctx context.Context, format string, args ...any) {
	l.log.LogAttrs(ctx, slog.LevelDebug, fmt.Sprintf(format, args...))
}
