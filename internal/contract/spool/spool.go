// Package spool is the line that Envoy's access log writes for every LLM request
// and the meter reads: the write-ahead log of metering. xds turns Format into
// Envoy's json_format; the meter decodes lines with Parse.
package spool

import (
	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
)

// Line is one request as Envoy saw it end, or go on (see Running). A field Envoy had nothing for is nil or zero.
type Line struct {
	ID       string   `json:"id"`      // x-request-id, always Envoy's own
	Account  string   `json:"account"` // whose buckets hold; empty: nothing was held
	Held     *float64 `json:"held"`    // tokens held
	HeldIn   *float64 `json:"held_in"` // of those, for the input
	User     string   `json:"user"`
	Org      string   `json:"org"`
	Team     string   `json:"team"`
	Key      string   `json:"key"`
	Tier     string   `json:"tier"`
	Route    string   `json:"route"`
	Provider string   `json:"provider"`
	Model    string   `json:"model"`   // as configured: what was asked for, without its provider
	Cluster  string   `json:"cluster"` // of the last attempt; attributes.ServedBy tells a fallback
	Stream   string   `json:"stream"`  // "true" when a stream was asked for
	Bytes    string   `json:"bytes"`   // request body length in bytes, decimal

	// Parts are what the request names and its bytes do not tell, as attributes.Parts says;
	// empty: text alone.
	Parts string `json:"parts"`

	// What the call says of itself; Tags as a query string.
	EndUser string `json:"end_user"`
	Session string `json:"session"`
	Tags    string `json:"tags"`

	Answer Answer `json:"answer"` // what the usage reader found in it

	Status     int    `json:"status"`   // HTTP status sent to the client
	Flags      string `json:"flags"`    // Envoy's response flags, "-" for none; DC: the client went away
	Details    string `json:"details"`  // Envoy's response code details
	Upstream   string `json:"up"`       // provider's status, "-" when it never answered
	BytesSent  int64  `json:"sent"`     // response body bytes sent to the client
	WireSent   int64  `json:"wire"`     // bytes sent to the provider, headers included
	WireRecv   int64  `json:"recv"`     // bytes received from it, headers included
	HeaderRecv int64  `json:"recv_h"`   // of those, headers
	Attempts   int64  `json:"attempts"` // calls of the provider
	Millis     int64  `json:"ms"`       // duration
	FirstByte  *int64 `json:"ttfb"`     // milliseconds to the provider's first byte
	Start      string `json:"start"`    // RFC 3339 with milliseconds
	Trace      string `json:"trace"`    // traceparent, in its form of version 00, or empty
	Corr       string `json:"corr"`     // x-correlation-id
	TraceID    string `json:"trace_id"` // of Envoy's span of the request; empty where nothing is traced
	SpanID     string `json:"span_id"`

	// Type is Envoy's AccessLogType; empty where every line is of a request that ended.
	Type string `json:"type"`
}

// Served is the provider and the model that were asked last: the route's, or a fallback's.
func (l *Line) Served() (provider, model string) {
	if provider, model, ok := attributes.ServedBy(l.Cluster); ok {
		return provider, model
	}
	return l.Provider, l.Model
}

// Moved reports whether the call went on at another model than the one asked for.
func (l *Line) Moved() bool {
	_, _, ok := attributes.ServedBy(l.Cluster)
	return ok
}

// typeEnd is the type of a line of a request that ended.
const typeEnd = "DownstreamEnd"

// Running reports whether the request goes on: its line tells only that.
func (l *Line) Running() bool { return l.Type != "" && l.Type != typeEnd }

// Options are what lines tell beside the rest.
type Options struct {
	Running bool // requests that go on write lines too, and every line says of which kind it is
	Traced  bool // the ids of Envoy's span
}

// Format maps each field of Line to Envoy's substitution. The route's name, provider
// and model come from the route's own metadata in namespace "leaky".
func Format(with Options) map[string]string {
	auth := func(key string) string { return "%DYNAMIC_METADATA(" + attributes.NamespaceAuth + ":" + key + ")%" }
	request := func(key string) string { return "%DYNAMIC_METADATA(" + attributes.NamespaceRequest + ":" + key + ")%" }
	limit := func(key string) string { return "%DYNAMIC_METADATA(" + attributes.NamespaceLimit + ":" + key + ")%" }
	all := map[string]string{
		"id": "%REQ(X-REQUEST-ID)%", "account": limit(attributes.Account), "held": limit(attributes.Held), "held_in": limit(attributes.Input),
		"user": auth(attributes.User), "org": auth(attributes.Org), "team": auth(attributes.Team), "key": auth(attributes.Key),
		"tier":  auth(attributes.Tier),
		"route": "%METADATA(ROUTE:leaky:route)%", "provider": "%METADATA(ROUTE:leaky:provider)%",
		"model":    "%METADATA(ROUTE:leaky:model)%", // not ratelimit's: a refusal has one too
		"stream":   limit(attributes.Stream),
		"bytes":    "%DYNAMIC_METADATA(" + attributes.NamespaceBody + ":" + attributes.Bytes + ")%",
		"parts":    request(attributes.Parts),
		"end_user": request(attributes.EndUser), "session": request(attributes.Session), "tags": request(attributes.Tags),
		"cluster":  "%UPSTREAM_CLUSTER%",
		"attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
		"answer":   "%DYNAMIC_METADATA(" + attributes.NamespaceAnswer + ":" + attributes.Report + ")%",
		"status":   "%RESPONSE_CODE%", "flags": "%RESPONSE_FLAGS%", "details": "%RESPONSE_CODE_DETAILS%",
		"up":   "%RESP(:STATUS)%",
		"sent": "%BYTES_SENT%", "wire": "%UPSTREAM_WIRE_BYTES_SENT%",
		"recv": "%UPSTREAM_WIRE_BYTES_RECEIVED%", "recv_h": "%UPSTREAM_HEADER_BYTES_RECEIVED%",
		"ms": "%DURATION%", "ttfb": "%RESPONSE_DURATION%", "start": "%START_TIME%",
		"trace": "%REQ(TRACEPARENT):56%", // one byte more than it may have, so that Parse sees a longer one
		"corr":  "%REQ(X-CORRELATION-ID)%",
	}
	if with.Running {
		all["type"] = "%ACCESS_LOG_TYPE%"
	}
	if with.Traced {
		all["trace_id"], all["span_id"] = "%TRACE_ID%", "%SPAN_ID%"
	}
	return all
}
