package dropin

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestConnection(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		settings RedisSettings
		url, err string
	}{
		"port":            {RedisSettings{Socket: "tcp", Type: "SINGLE", URL: "redis:6379"}, "redis://redis:6379", ""},
		"socket":          {RedisSettings{Socket: "unix", Type: "single", URL: "/var/run/r.sock"}, "unix:///var/run/r.sock", ""},
		"password":        {RedisSettings{Socket: "tcp", URL: "redis:6379", Auth: "p@ss/w:rd"}, "redis://p%40ss%2Fw:rd@redis:6379", ""},
		"password alone":  {RedisSettings{Socket: "tcp", URL: "redis:6379", Auth: "secret"}, "redis://:secret@redis:6379", ""},
		"user":            {RedisSettings{Socket: "tcp", URL: "redis:6379", Auth: "ann:secret"}, "redis://ann:secret@redis:6379", ""},
		"with a scheme":   {RedisSettings{Socket: "tcp", URL: "redis://ann:secret@redis:6379"}, "redis://ann:secret@redis:6379", ""},
		"TLS":             {RedisSettings{Socket: "tcp", URL: "redis:6379", TLS: true}, "rediss://redis:6379", ""},
		"cluster":         {RedisSettings{Socket: "tcp", Type: "cluster", URL: "a:1,b:2"}, "redis+cluster://a:1,b:2", ""},
		"sentinel":        {RedisSettings{Socket: "tcp", Type: "SENTINEL", URL: "main,a:1,b:2", Auth: "x"}, "redis+sentinel://:x@a:1,b:2/main", ""},
		"sentinels alone": {RedisSettings{Socket: "tcp", Type: "SENTINEL", URL: "a:1"}, "", "the master's name"},
		"several":         {RedisSettings{Socket: "tcp", Type: "SINGLE", URL: "a:1,b:2"}, "", "REDIS_TYPE"},
		"no such CA":      {RedisSettings{Socket: "tcp", URL: "a:1", TLS: true, CA: "/none"}, "", "REDIS_TLS"},
	} {
		url, _, err := tc.settings.connection()
		if url != tc.url || (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
			t.Errorf("%s: want %q and %q, got %q and %v", name, tc.url, tc.err, url, err)
		}
	}
}

func TestSettingsThatMakeNoSense(t *testing.T) {
	t.Parallel()
	good := func() Settings {
		return Settings{ConfigType: "FILE", Backend: "redis", LogLevel: "WARN", LogFormat: "text", NearRatio: 0.8, Redis: RedisSettings{Socket: "tcp",
			Type: "SINGLE"}}
	}
	s := good()
	if err := s.check(); err != nil {
		t.Errorf("the defaults: %v", err)
	}
	for name, change := range map[string]func(*Settings){
		"CONFIG_TYPE":          func(s *Settings) { s.ConfigType = "HTTP" },
		"BACKEND_TYPE":         func(s *Settings) { s.Backend = "memcache" },
		"REDIS_TYPE":           func(s *Settings) { s.Redis.Type = "RING" },
		"REDIS_SOCKET_TYPE":    func(s *Settings) { s.Redis.Socket = "udp" },
		"LOG_LEVEL":            func(s *Settings) { s.LogLevel = "loud" },
		"LOG_FORMAT":           func(s *Settings) { s.LogFormat = "xml" },
		"NEAR_LIMIT_RATIO":     func(s *Settings) { s.NearRatio = 80 },
		"GRPC_SERVER_TLS_CERT": func(s *Settings) { s.ServerTLS = true },
	} {
		s := good()
		if change(&s); s.check() == nil || !strings.Contains(s.check().Error(), name) {
			t.Errorf("%s: want it named, got %v", name, s.check())
		}
	}
}

func TestUntaken(t *testing.T) {
	t.Parallel()
	got := Untaken([]string{"MEMCACHE_HOST_PORT=a:1", "REDIS_URL=x", "TRACING_ENABLED=false", "USE_DOG_STATSD=true", "LOCAL_CACHE_SIZE_IN_BYTES=0", "PATH=/bin"})
	want := []string{"MEMCACHE_HOST_PORT: counts are kept in Redis only", "USE_DOG_STATSD: statsd and Prometheus are there"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestNamesOfSeries(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]struct {
		family string
		labels map[string]string
	}{
		"ratelimit.service.rate_limit.shop.k_v.total_hits":      {"ratelimit_service_rate_limit_total_hits", map[string]string{"domain": "shop", "key1": "k_v"}},
		"ratelimit.service.rate_limit.shop.a.b.over_limit":      {"ratelimit_service_rate_limit_over_limit", map[string]string{"domain": "shop", "key1": "a", "key2": "b"}},
		"ratelimit.service.rate_limit.shop.a.b.c.d.shadow_mode": {"ratelimit_service_rate_limit_shadow_mode", map[string]string{"domain": "shop", "key1": "a", "key2": "b"}},
		"ratelimit.service.call.should_rate_limit.redis_error":  {"ratelimit_service_should_rate_limit_error", map[string]string{"err_type": "redis_error"}},
		"ratelimit_server.ShouldRateLimit.total_requests":       {"ratelimit_service_total_requests", map[string]string{"grpc_method": "ShouldRateLimit"}},
		"ratelimit.service.config_load_success":                 {"ratelimit_service_config_load_success", map[string]string{}},
		"ratelimit.service.rate_limit.unheard.domain_not_found": {"ratelimit_service_rate_limit_unheard_domain_not_found", map[string]string{}},
	} {
		family, labels := mapped(name)
		if diff := cmp.Diff(want.labels, labels); family != want.family || diff != "" {
			t.Errorf("%s: got %s %s", name, family, diff)
		}
	}
	if got := clean("a:b|c_10.0.0.1/8"); got != "a_b_c_10_0_0_1/8" {
		t.Errorf("clean: got %s", got)
	}
}
