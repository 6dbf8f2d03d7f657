package testenv

import (
	"context"
	"errors"
	"strings"
	"testing"
)

// RedisCluster gives a Valkey in cluster mode that has all slots to itself: it refuses
// what crosses slots, as a cluster of many does. Only this test uses it.
func RedisCluster(tb testing.TB) *RedisProcess {
	tb.Helper()
	server := must[*RedisProcess](tb, "redis")(startRedis(tb.TempDir(), "--cluster-enabled", "yes", "--appendonly", "yes", "--appendfsync",
		"always"))
	tb.Cleanup(server.process.kill)
	server.tb = tb
	client := server.Client()
	if err := client.ClusterAddSlotsRange(tb.Context(), 0, 16383).Err(); err != nil {
		tb.Fatalf("testenv: give a cluster its slots: %v", err)
	}
	err := poll(server.process, func(ctx context.Context) error {
		info, err := client.ClusterInfo(ctx).Result()
		if err == nil && !strings.Contains(info, "cluster_state:ok") {
			err = errors.New("the cluster is not ready")
		}
		return err
	})
	if err != nil {
		tb.Fatalf("testenv: %v", err)
	}
	return server
}
