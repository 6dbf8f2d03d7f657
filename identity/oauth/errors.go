package oauth

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/errorbody"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
)

// Error codes of RFC 6749 (4.1.2.1, 5.2), RFC 8628 (3.5), RFC 6750 (3.1) and OpenID
// Connect Core (3.1.2.6).
const (
	codeInvalidRequest      = "invalid_request"
	codeInvalidClient       = "invalid_client"
	codeInvalidGrant        = "invalid_grant"
	codeUnauthorizedClient  = "unauthorized_client"
	codeUnsupportedGrant    = "unsupported_grant_type"
	codeUnsupportedResponse = "unsupported_response_type"
	codeUnsupportedToken    = "unsupported_token_type"
	codeInvalidScope        = "invalid_scope"
	codeAccessDenied        = "access_denied"
	codeLoginRequired       = "login_required"
	codeRequestUnsupported  = "request_not_supported"
	codeURIUnsupported      = "request_uri_not_supported"
	codeUnavailable         = "temporarily_unavailable"
	codeServerError         = "server_error"
	codeAuthorizationWaits  = "authorization_pending"
	codeSlowDown            = "slow_down"
	codeExpiredToken        = "expired_token"
	codeInvalidToken        = "invalid_token"
	codeInsufficientScope   = "insufficient_scope"
	codeInvalidProof        = "invalid_dpop_proof" // RFC 9449, 5
)

// protocolError is a refusal as OAuth2 words it. The description is for developers
// and never holds what the caller sent.
type protocolError struct {
	status      int
	code        string
	description string
	retryAfter  time.Duration // 0: none
	challenge   string        // WWW-Authenticate; empty: none
}

func (e *protocolError) Error() string { return e.code + ": " + e.description }

func refuse(code, format string, args ...any) *protocolError {
	return &protocolError{status: http.StatusBadRequest, code: code, description: fmt.Sprintf(format, args...)}
}

// badClient is the one answer to every failed client authentication, whatever failed
// (RFC 6749 section 5.2).
func badClient() *protocolError {
	return &protocolError{status: http.StatusUnauthorized, code: codeInvalidClient, description: "client authentication failed",
		challenge: `Basic realm="leaky-tokens", charset="UTF-8"`}
}

// seconds rounds a wait up to whole seconds, at least one.
func seconds(wait time.Duration) int64 { return max(1, int64((wait+time.Second-1)/time.Second)) }

// asProtocol finds the refusal in err. What has none is our own failure: it is logged
// by the caller and shown without a detail.
func (p *Provider) asProtocol(r *http.Request, err error) *protocolError {
	if known, ok := errors.AsType[*protocolError](err); ok {
		return known
	}
	if p.cfg.Outage != nil && p.cfg.Outage(err) {
		if r.Context().Err() == nil { // else the caller went away
			p.said.Warn(r.Context(), "database does not answer oauth", err, slog.String("path", r.URL.Path),
				slog.String("correlation_id", r.Header.Get(httpapi.HeaderCorrelation)))
		}
		return &protocolError{status: http.StatusServiceUnavailable, code: codeUnavailable, description: "try again", retryAfter: time.Second}
	}
	p.warn(r, err)
	return &protocolError{status: http.StatusInternalServerError, code: codeServerError, description: "internal error"}
}

func (p *Provider) warn(r *http.Request, err error) {
	if r.Context().Err() != nil {
		return // the caller went away
	}
	p.log.LogAttrs(r.Context(), slog.LevelError, "oauth request failed", slog.String("path", r.URL.Path),
		slog.String("correlation_id", r.Header.Get(httpapi.HeaderCorrelation)), slog.Any("error", err))
}

// endpoint renders what h returns as RFC 6749 section 5.2 says. Nothing of these
// endpoints may be cached (section 5.1).
func (p *Provider) endpoint(h httpapi.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		noStore(w)
		err := p.whenReady(h)(w, r)
		if err == nil {
			return
		}
		shown := p.asProtocol(r, err)
		p.metrics.refused(r, shown)
		header := w.Header()
		if shown.challenge != "" {
			header.Set("WWW-Authenticate", shown.challenge)
		}
		if shown.retryAfter > 0 {
			header.Set("Retry-After", strconv.FormatInt(seconds(shown.retryAfter), 10))
		}
		writeJSON(w, shown.status, map[string]string{"error": shown.code, "error_description": shown.description})
	})
}

// Unmatched answers for what is not served here in the words of OAuth2, and to people by a page; false
// for a path of others.
func (p *Provider) Unmatched(w http.ResponseWriter, r *http.Request, e *httpapi.Error) bool {
	if !strings.HasPrefix(r.URL.Path, "/oauth2/") && !strings.HasPrefix(r.URL.Path, "/.well-known/") {
		return false
	}
	for name, values := range e.Header {
		w.Header()[name] = values
	}
	if r.URL.Path == authorizePath || r.URL.Path == devicePath || r.URL.Path == config.UpstreamCallback {
		return p.pages.write(w, e.Status, "message", pageData{Title: "This does not work", Message: "There is no such page.",
			Problem: e.Message}, here) == nil
	}
	noStore(w)
	body, contentType := errorbody.Body(attributes.FamilyOAuth, errorbody.Refusal{Status: e.Status, Message: e.Message, Path: r.URL.Path})
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(e.Status)
	_, _ = w.Write(body)
	return true
}

// whenReady refuses until the database is prepared.
func (p *Provider) whenReady(h httpapi.HandlerFunc) httpapi.HandlerFunc {
	if p.cfg.Ready == nil || p.cfg.Ready() {
		return h
	}
	return func(http.ResponseWriter, *http.Request) error {
		return &protocolError{status: http.StatusServiceUnavailable, code: codeUnavailable, description: "identity is starting, try again",
			retryAfter: time.Second}
	}
}

func noStore(w http.ResponseWriter) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Pragma", "no-cache") // RFC 6749 section 5.1 asks for both
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(body)
}
