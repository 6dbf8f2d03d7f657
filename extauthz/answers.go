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

	"github.com/leaky-tokens/leaky-tokens/internal/facts"
	"github.com/leaky-tokens/leaky-tokens/internal/principal"
	"github.com/leaky-tokens/leaky-tokens/internal/refusal"
)

// credentialHeaders never go upstream.
func credentialHeaders() []string {
	return []string{headerAuthorization, headerAPIKey, headerGoogleKey}
}

// anonymousAnswer lets a request without credentials through, with no identity that
// it may have brought along.
func anonymousAnswer(inQuery bool) *auth.CheckResponse {
	return okAnswer(&auth.OkHttpResponse{HeadersToRemove: append(credentialHeaders(), facts.HeaderIdentity, facts.HeaderUserID, facts.HeaderUserRoles)}, nil, inQuery)
}

// namedAnswer lets a caller through. The facts go to Envoy's metadata; headers that
// name her only to our own services (minted is not empty), since a provider must not
// learn who our users are.
func namedAnswer(p principal.Principal, minted string, inQuery bool) *auth.CheckResponse {
	roles := strings.Join(p.Roles, ",")
	fields := map[string]*structpb.Value{
		facts.User: structpb.NewStringValue(p.UserID), facts.Tier: structpb.NewStringValue(p.Tier), facts.Roles: structpb.NewStringValue(roles),
	}
	if p.OrgID != "" {
		fields[facts.Org] = structpb.NewStringValue(p.OrgID)
	}
	if p.KeyID != "" {
		fields[facts.Key] = structpb.NewStringValue(p.KeyID)
	}
	ok := &auth.OkHttpResponse{HeadersToRemove: append(credentialHeaders(), "cookie")}
	if minted == "" {
		ok.HeadersToRemove = append(ok.HeadersToRemove, facts.HeaderIdentity, facts.HeaderUserID, facts.HeaderUserRoles)
	} else {
		ok.Headers = []*core.HeaderValueOption{overwrite(facts.HeaderIdentity, minted), overwrite(facts.HeaderUserID, p.UserID)}
		if roles != "" {
			ok.Headers = append(ok.Headers, overwrite(facts.HeaderUserRoles, roles))
		} else {
			ok.HeadersToRemove = append(ok.HeadersToRemove, facts.HeaderUserRoles)
		}
	}
	return okAnswer(ok, &structpb.Struct{Fields: fields}, inQuery)
}

func okAnswer(ok *auth.OkHttpResponse, facts *structpb.Struct, inQuery bool) *auth.CheckResponse {
	if inQuery {
		ok.QueryParametersToRemove = []string{queryKey}
	}
	return &auth.CheckResponse{Status: &status.Status{Code: int32(codes.OK)}, HttpResponse: &auth.CheckResponse_OkResponse{OkResponse: ok}, DynamicMetadata: facts}
}

func overwrite(name, value string) *core.HeaderValueOption {
	return &core.HeaderValueOption{Header: &core.HeaderValue{Key: name, Value: value}, AppendAction: core.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD}
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

// The refusals of wire.md that are decided here.
var (
	denyMissing     = denial{http.StatusUnauthorized, codes.Unauthenticated, refusal.TypeInvalidRequest, refusal.CodeInvalidKey, "no credential: send an API key or an access token as Authorization: Bearer", 0}
	denyInvalid     = denial{http.StatusUnauthorized, codes.Unauthenticated, refusal.TypeInvalidRequest, refusal.CodeInvalidKey, "the API key or access token is not valid", 0}
	denyAmbiguous   = denial{http.StatusBadRequest, codes.InvalidArgument, refusal.TypeInvalidRequest, "ambiguous_credentials", "the request carries several credentials that do not agree: send one", 0}
	denyRole        = denial{http.StatusForbidden, codes.PermissionDenied, refusal.TypeInvalidRequest, "insufficient_role", "your roles do not allow this", 0}
	denyUnavailable = denial{http.StatusServiceUnavailable, codes.Unavailable, refusal.TypeServer, refusal.CodeUnavailable, "the credential cannot be checked at the moment, try again", 1}
)

// deny finds the refusal for what went wrong. What is not known to be the caller's
// fault is ours, and is never let through.
func deny(err error) *denial {
	switch {
	case errors.Is(err, errInvalid), errors.Is(err, errMalformed):
		return &denyInvalid
	case errors.Is(err, errSeveral), errors.Is(err, errTwoUsers):
		return &denyAmbiguous
	}
	return &denyUnavailable
}

// refuse writes a denial in the shape of the route's family.
func (s *Service) refuse(c call, d denial) (*reply, error) {
	if d.grpc == codes.Unavailable {
		s.metrics.unavailable.Inc()
	} else {
		s.metrics.refused.Inc()
	}
	path, _, _ := strings.Cut(c.path, "?") // the query may hold a key
	body, content := refusal.Body(c.family, refusal.Refusal{Status: d.status, Message: d.message,
		Type: d.kind, Code: d.code, RequestID: c.requestID, Path: path, RetryAfterSeconds: d.retry})
	headers := []*core.HeaderValueOption{overwrite("content-type", content)}
	if d.status == http.StatusUnauthorized {
		headers = append(headers, overwrite("www-authenticate", "Bearer"))
	}
	if d.retry > 0 {
		headers = append(headers, overwrite("retry-after", strconv.Itoa(d.retry)))
	}
	return newReply(&auth.CheckResponse{Status: &status.Status{Code: int32(d.grpc), Message: d.code}, HttpResponse: &auth.CheckResponse_DeniedResponse{
		DeniedResponse: &auth.DeniedHttpResponse{Status: &typev3.HttpStatus{Code: typev3.StatusCode(d.status)}, Headers: headers, Body: string(body)}}})
}
