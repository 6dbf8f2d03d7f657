package extauthz

import (
	"errors"
	"net/http"
	"strconv"
	"strings"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/errorbody"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
	"github.com/leaky-tokens/leaky-tokens/internal/dpop"
)

// credentialHeaders go upstream only where an endpoint reads Authorization itself.
func credentialHeaders(f form) []string {
	names := []string{headerAPIKey, headerGoogleKey, headerAzureKey}
	if f&keepHeader == 0 {
		names = append(names, headerAuthorization)
	}
	return names
}

// anonymousAnswer lets a request without credentials through, with no identity that
// it may have brought along.
func anonymousAnswer(f form) *auth.CheckResponse {
	return okAnswer(&auth.OkHttpResponse{HeadersToRemove: append(credentialHeaders(f), attributes.HeaderIdentity, attributes.HeaderUserID,
		attributes.HeaderUserRoles)}, nil, f)
}

// namedAnswer lets a caller through. The facts go to Envoy's metadata; headers that
// name them only to our own services (minted is not empty), since a provider must not
// learn who our users are.
func namedAnswer(p principal.Principal, minted string, f form) *auth.CheckResponse {
	roles := strings.Join(p.Roles, ",")
	fields := map[string]*structpb.Value{
		attributes.User: structpb.NewStringValue(p.UserID), attributes.Tier: structpb.NewStringValue(p.Tier),
		attributes.Roles: structpb.NewStringValue(roles),
	}
	if p.OrgID != "" {
		fields[attributes.Org] = structpb.NewStringValue(p.OrgID)
	}
	if p.Team != "" {
		fields[attributes.Team] = structpb.NewStringValue(p.Team)
	}
	if p.KeyID != "" {
		fields[attributes.Key] = structpb.NewStringValue(p.KeyID)
	}
	ok := &auth.OkHttpResponse{HeadersToRemove: append(credentialHeaders(f), "cookie")}
	if minted == "" {
		ok.HeadersToRemove = append(ok.HeadersToRemove, attributes.HeaderIdentity, attributes.HeaderUserID, attributes.HeaderUserRoles)
	} else {
		ok.Headers = []*core.HeaderValueOption{overwrite(attributes.HeaderIdentity, minted), overwrite(attributes.HeaderUserID, p.UserID)}
		if roles != "" {
			ok.Headers = append(ok.Headers, overwrite(attributes.HeaderUserRoles, roles))
		} else {
			ok.HeadersToRemove = append(ok.HeadersToRemove, attributes.HeaderUserRoles)
		}
	}
	return okAnswer(ok, &structpb.Struct{Fields: fields}, f)
}

func okAnswer(ok *auth.OkHttpResponse, facts *structpb.Struct, f form) *auth.CheckResponse {
	if f&dropQueryKey != 0 {
		ok.QueryParametersToRemove = []string{queryKey}
	}
	return &auth.CheckResponse{Status: &status.Status{Code: int32(codes.OK)}, HttpResponse: &auth.CheckResponse_OkResponse{OkResponse: ok},
		DynamicMetadata: facts}
}

func overwrite(name, value string) *core.HeaderValueOption {
	return &core.HeaderValueOption{Header: &core.HeaderValue{Key: name, Value: value},
		AppendAction: core.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD}
}

// denial is why a request goes no further.
type denial struct {
	status  int
	grpc    codes.Code
	kind    string // OpenAI error.type
	code    string // OpenAI error.code
	message string
	retry   int // seconds, 0: do not
}

// codeScope says that a token was not granted what the route asks for.
const codeScope = "insufficient_scope"

// The refusals that are decided here, as the SDKs of the route's family read them.
var (
	denyMissing = denial{status: http.StatusUnauthorized, grpc: codes.Unauthenticated, kind: errorbody.TypeInvalidRequest,
		code:    errorbody.CodeInvalidKey,
		message: "no credential: send an API key or an access token as Authorization: Bearer"}
	denyInvalid = denial{status: http.StatusUnauthorized, grpc: codes.Unauthenticated, kind: errorbody.TypeInvalidRequest,
		code:    errorbody.CodeInvalidKey,
		message: "the API key or access token is not valid"}
	denyProof = denial{status: http.StatusUnauthorized, grpc: codes.Unauthenticated, kind: errorbody.TypeInvalidRequest,
		code:    "invalid_dpop_proof",
		message: "the access token is bound to a key: send it by the scheme DPoP with a fresh proof in the header DPoP (RFC 9449)"}
	denyExpired = denial{status: http.StatusUnauthorized, grpc: codes.Unauthenticated, kind: errorbody.TypeInvalidRequest,
		code:    errorbody.CodeInvalidKey,
		message: "the API key or access token has expired: make a new key, or log in again"}
	denyAmbiguous = denial{status: http.StatusBadRequest, grpc: codes.InvalidArgument, kind: errorbody.TypeInvalidRequest,
		code:    "ambiguous_credentials",
		message: "the request carries several credentials that do not agree: send one"}
	denyRole = denial{status: http.StatusForbidden, grpc: codes.PermissionDenied, kind: errorbody.TypeInvalidRequest,
		code:    "insufficient_role",
		message: "your roles do not allow this"}
	denyScope = denial{status: http.StatusForbidden, grpc: codes.PermissionDenied, kind: errorbody.TypeInvalidRequest, code: codeScope,
		message: "the access token was not granted the scope that this needs"}
	denyThirdParty = denial{status: http.StatusForbidden, grpc: codes.PermissionDenied, kind: errorbody.TypeInvalidRequest, code: codeScope,
		message: "no OAuth2 client may do this: log in or send an API key"}
	denyKey = denial{status: http.StatusForbidden, grpc: codes.PermissionDenied, kind: errorbody.TypeInvalidRequest,
		code:    "login_required",
		message: "an API key cannot do this: log in and send the access token"}
	denyNoOrg = denial{status: http.StatusForbidden, grpc: codes.PermissionDenied, kind: errorbody.TypeInvalidRequest,
		code:    "organization_required",
		message: "models are called for an organisation here: use an API key or a login of yours that is bound to one"}
	denyUnavailable = denial{status: http.StatusServiceUnavailable, grpc: codes.Unavailable, kind: errorbody.TypeServer,
		code:    errorbody.CodeUnavailable,
		message: "the credential cannot be checked at the moment, try again", retry: 1}
)

// deny finds the refusal for what went wrong. What is not known to be the caller's
// fault is ours, and is never let through.
func deny(err error) *denial {
	switch {
	case errors.Is(err, errExpired):
		return &denyExpired
	case errors.Is(err, errInvalid), errors.Is(err, errMalformed):
		return &denyInvalid
	case errors.Is(err, errSeveral), errors.Is(err, errTwoUsers):
		return &denyAmbiguous
	}
	return &denyUnavailable
}

// refuse writes a denial in the shape of the route's family.
func (s *Service) refuse(c *call, d *denial) (*reply, error) {
	if d.grpc == codes.Unavailable {
		s.metrics.unavailable.Inc()
	} else {
		s.metrics.refused.Inc()
	}
	path, _, _ := strings.Cut(c.path, "?") // the query may hold a key
	body, content := errorbody.Body(c.family, errorbody.Refusal{Status: d.status, Message: d.message,
		Type: d.kind, Code: d.code, RequestID: c.requestID, Path: path, RetryAfterSeconds: d.retry})
	headers := []*core.HeaderValueOption{overwrite("content-type", content)}
	if challenge := s.challenge(c, d); challenge != "" {
		headers = append(headers, overwrite("www-authenticate", challenge))
	}
	if c.family == attributes.FamilyAnthropic { // its SDKs read it there
		headers = append(headers, overwrite("request-id", c.requestID))
	}
	if d.retry > 0 {
		headers = append(headers, overwrite("retry-after", strconv.Itoa(d.retry)))
	}
	return newReply(&auth.CheckResponse{Status: &status.Status{Code: int32(d.grpc), Message: d.code},
		HttpResponse: &auth.CheckResponse_DeniedResponse{
			DeniedResponse: &auth.DeniedHttpResponse{Status: &typev3.HttpStatus{Code: typev3.StatusCode(d.status)}, Headers: headers,
				Body: string(body)}}})
}

// challenge is WWW-Authenticate (RFC 6750 section 3): what is wrong with the token, what scope would do, and
// where a client learns how to get one (RFC 9728 section 5.1). It is the bare scheme where no token of
// an application would do.
func (s *Service) challenge(c *call, d *denial) string {
	wanted := ""
	if c.scope != "" {
		wanted = scopeFor(c.scope, c.method)
	}
	var parts []string
	add := func(name, value string) {
		if value != "" && value != attributes.ScopeNone {
			parts = append(parts, name+`="`+value+`"`)
		}
	}
	switch {
	case d == &denyProof:
		return `DPoP error="invalid_dpop_proof", algs="` + strings.Join(dpop.Methods(), " ") + `"`
	case d == &denyInvalid, d == &denyExpired:
		add("error", "invalid_token")
	case d.status == http.StatusUnauthorized:
	case d.code == codeScope:
		add("error", codeScope)
	default:
		return ""
	}
	if attributes.ForOthers(wanted) {
		first, _, _ := strings.Cut(wanted, "|")
		add("scope", first)
		add("resource_metadata", s.metadata)
	}
	return strings.TrimSpace("Bearer " + strings.Join(parts, ", "))
}
