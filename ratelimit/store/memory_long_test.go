//go:build long

package store_test

import (
	"strconv"
	"strings"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/store"
)

// TestAMillionSettledCallsTakeSixtyMegabytes at most.
func TestAMillionSettledCallsTakeSixtyMegabytes(t *testing.T) {
	t.Parallel()
	server := testenv.RedisServer(t)
	s, client := onServer(t, server, nil), server.Client()
	used := func() int {
		info, err := client.Info(t.Context(), "memory").Result()
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(info, "used_memory:")
		number, _, _ := strings.Cut(rest, "\r\n")
		n, err := strconv.Atoi(number)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	const calls, batch, most = 1_000_000, 1000, 60 << 20
	before := used()
	for from := 0; from < calls; from += batch {
		some := takes(from, batch)
		holdAll(t, s, some)
		settleAll(t, s, some, store.Settled)
	}
	if grown := used() - before; grown > most {
		t.Errorf("want at most %d bytes, got %d", most, grown)
	} else {
		t.Logf("%d bytes for %d calls", grown, calls)
	}
}
