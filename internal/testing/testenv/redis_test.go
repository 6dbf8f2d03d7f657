package testenv_test

import (
	"context"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

func TestRedisPrefixesAreApart(t *testing.T) {
	t.Parallel()
	client, one := testenv.Redis(t)
	_, two := testenv.Redis(t)
	if one == two {
		t.Fatalf("prefixes: want two, got %q twice", one)
	}
	if err := client.Set(t.Context(), one+"k", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	if got, err := client.Get(t.Context(), one+"k").Result(); err != nil || got != "v" {
		t.Errorf("read back: want v, got %q, %v", got, err)
	}
}

func TestRedisServerSurvivesKill(t *testing.T) {
	t.Parallel()
	server := testenv.RedisServer(t)
	client := server.Client()
	if err := client.Set(t.Context(), "k", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	server.Kill()
	if err := client.Ping(t.Context()).Err(); err == nil {
		t.Error("ping of a killed server: want an error, got none")
	}
	server.Restart()
	if got, err := client.Get(t.Context(), "k").Result(); err != nil || got != "v" {
		t.Errorf("after the restart: want v, got %q, %v", got, err)
	}
	server.Freeze()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := client.Ping(ctx).Err(); err == nil {
		t.Error("ping of a frozen server: want an error, got none")
	}
	server.Thaw()
	if err := client.Ping(t.Context()).Err(); err != nil {
		t.Errorf("ping after the thaw: want no error, got %v", err)
	}
}
