package protos

import (
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	acceptv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/local_ratelimit/v3"
	inspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	earlyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/early_header_mutation/header_mutation/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/spool"
	"github.com/leaky-tokens/leaky-tokens/xds/model"
)

const (
	// connectionBuffer is the flow-control window of one client, in bytes. Bodies of LLM
	// routes have a bound of their own.
	connectionBuffer = 64 << 10
	firstByteTimeout = 5 * time.Second // of a new connection
	acceptEvery      = 100 * time.Millisecond
	acceptsAtOnce    = 16 // new connections in one turn of a worker
	headersTimeout   = 10 * time.Second
	requestTimeout   = 2 * time.Minute // to receive a whole request
	connectionIdle   = 75 * time.Second
)

// Listener is the public listener with the whole filter chain.
func Listener(l model.Listener) *listenerv3.Listener {
	out := &listenerv3.Listener{
		Name: ListenerName, Address: address(l.Addr), PerConnectionBufferLimitBytes: wrapperspb.UInt32(connectionBuffer),
		// The inspector waits for the first bytes; what it finds in them is not used. A connection on
		// which none come is ended, whereas the idle bound leaves clients time between two calls.
		// That of TLS has seen enough after five bytes of anything else; that of HTTP waits for the
		// whole request line, and hangs up without an answer on one above 64 KiB.
		ListenerFilters: []*listenerv3.ListenerFilter{listenerFilter("envoy.filters.listener.local_ratelimit", accepts(l.Connections)),
			listenerFilter("envoy.filters.listener.tls_inspector", &inspectorv3.TlsInspector{})},
		ListenerFiltersTimeout: durationpb.New(firstByteTimeout),
		// Those who are connected get their turn between new ones.
		MaxConnectionsToAcceptPerSocketEvent: wrapperspb.UInt32(acceptsAtOnce),
		FilterChains: []*listenerv3.FilterChain{{Filters: []*listenerv3.Filter{{
			Name: "envoy.filters.network.http_connection_manager", ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: anyOf(manager(l))}}}}},
	}
	if l.TLS {
		out.FilterChains[0].TransportSocket = downstream(l)
	}
	return out
}

func listenerFilter(name string, m proto.Message) *listenerv3.ListenerFilter {
	return &listenerv3.ListenerFilter{Name: name, ConfigType: &listenerv3.ListenerFilter_TypedConfig{TypedConfig: anyOf(m)}}
}

// accepts bounds how fast new connections come: in the time that one may stay silent a quarter of the
// places is given out, beside the quarter that may be given at once. However many a flood opens, half
// of the places are for those who say something.
func accepts(connections uint32) *acceptv3.LocalRateLimit {
	quarter := connections / 4
	each := quarter * uint32(acceptEvery.Milliseconds()) / uint32(firstByteTimeout.Milliseconds())
	return &acceptv3.LocalRateLimit{StatPrefix: "accepts", TokenBucket: &typev3.TokenBucket{MaxTokens: max(quarter, 1),
		TokensPerFill: wrapperspb.UInt32(max(each, 1)), FillInterval: durationpb.New(acceptEvery)}}
}

// manager is the edge configuration of Envoy's best practices, with two changes for
// LLM calls: no bound on a whole answer (a stream may last), and an idle bound instead.
func manager(l model.Listener) *hcmv3.HttpConnectionManager {
	logged := spool.Options{Running: l.RenewEvery > 0, Traced: l.Tracing != nil}
	m := &hcmv3.HttpConnectionManager{
		StatPrefix: ListenerName, CodecType: hcmv3.HttpConnectionManager_AUTO,
		RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{ConfigSource: ads(), RouteConfigName: RoutesName}},
		HttpFilters:    filters(l),

		// No address is internal, so that a request id is always our own and no x-envoy-
		// header of a client counts.
		UseRemoteAddress: wrapperspb.Bool(true), XffNumTrustedHops: l.TrustedHops, InternalAddressConfig: nobody(),
		GenerateRequestId: wrapperspb.Bool(true), PreserveExternalRequestId: false, AlwaysSetRequestIdInResponse: true,
		EarlyHeaderMutationExtensions: []*corev3.TypedExtensionConfig{typed("envoy.http.early_header_mutation.header_mutation", strip())},

		// A route refuses encoded slashes, but for those in the name of a model.
		NormalizePath: wrapperspb.Bool(true), MergeSlashes: true, PathWithEscapedSlashesAction: hcmv3.HttpConnectionManager_KEEP_UNCHANGED,
		CommonHttpProtocolOptions: &corev3.HttpProtocolOptions{IdleTimeout: durationpb.New(connectionIdle), MaxHeadersCount: count(codecHeaders),
			// Proxies and CDNs add such headers. Servers that read - and _ alike shall not meet one.
			HeadersWithUnderscoresAction: corev3.HttpProtocolOptions_DROP_HEADER},
		// nginx speaks HTTP/1.0 to what it passes requests on to, unless it is told otherwise.
		HttpProtocolOptions: &corev3.Http1ProtocolOptions{AcceptHttp_10: true, DefaultHostForHttp_10: ListenerName},
		Http2ProtocolOptions: &corev3.Http2ProtocolOptions{MaxConcurrentStreams: wrapperspb.UInt32(100),
			InitialStreamWindowSize: wrapperspb.UInt32(64 << 10), InitialConnectionWindowSize: wrapperspb.UInt32(1 << 20),
			MaxHeaderFieldSizeKb: wrapperspb.UInt32(codecHeadersKiB)},
		MaxRequestHeadersKb: wrapperspb.UInt32(codecHeadersKiB), RequestHeadersTimeout: durationpb.New(headersTimeout),
		RequestTimeout:    durationpb.New(requestTimeout),
		StreamIdleTimeout: durationpb.New(l.IdleTimeout),

		ServerHeaderTransformation: hcmv3.HttpConnectionManager_PASS_THROUGH,
		LocalReplyConfig:           localReplies(l),
		AccessLog:                  []*accesslogv3.AccessLog{spoolLog(l.Spool, logged)},
		RequestIdExtension:         wholeID(l.Tracing),
		Tracing:                    tracing(l.Tracing, ofRoute),
	}
	if l.RenewEvery > 0 {
		m.AccessLogOptions = &hcmv3.HttpConnectionManager_HcmAccessLogOptions{AccessLogFlushInterval: durationpb.New(l.RenewEvery)}
	}
	return m
}

// nobody is an internal address range with no host in it. An empty one would not do:
// Envoy 1.40 then takes loopback and RFC 1918 addresses for internal, and keeps the
// request id such a client sends.
func nobody() *hcmv3.HttpConnectionManager_InternalAddressConfig {
	return &hcmv3.HttpConnectionManager_InternalAddressConfig{CidrRanges: []*corev3.CidrRange{{AddressPrefix: "255.255.255.255",
		PrefixLen: wrapperspb.UInt32(32)}}}
}

// strip removes what a client must not say about themselves, before anything reads it.
func strip() *earlyv3.HeaderMutation {
	m := &earlyv3.HeaderMutation{}
	for _, name := range attributes.IdentityHeaders() {
		m.Mutations = append(m.Mutations, &mutationv3.HeaderMutation{Action: &mutationv3.HeaderMutation_Remove{Remove: name}})
	}
	for _, prefix := range []string{"x-envoy-", "x-user-", "x-org-", ownPrefix, "x-quota-"} {
		m.Mutations = append(m.Mutations, removePrefix(prefix))
	}
	return m
}

// ownPrefix begins the headers in which this product alone says something.
const ownPrefix = "x-leaky-"

func removePrefix(prefix string) *mutationv3.HeaderMutation {
	of := &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: prefix}}
	return &mutationv3.HeaderMutation{Action: &mutationv3.HeaderMutation_RemoveOnMatch_{
		RemoveOnMatch: &mutationv3.HeaderMutation_RemoveOnMatch{KeyMatcher: of}}}
}
