package protos

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	celv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/filters/cel/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/errorbody"
	"github.com/leaky-tokens/leaky-tokens/xds/model"
)

// own is the text of a reply that this product wrote into a route or a script.
const own = "%LOCAL_REPLY_BODY%"

// refusal is one row of the table of errors that Envoy makes itself.
type refusal struct {
	when    string // CEL over response and upstream
	status  uint32 // sent to the client; 0: as Envoy has it
	title   string // RFC 9457
	google  string // google.rpc.Code
	kind    string // OpenAI's error.type
	code    string // OpenAI's error.code; empty: null
	message string
	final   bool // x-should-retry: false
	later   bool // retry-after
	early   bool // before the request has an id
	blames  bool // the guard names the member to blame
	away    bool // a service does not answer: problem routes get the fallback body
	model   bool // no such model: the message names what was asked for, and where the list is
}

// oauth is the error of OAuth2 that a refusal is.
func (r refusal) oauth() string {
	if r.later || r.away {
		return errorbody.OAuthCode(http.StatusServiceUnavailable)
	}
	return errorbody.OAuthCode(http.StatusBadRequest)
}

// anthropic is Anthropic's error type of a refusal.
func (r refusal) anthropic() string {
	switch r.google {
	case "NOT_FOUND":
		return errorbody.AnthropicType(http.StatusNotFound)
	case "RESOURCE_EXHAUSTED":
		return errorbody.AnthropicType(http.StatusTooManyRequests)
	case "UNAVAILABLE":
		return errorbody.AnthropicType(http.StatusServiceUnavailable)
	}
	if r.title == tooLarge {
		return errorbody.AnthropicType(http.StatusRequestEntityTooLarge)
	}
	return errorbody.AnthropicType(http.StatusBadRequest)
}

// routeCode is the code that a route states for its own reply; null without one.
const routeCode = "%METADATA(ROUTE:" + Namespace + ":code)%"

const (
	invalid     = "invalid_request_error"
	tooLarge    = "Content Too Large"
	unavailable = "the service behind the gateway is not available"
)

// refusals are looked at in order; the first that holds decides. A message never
// repeats Envoy's own text, which names upstream addresses.
func refusals(l model.Listener) []refusal {
	ours := func(status int) string {
		return fmt.Sprintf(`response.code == %d && response.code_details in ['lua_response', 'direct_response']`, status)
	}
	code := func(status int) string { return fmt.Sprintf(`response.code == %d`, status) }
	return []refusal{
		{when: `response.code_details in ['ext_authz_error', 'rate_limiter_error']`, status: 503, title: "Service Unavailable",
			google: "UNAVAILABLE", kind: "server_error",
			code: "gateway_unavailable", message: "the gateway cannot decide about this call now, try again", later: true},
		{when: ours(503), title: "Service Unavailable", google: "UNAVAILABLE", kind: "server_error", message: unavailable, later: true,
			away: true},
		{when: ours(400), title: "Bad Request", google: "INVALID_ARGUMENT", kind: invalid, message: own, final: true, blames: true},
		{when: ours(404) + fmt.Sprintf(` && 'code' in xds.route_metadata.filter_metadata['%[1]s']`+
			` && xds.route_metadata.filter_metadata['%[1]s']['code'] == '%[2]s'`, Namespace, errorbody.CodeModelNotFound), title: "Not Found",
			google: "NOT_FOUND", kind: invalid, code: errorbody.CodeModelNotFound, final: true, model: true},
		{when: ours(404), title: "Not Found", google: "NOT_FOUND", kind: invalid, code: routeCode, message: own, final: true},
		{when: ours(405), title: "Method Not Allowed", google: "UNIMPLEMENTED", kind: invalid, message: own, final: true},
		{when: ours(415), title: "Unsupported Media Type", google: "INVALID_ARGUMENT", kind: invalid, message: own, final: true},
		{when: ours(429), title: "Too Many Requests", google: "RESOURCE_EXHAUSTED", kind: "rate_limit_error", code: "rate_limit_exceeded",
			message: own, later: true},
		// 426 makes clients that try a WebSocket first go on without one.
		{when: `response.code_details == 'upgrade_failed' && request.method != 'CONNECT'`, status: 426, title: "Upgrade Required", google: "UNIMPLEMENTED", kind: invalid,
			code: "websocket_not_supported", final: true,
			message: "WebSockets are not served: nothing counts their tokens; call POST /v1/responses with stream: true"},
		{when: code(413), title: tooLarge, google: "INVALID_ARGUMENT", kind: invalid, final: true,
			message: fmt.Sprintf("the body is larger than %d bytes", l.MaxBodyBytes)},
		{when: `response.code_details.startsWith('rbac_access_denied')`, status: 431, title: "Request Header Fields Too Large",
			google: "INVALID_ARGUMENT", kind: invalid, final: true,
			message: fmt.Sprintf("more than %d headers, or more than %d KiB of them", l.MaxHeaders, headersKiB)},
		{when: code(431), title: "Request Header Fields Too Large", google: "INVALID_ARGUMENT", kind: invalid, final: true, early: true,
			message: fmt.Sprintf("more than %d headers, or more than %d KiB of them", l.MaxHeaders, headersKiB)},
		{when: code(400), title: "Bad Request", google: "INVALID_ARGUMENT", kind: invalid, message: "the request is malformed", final: true,
			early: true},
		{when: code(404), title: "Not Found", google: "NOT_FOUND", kind: invalid, message: "no such path", final: true},
		{when: code(429), title: "Too Many Requests", google: "RESOURCE_EXHAUSTED", kind: "rate_limit_error", code: "rate_limit_exceeded",
			message: "too many requests", later: true},
		{when: code(501), title: "Not Implemented", google: "UNIMPLEMENTED", kind: invalid,
			message: "the request's encoding or upgrade is not supported", final: true, early: true},
		{when: `response.code == 408 && !has(upstream.address)`, title: "Request Timeout", google: "DEADLINE_EXCEEDED", kind: invalid,
			message: "the request did not arrive in time"},
		// It has done the work, or still does: a retry would have it done twice.
		{when: `has(upstream.address) && response.code_details in ['upstream_per_try_timeout', 'stream_idle_timeout', ` +
			`'max_duration_timeout', 'upstream_max_stream_duration_reached']`,
			status: 503, title: "Service Unavailable", google: "UNAVAILABLE", kind: "server_error", code: "provider_timeout",
			message: "the provider did not answer in time", final: true, away: true},
		{when: `response.code >= 500 || response.code == 408`, status: 503, title: "Service Unavailable", google: "UNAVAILABLE",
			kind:    "server_error",
			message: unavailable, later: true, away: true},
		{when: `true`, title: "Error", google: "UNKNOWN", kind: invalid, message: "the request was refused"},
	}
}

// families are the shapes of errors and the paths that have them when no route was
// found yet. The last takes the rest.
func families() []struct{ name, when string } {
	return []struct{ name, when string }{
		{attributes.FamilyAnthropic, family(attributes.FamilyAnthropic, "/v1/messages")},
		{attributes.FamilyOpenAI, family(attributes.FamilyOpenAI, "/v1/", "/compatible-mode/")},
		{attributes.FamilyGemini, family(attributes.FamilyGemini, "/v1beta/")},
		{attributes.FamilyPage, family(attributes.FamilyPage, "/oauth2/authorize")},
		{attributes.FamilyOAuth, family(attributes.FamilyOAuth, "/oauth2/")},
		{attributes.FamilyProblem, `true`},
	}
}

// family looks at the route first: the router has rewritten the path when a provider
// cannot be reached.
func family(name string, prefixes ...string) string {
	var terms []string
	for _, p := range prefixes {
		terms = append(terms, fmt.Sprintf(`request.path.startsWith('%s')`, p))
	}
	return fmt.Sprintf(`xds.route_metadata.filter_metadata['%s']['family'] == '%s' || (!has(xds.route_name) && (%s))`, Namespace, name,
		strings.Join(terms, " || "))
}

// localReplies shapes every answer that Envoy makes itself.
func localReplies(l model.Listener) *hcmv3.LocalReplyConfig {
	c := &hcmv3.LocalReplyConfig{
		Mappers: []*hcmv3.ResponseMapper{fine(), tooMany(attributes.FamilyProblem), tooMany(attributes.FamilyOAuth),
			tooMany(attributes.FamilyPage), tooMany(attributes.FamilyOpenAI), tooMany(attributes.FamilyAnthropic), tooMany(attributes.FamilyGemini),
			invalidCall(), {
				// What our own services wrote else passes as it is, with its own content type.
				Filter: cel(`response.code_details in ['ext_authz_denied', 'request_rate_limited']`),
				BodyFormatOverride: &corev3.SubstitutionFormatString{Format: &corev3.SubstitutionFormatString_TextFormatSource{
					TextFormatSource: inline(own)}}}},
	}
	for _, f := range families() {
		for _, r := range refusals(l) {
			c.Mappers = append(c.Mappers, mapper(f.name, f.when, r))
		}
	}
	return c
}

// fine is what a route itself answers well: its JSON as it is written.
func fine() *hcmv3.ResponseMapper {
	return &hcmv3.ResponseMapper{Filter: cel(`response.code == 200 && response.code_details == 'direct_response'`),
		BodyFormatOverride: &corev3.SubstitutionFormatString{
			ContentType: "application/json", Format: &corev3.SubstitutionFormatString_TextFormatSource{TextFormatSource: inline(own)}}}
}

// tooMany is the refusal of the control APIs' limits. The rate limit service does not know
// the path that was asked, so the body is made here; the wait is the service's.
func tooMany(family string) *hcmv3.ResponseMapper {
	no := refusal{later: true, title: "Too Many Requests", message: "rate limit exceeded", early: true, google: "RESOURCE_EXHAUSTED",
		kind: errorbody.TypeRateLimit, code: errorbody.CodeRateLimit}
	if family == attributes.FamilyPage {
		no.message = "Too many requests came from your network. Try again in %RESP(RETRY-AFTER)% s"
	}
	format := body(family, no)
	if fields := format.GetJsonFormat().GetFields(); fields != nil && fields["detail"] != nil { // a problem
		fields["retryAfterSeconds"] = structpb.NewStringValue("%TYPED_CEL(int(response.headers['retry-after']))%")
		fields["requestId"] = structpb.NewStringValue("%REQ(X-REQUEST-ID)%")
	}
	return &hcmv3.ResponseMapper{BodyFormatOverride: format, Filter: cel(fmt.Sprintf(
		`response.code_details == 'request_rate_limited' && xds.route_metadata.filter_metadata['%s']['family'] == '%s' && 'retry-after' in response.headers && !('x-should-retry' in response.headers)`, Namespace, family))}
}

// invalidCall is a call that ratelimit refuses for what it says. The filter has one status for
// all refusals, so the service says by a header that it is not to come again.
func invalidCall() *hcmv3.ResponseMapper {
	return &hcmv3.ResponseMapper{StatusCode: count(400),
		Filter: cel(fmt.Sprintf(`response.code_details == 'request_rate_limited' && '%s' in response.headers`, attributes.HeaderRefusal)),
		BodyFormatOverride: &corev3.SubstitutionFormatString{
			Format: &corev3.SubstitutionFormatString_TextFormatSource{TextFormatSource: inline(own)}}}
}

func mapper(family, when string, r refusal) *hcmv3.ResponseMapper {
	m := &hcmv3.ResponseMapper{Filter: cel("(" + when + ") && (" + r.when + ")"), HeadersToAdd: securityHeaders(),
		BodyFormatOverride: body(family, r)}
	if r.status != 0 {
		m.StatusCode = count(r.status)
	}
	if r.final && slices.Contains([]string{attributes.FamilyOpenAI, attributes.FamilyAnthropic, attributes.FamilyGemini}, family) {
		m.HeadersToAdd = append(m.HeadersToAdd, set("x-should-retry", "false"))
	}
	if r.later {
		m.HeadersToAdd = append(m.HeadersToAdd, set("retry-after", "1"))
	}
	if family == attributes.FamilyAnthropic {
		m.HeadersToAdd = append(m.HeadersToAdd, set(headerRequestID, "%REQ(X-REQUEST-ID)%"))
	}
	return m
}

func body(family string, r refusal) *corev3.SubstitutionFormatString {
	text := structpb.NewStringValue
	message := r.message
	if r.model {
		message = noSuchModel(family)
	}
	if !r.early {
		message += " (request %REQ(X-REQUEST-ID)%)"
	}
	status := text("%RESPONSE_CODE%")
	contentType, fields := "application/json", map[string]*structpb.Value{}
	switch family {
	case attributes.FamilyOpenAI:
		code := structpb.NewNullValue()
		if r.code != "" {
			code = text(r.code)
		}
		param := structpb.NewNullValue()
		if r.blames {
			param = text("%DYNAMIC_METADATA(" + attributes.NamespaceRefusal + ":" + attributes.RefusalParam + ")%")
		}
		fields["error"] = object(map[string]*structpb.Value{"message": text(message), "type": text(r.kind), "param": param, "code": code})
	case attributes.FamilyAnthropic:
		fields["type"], fields["request_id"] = text("error"), text("%REQ(X-REQUEST-ID)%")
		fields["error"] = object(map[string]*structpb.Value{"type": text(r.anthropic()), "message": text(message)})
	case attributes.FamilyGemini:
		fields["error"] = object(map[string]*structpb.Value{"code": status, "message": text(message), "status": text(r.google)})
	case attributes.FamilyPage:
		return page(r.title, message)
	case attributes.FamilyOAuth:
		fields = problem(r.title, message)
		fields["error"], fields["error_description"] = text(r.oauth()), text(message)
	default:
		if r.away {
			return fallback()
		}
		contentType, fields = errorbody.ContentProblem, problem(r.title, message)
	}
	// A problem has no null: a request whose head was not read has no path to tell. OpenAI's
	// errors do have nulls.
	return &corev3.SubstitutionFormatString{ContentType: contentType,
		OmitEmptyValues: family == attributes.FamilyProblem || family == attributes.FamilyOAuth,
		Format:          &corev3.SubstitutionFormatString_JsonFormat{JsonFormat: &structpb.Struct{Fields: fields}}}
}

// problem is an error as RFC 9457 has it, with the contract's members.
func problem(title, message string) map[string]*structpb.Value {
	text := structpb.NewStringValue
	path := text("%PATH(NQ:PATH)%")
	return map[string]*structpb.Value{"type": text("about:blank"), "title": text(title), "status": text("%RESPONSE_CODE%"),
		"detail": text(message), "message": text(message), "instance": path, "path": path, "timestamp": text(now)}
}

// page is an error for a person.
func page(title, message string) *corev3.SubstitutionFormatString {
	html := strings.NewReplacer("{title}", title, "{text}", message+".").Replace(errorbody.PageText)
	return &corev3.SubstitutionFormatString{ContentType: errorbody.ContentPage,
		Format: &corev3.SubstitutionFormatString_TextFormatSource{TextFormatSource: inline(html)}}
}

// noSuchModel names what was asked for, at most a hundred bytes of it: the body's model, or
// the path that holds it.
func noSuchModel(family string) string {
	const list = "GET /v1/models lists the models"
	if family == attributes.FamilyGemini {
		return "no such model or operation: %PATH(NQ:PATH):100%; " + list
	}
	return fmt.Sprintf("the model %%DYNAMIC_METADATA(%s:%s):100%% does not exist, or this path does not serve it; %s",
		attributes.NamespaceRequest, attributes.Model, list)
}

// fallback is the body for a service that does not answer, whatever the cause.
func fallback() *corev3.SubstitutionFormatString {
	text := structpb.NewStringValue
	return &corev3.SubstitutionFormatString{ContentType: "application/json",
		Format: &corev3.SubstitutionFormatString_JsonFormat{JsonFormat: &structpb.Struct{Fields: map[string]*structpb.Value{
			"service": text("%ROUTE_NAME%"), "status": text("unavailable"), "message": text("Circuit breaker open"), "timestamp": text(now),
			"path": text("%PATH(NQ:PATH)%"), "requestId": text("%REQ(X-REQUEST-ID)%")}}}}
}

// now is when the request came, as RFC 3339.
const now = "%START_TIME(%Y-%m-%dT%H:%M:%S.%3fZ)%"

func object(fields map[string]*structpb.Value) *structpb.Value {
	return structpb.NewStructValue(&structpb.Struct{Fields: fields})
}

func cel(expression string) *accesslogv3.AccessLogFilter {
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_ExtensionFilter{
		ExtensionFilter: &accesslogv3.ExtensionFilter{
			Name: "envoy.access_loggers.extension_filters.cel", ConfigType: &accesslogv3.ExtensionFilter_TypedConfig{TypedConfig: anyOf(&celv3.ExpressionFilter{Expression: expression})}}}}
}
