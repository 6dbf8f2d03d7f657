package dropin

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"
)

// Settings are envoyproxy/ratelimit's environment variables that are taken, with its defaults.
// The tags are kong's, which reads them and shows them with --help.
type Settings struct {
	Host      string `env:"HOST" default:"0.0.0.0" help:"Address of the HTTP port."`
	Port      int    `env:"PORT" default:"8080" help:"HTTP port: /json, /healthcheck."`
	DebugHost string `env:"DEBUG_HOST" default:"0.0.0.0" help:"Address of the port for people."`
	DebugPort int    `env:"DEBUG_PORT" default:"6070" help:"Port for people: /rlconfig, /stats, /explain."`

	GRPCUds  string `env:"GRPC_UDS" name:"grpc-uds" help:"Unix socket of the gRPC service, in place of a port."`
	GRPCHost string `env:"GRPC_HOST" name:"grpc-host" default:"0.0.0.0" help:"Address of the gRPC service."`
	GRPCPort int    `env:"GRPC_PORT" name:"grpc-port" default:"8081" help:"Port of the gRPC service."`

	ServerTLS     bool    `env:"GRPC_SERVER_USE_TLS" name:"grpc-server-use-tls" help:"Envoys connect by TLS."`
	ServerCert    string  `env:"GRPC_SERVER_TLS_CERT" name:"grpc-server-tls-cert" help:"PEM file of the certificate; read again when it changes."`
	ServerKey     string  `env:"GRPC_SERVER_TLS_KEY" name:"grpc-server-tls-key" help:"PEM file of its key."`
	ClientCA      string  `env:"GRPC_CLIENT_TLS_CACERT" name:"grpc-client-tls-cacert" help:"PEM file of who issues Envoys' certificates; then each needs one."`
	ClientSAN     string  `env:"GRPC_CLIENT_TLS_SAN" name:"grpc-client-tls-san" help:"Name that an Envoy's certificate must have."`
	LogLevel      string  `env:"LOG_LEVEL" default:"WARN" help:"debug, info, warn or error."`
	LogFormat     string  `env:"LOG_FORMAT" default:"text" help:"text or json."`
	ShadowMode    bool    `env:"SHADOW_MODE" help:"Refuse nothing."`
	QuotaMode     bool    `env:"QUOTA_MODE" help:"Every rule is in quota mode."`
	Metadata      bool    `env:"RESPONSE_DYNAMIC_METADATA" name:"response-dynamic-metadata" help:"Answers have dynamic metadata also where no rule has some."`
	NearRatio     float64 `env:"NEAR_LIMIT_RATIO" name:"near-limit-ratio" default:"0.8" help:"Share of a limit above which hits count as near it."`
	KeyPrefix     string  `env:"CACHE_KEY_PREFIX" name:"cache-key-prefix" help:"Before every key in Redis."`
	LocalCache    int     `env:"LOCAL_CACHE_SIZE_IN_BYTES" name:"local-cache-size-in-bytes" help:"Above 0: callers above the limit of a window are refused without Redis until it ends."`
	Backend       string  `env:"BACKEND_TYPE" name:"backend-type" default:"redis" help:"Only redis."`
	Headers       bool    `env:"LIMIT_RESPONSE_HEADERS_ENABLED" name:"limit-response-headers-enabled" help:"Clients get headers."`
	LimitHeader   string  `env:"LIMIT_LIMIT_HEADER" name:"limit-limit-header" default:"RateLimit-Limit" help:"Its name."`
	RestHeader    string  `env:"LIMIT_REMAINING_HEADER" name:"limit-remaining-header" default:"RateLimit-Remaining" help:"Its name."`
	ResetHeader   string  `env:"LIMIT_RESET_HEADER" name:"limit-reset-header" default:"RateLimit-Reset" help:"Its name."`
	HealthyLoaded bool    `env:"HEALTHY_WITH_AT_LEAST_ONE_CONFIG_LOADED" name:"healthy-with-at-least-one-config-loaded" help:"Be healthy only with a domain."`

	ConfigType string `env:"CONFIG_TYPE" name:"config-type" default:"FILE" help:"FILE or GRPC_XDS_SOTW."`
	ForceStart bool   `env:"FORCE_START_WITHOUT_INITIAL_CONFIG" name:"force-start-without-initial-config" help:"Serve before the first rules are there."`
	Merge      bool   `env:"MERGE_DOMAIN_CONFIG" name:"merge-domain-config" help:"Several files may make one domain."`

	CalendarMonths bool `env:"USE_CALENDAR_MONTH_RATE_LIMIT" name:"use-calendar-month-rate-limit" help:"A month is one of the calendar, in UTC, and not 30 days."`

	RuntimeRoot    string `env:"RUNTIME_ROOT" name:"runtime-root" default:"/srv/runtime_data/current" help:"Where files are."`
	RuntimeSub     string `env:"RUNTIME_SUBDIRECTORY" name:"runtime-subdirectory" help:"Below it."`
	RuntimeApp     string `env:"RUNTIME_APPDIRECTORY" name:"runtime-appdirectory" default:"config" help:"Below that; all files there are rules."`
	IgnoreDotFiles bool   `env:"RUNTIME_IGNOREDOTFILES" name:"runtime-ignoredotfiles" help:"Leave out files and folders that begin with a dot."`

	XDS     XDSSettings    `embed:""`
	Redis   RedisSettings  `embed:""`
	Metrics MetricSettings `embed:""`
}

// XDSSettings say who sends rules with CONFIG_TYPE=GRPC_XDS_SOTW.
type XDSSettings struct {
	URL          string        `env:"CONFIG_GRPC_XDS_SERVER_URL" name:"config-grpc-xds-server-url" default:"localhost:18000" help:"host:port of the xDS server."`
	NodeID       string        `env:"CONFIG_GRPC_XDS_NODE_ID" name:"config-grpc-xds-node-id" default:"default" help:"Our node id there."`
	NodeMetadata string        `env:"CONFIG_GRPC_XDS_NODE_METADATA" name:"config-grpc-xds-node-metadata" help:"key=value,key=value of our node."`
	Headers      string        `env:"CONFIG_GRPC_XDS_CLIENT_ADDITIONAL_HEADERS" name:"config-grpc-xds-client-additional-headers" help:"key:value,key:value sent to it."`
	Retry        time.Duration `env:"CONFIG_GRPC_XDS_SERVER_CONNECT_RETRY_INTERVAL" name:"config-grpc-xds-server-connect-retry-interval" default:"3s" help:"Longest pause between two attempts to connect."`
	MaxMessage   int           `env:"XDS_CLIENT_MAX_MSG_SIZE_IN_BYTES" name:"xds-client-max-msg-size-in-bytes" help:"Largest message taken; 0: 64 MiB."`
	TLS          bool          `env:"CONFIG_GRPC_XDS_SERVER_USE_TLS" name:"config-grpc-xds-server-use-tls" help:"Connect by TLS."`
	Cert         string        `env:"CONFIG_GRPC_XDS_CLIENT_TLS_CERT" name:"config-grpc-xds-client-tls-cert" help:"PEM file of our certificate."`
	Key          string        `env:"CONFIG_GRPC_XDS_CLIENT_TLS_KEY" name:"config-grpc-xds-client-tls-key" help:"PEM file of its key."`
	CA           string        `env:"CONFIG_GRPC_XDS_SERVER_TLS_CACERT" name:"config-grpc-xds-server-tls-cacert" help:"PEM file of who issues the server's certificate; empty: the system's."`
	SAN          string        `env:"CONFIG_GRPC_XDS_SERVER_TLS_SAN" name:"config-grpc-xds-server-tls-san" help:"Name that it must have; empty: its host."`
}

// RedisSettings say where counts are kept.
type RedisSettings struct {
	Socket       string        `env:"REDIS_SOCKET_TYPE" name:"redis-socket-type" default:"unix" help:"unix or tcp."`
	Type         string        `env:"REDIS_TYPE" name:"redis-type" default:"SINGLE" help:"SINGLE, CLUSTER or SENTINEL."`
	URL          string        `env:"REDIS_URL" name:"redis-url" default:"/var/run/nutcracker/ratelimit.sock" help:"host:port or a socket's path; of a cluster several, with commas; of sentinels the master's name before them."`
	PoolSize     int           `env:"REDIS_POOL_SIZE" name:"redis-pool-size" default:"10" help:"Connections at most."`
	Auth         string        `env:"REDIS_AUTH" name:"redis-auth" help:"password or user:password."`
	SentinelAuth string        `env:"REDIS_SENTINEL_AUTH" name:"redis-sentinel-auth" help:"The same for sentinels."`
	TLS          bool          `env:"REDIS_TLS" name:"redis-tls" help:"Connect by TLS."`
	Cert         string        `env:"REDIS_TLS_CLIENT_CERT" name:"redis-tls-client-cert" help:"PEM file of our certificate."`
	Key          string        `env:"REDIS_TLS_CLIENT_KEY" name:"redis-tls-client-key" help:"PEM file of its key."`
	CA           string        `env:"REDIS_TLS_CACERT" name:"redis-tls-cacert" help:"PEM file of who issues the server's; empty: the system's."`
	AnyName      bool          `env:"REDIS_TLS_SKIP_HOSTNAME_VERIFICATION" name:"redis-tls-skip-hostname-verification" help:"Take a certificate of any name."`
	Timeout      time.Duration `env:"REDIS_TIMEOUT" name:"redis-timeout" default:"10s" help:"Longest wait for an answer; more than 1s counts as 1s."`
	Healthy      bool          `env:"REDIS_HEALTH_CHECK_ACTIVE_CONNECTION" name:"redis-health-check-active-connection" help:"Be healthy only while Redis answers."`
}

// MetricSettings say who is told what was counted.
type MetricSettings struct {
	Disabled   bool          `env:"DISABLE_STATS" name:"disable-stats" help:"Tell nobody."`
	Statsd     bool          `env:"USE_STATSD" name:"use-statsd" default:"true" help:"Send to a statsd, by TCP." negatable:""`
	StatsdHost string        `env:"STATSD_HOST" name:"statsd-host" default:"localhost" help:"Its host."`
	StatsdPort int           `env:"STATSD_PORT" name:"statsd-port" default:"8125" help:"Its port."`
	Flush      time.Duration `env:"STATS_FLUSH_INTERVAL" name:"stats-flush-interval" default:"10s" help:"How often."`
	Tags       string        `env:"EXTRA_TAGS" name:"extra-tags" help:"key:value,key:value of every series."`
	Prometheus bool          `env:"USE_PROMETHEUS" name:"use-prometheus" help:"Serve Prometheus, in place of statsd."`
	Addr       string        `env:"PROMETHEUS_ADDR" name:"prometheus-addr" default:":9090" help:"Where."`
	Path       string        `env:"PROMETHEUS_PATH" name:"prometheus-path" default:"/metrics" help:"At which path."`
}

// untaken are variables of envoyproxy/ratelimit that change nothing here, by their name or
// its beginning, and why.
func untaken() map[string]string {
	return map[string]string{
		"MEMCACHE_":                               "counts are kept in Redis only",
		"REDIS_PERSECOND":                         "limits by the second are in REDIS_URL too",
		"REDIS_PIPELINE_":                         "calls that come together share a round trip by themselves",
		"REDIS_POOL_ON_EMPTY_BEHAVIOR":            "callers wait for a connection",
		"EXPIRATION_JITTER_MAX_SECONDS":           "keys expire with their window",
		"STOP_CACHE_KEY_INCREMENT_WHEN_OVERLIMIT": "write count: admitted in a rule's metadata.rate_limit_policy",
		"USE_DOG_STATSD":                          "statsd and Prometheus are there",
		"PROMETHEUS_MAPPER_YAML":                  "series have the names of the default mapping",
		"TRACING_":                                "there are no traces",
		"GRPC_MAX_CONNECTION_AGE":                 "connections live until one side ends them",
		"XDS_CLIENT_BACKOFF_":                     "CONFIG_GRPC_XDS_SERVER_CONNECT_RETRY_INTERVAL is the longest pause",
	}
}

// Untaken tells of each variable of an environment that is set and not taken.
func Untaken(environ []string) []string {
	var all []string
	for _, one := range environ {
		name, value, _ := strings.Cut(one, "=")
		if value == "" || value == "false" || value == "0" {
			continue
		}
		for begin, why := range untaken() {
			if strings.HasPrefix(name, begin) {
				all = append(all, name+": "+why)
			}
		}
	}
	slices.Sort(all)
	return all
}

// check reports settings that make no sense.
func (s *Settings) check() error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	oneOf := func(name, value string, allowed ...string) {
		if !slices.ContainsFunc(allowed, func(a string) bool { return strings.EqualFold(a, value) }) {
			fail("%s is %q; write %s", name, value, strings.Join(allowed, " or "))
		}
	}
	oneOf("CONFIG_TYPE", s.ConfigType, fileConfig, xdsConfig)
	oneOf("BACKEND_TYPE", s.Backend, "redis")
	oneOf("REDIS_SOCKET_TYPE", s.Redis.Socket, "unix", "tcp")
	oneOf("REDIS_TYPE", s.Redis.Type, redisSingle, redisCluster, redisSentinel)
	oneOf("LOG_FORMAT", s.LogFormat, "text", "json")
	if _, err := s.level(); err != nil {
		errs = append(errs, err)
	}
	if s.NearRatio <= 0 || s.NearRatio > 1 {
		fail("NEAR_LIMIT_RATIO is %g; it must be above 0 and at most 1", s.NearRatio)
	}
	if s.ServerTLS && (s.ServerCert == "" || s.ServerKey == "") {
		fail("GRPC_SERVER_USE_TLS needs GRPC_SERVER_TLS_CERT and GRPC_SERVER_TLS_KEY")
	}
	return errors.Join(errs...)
}

// level is LOG_LEVEL; logrus' names that slog lacks are the nearest it has.
func (s *Settings) level() (slog.Level, error) {
	var level slog.Level
	switch name := strings.ToLower(s.LogLevel); name {
	case "trace":
		return slog.LevelDebug, nil
	case "warning":
		return slog.LevelWarn, nil
	case "fatal", "panic":
		return slog.LevelError, nil
	default:
		if err := level.UnmarshalText([]byte(name)); err != nil {
			return 0, fmt.Errorf("LOG_LEVEL is %q; write debug, info, warn or error", s.LogLevel)
		}
		return level, nil
	}
}

// pairs reads "key:value,key:value" with any separator between key and value.
func pairs(name, text, separator string) (map[string]string, error) {
	out := map[string]string{}
	for one := range strings.SplitSeq(text, ",") {
		if one == "" {
			continue
		}
		key, value, ok := strings.Cut(one, separator)
		if !ok || key == "" {
			return nil, fmt.Errorf("%s: %q is no key%svalue", name, one, separator)
		}
		out[key] = value
	}
	return out, nil
}
