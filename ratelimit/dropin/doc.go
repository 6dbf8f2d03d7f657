// Package dropin is ratelimit alone, in the place of envoyproxy/ratelimit: it reads that
// server's environment variables, takes its files or its xDS, and listens where it listens.
// Nothing of Leaky Tokens but the limiter and Redis takes part.
//
//	settings.go   the environment, and what of it is not taken
//	redis.go      REDIS_*            -> how ratelimit/store connects
//	files.go      CONFIG_TYPE=FILE   -> rules, again when a file changes
//	xds.go        GRPC_XDS_SOTW      -> rules, again when the server sends some
//	metrics.go    our series         -> the names that dashboards know
//	run.go        ports, and the service behind them
package dropin
