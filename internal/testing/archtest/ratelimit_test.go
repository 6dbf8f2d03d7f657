package archtest

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestLimiterRooms holds ratelimit's rooms apart: what reads Envoy's messages knows
// nothing of Redis, what talks to Redis knows nothing of Envoy, and only the root, which
// composes them, sees both. A room imports only those that its line names.
func TestLimiterRooms(t *testing.T) {
	t.Parallel()
	const (
		root  = "ratelimit"
		redis = "github.com/redis/go-redis/"
		envoy = "github.com/envoyproxy/"
	)
	rooms := map[string][]string{ // each with the rooms it may import
		root:                {root + "/bucket", root + "/match", root + "/wire", root + "/lease", root + "/store"},
		root + "/bucket":    nil,
		root + "/match":     {root + "/bucket"},
		root + "/wire":      {root + "/bucket", root + "/match"},
		root + "/lease":     {root + "/bucket", root + "/store"},
		root + "/store":     {root + "/bucket"},
		root + "/store/lua": nil,
		root + "/replay":    {root + "/bucket", root + "/match"},
		root + "/dropin":    {root, root + "/store"}, // a composition root
	}
	for _, s := range sources(t) {
		room := filepath.ToSlash(filepath.Dir(s.path))
		allowed, known := rooms[room]
		if strings.HasSuffix(s.path, "_test.go") || room != root && !strings.HasPrefix(room, root+"/") || room == root+"/difftest" {
			continue
		}
		if !known {
			t.Errorf("%s is in a room of ratelimit that this test does not know: say here what it may import", s.path)
		}
		var seesEnvoy, seesRedis bool
		for _, imp := range s.file.Imports {
			path := strings.Trim(imp.Path.Value, `"`)
			ours, _ := strings.CutPrefix(path, module)
			if other, of := rooms[ours]; of && !slices.Contains(allowed, ours) {
				t.Errorf("%s imports %s, which may import %v: turn the arrow round", s.path, ours, other)
			}
			seesEnvoy = seesEnvoy || strings.HasPrefix(path, envoy) || ours == root+"/wire"
			seesRedis = seesRedis || strings.HasPrefix(path, redis) || room != root && ours == root+"/store"
		}
		if seesEnvoy && seesRedis {
			t.Errorf("%s both reads Envoy's messages and talks to Redis", s.path)
		}
	}
}
