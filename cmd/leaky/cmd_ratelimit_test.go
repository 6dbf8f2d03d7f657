package main

import (
	"testing"
	"time"

	"github.com/alecthomas/kong"
)

// TestAloneReadsTheEnvironment takes the variables that Envoy Gateway sets, and the defaults.
func TestAloneReadsTheEnvironment(t *testing.T) { // not parallel: it changes the environment
	for name, value := range map[string]string{"REDIS_SOCKET_TYPE": "tcp", "REDIS_URL": "redis.redis.svc:6379", "RUNTIME_ROOT": "/data",
		"RUNTIME_SUBDIRECTORY": "ratelimit", "RUNTIME_IGNOREDOTFILES": "true", "RUNTIME_WATCH_ROOT": "false", "LOG_LEVEL": "info",
		"USE_STATSD": "false", "CONFIG_TYPE": "GRPC_XDS_SOTW", "CONFIG_GRPC_XDS_SERVER_URL": "envoy-gateway:18001",
		"CONFIG_GRPC_XDS_NODE_ID": "envoy-ratelimit", "GRPC_SERVER_USE_TLS": "true", "GRPC_SERVER_TLS_CERT": "/certs/tls.crt",
		"GRPC_SERVER_TLS_KEY": "/certs/tls.key", "GRPC_SERVER_TLS_CA_CERT": "/certs/ca.crt", "CONFIG_GRPC_XDS_SERVER_USE_TLS": "true",
		"CONFIG_GRPC_XDS_CLIENT_TLS_CERT": "/certs/tls.crt", "FORCE_START_WITHOUT_INITIAL_CONFIG": "true", "USE_PROMETHEUS": "true",
		"PROMETHEUS_ADDR": ":19001", "REDIS_TIMEOUT": "250ms"} {
		t.Setenv(name, value)
	}
	var a aloneCommand
	if _, err := kong.Must(&a).Parse(nil); err != nil {
		t.Fatal(err)
	}
	s := a.Settings
	switch {
	case s.Redis.Socket != "tcp" || s.Redis.URL != "redis.redis.svc:6379" || s.Redis.Timeout != 250*time.Millisecond || s.Redis.Type != "SINGLE":
		t.Errorf("redis: %+v", s.Redis)
	case s.RuntimeRoot != "/data" || s.RuntimeSub != "ratelimit" || s.RuntimeApp != "config" || !s.IgnoreDotFiles || s.LogLevel != "info":
		t.Errorf("files: %+v", s)
	case s.ConfigType != "GRPC_XDS_SOTW" || s.XDS.URL != "envoy-gateway:18001" || s.XDS.NodeID != "envoy-ratelimit" || !s.XDS.TLS || !s.ForceStart:
		t.Errorf("xds: %+v", s.XDS)
	case !s.ServerTLS || s.ServerCert != "/certs/tls.crt" || s.GRPCPort != 8081 || s.Port != 8080 || s.DebugPort != 6070:
		t.Errorf("ports: %+v", s)
	case s.Metrics.Statsd || !s.Metrics.Prometheus || s.Metrics.Addr != ":19001" || s.Metrics.Path != "/metrics":
		t.Errorf("metrics: %+v", s.Metrics)
	case s.LimitHeader != "RateLimit-Limit" || s.NearRatio != 0.8 || s.Headers || s.ShadowMode:
		t.Errorf("answers: %+v", s)
	}
}
