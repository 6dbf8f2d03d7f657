package redisconn_test

import (
	"strings"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/redisconn"
)

func TestEveryFormOfAURL(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]string{ // what it becomes; empty: refused
		"redis://h:1": "single", "redis://:secret@h:1/2": "single", "rediss://h:1": "single", "unix:///run/redis.sock": "single",
		"redis+cluster://:secret@h:1,i:2": "cluster", "rediss+cluster://h:1": "cluster", "redis+sentinel://h:1,i:2/main": "single",
		"redis+sentinel://u:secret@h:1/main/3": "single",
		"":                                     "", "h:1": "", "http://h:1": "", "redis+cluster://h:1/main": "", "redis+sentinel://h:1": "", "redis+other://h:1": "",
		"redis+cluster://h": "", "redis+sentinel://h:1/main/x": "", "redis+cluster://:secret%zz@h:1": "", "redis://:secret%zz@h:1": "",
	} {
		client, cluster, err := redisconn.Dial(redisconn.Config{URL: url})
		if err != nil {
			if want != "" || strings.Contains(err.Error(), "secret") || !strings.Contains(err.Error(), "write redis://") {
				t.Errorf("%q: %v", url, err)
			}
			continue
		}
		client.Close()
		if want == "" || cluster != (want == "cluster") {
			t.Errorf("%q: want %q, got cluster %v", url, want, cluster)
		}
	}
}

func FuzzDial(f *testing.F) {
	f.Add("redis+sentinel://u:secret@h:1,i:2/main/3")
	f.Fuzz(func(_ *testing.T, url string) {
		if client, _, err := redisconn.Dial(redisconn.Config{URL: url}); err == nil {
			client.Close()
		}
	})
}
