package oauth

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/dpop"
)

// metadata is RFC 8414 and OpenID Connect Discovery in one document, as the two agree
// on every name they share.
func (p *Provider) metadata(w http.ResponseWriter, _ *http.Request) error {
	at := func(path string) string { return p.cfg.Issuer + path }
	secret := []string{"client_secret_basic", "client_secret_post", "private_key_jwt"}
	cached(w, 5*time.Minute)
	all := map[string]any{
		"issuer":                                        p.cfg.Issuer,
		"authorization_endpoint":                        at("/oauth2/authorize"),
		"token_endpoint":                                at("/oauth2/token"),
		"device_authorization_endpoint":                 at("/oauth2/device_authorization"),
		"introspection_endpoint":                        at("/oauth2/introspect"),
		"revocation_endpoint":                           at("/oauth2/revoke"),
		"userinfo_endpoint":                             at("/oauth2/userinfo"),
		"end_session_endpoint":                          at(logoutPath),
		"backchannel_logout_supported":                  p.cfg.TellClients,
		"backchannel_logout_session_supported":          p.cfg.TellClients,
		"dpop_signing_alg_values_supported":             dpop.Methods(),
		"pushed_authorization_request_endpoint":         at(pushPath),
		"require_pushed_authorization_requests":         false,
		"jwks_uri":                                      at("/oauth2/jwks"),
		"scopes_supported":                              offeredScopes(),
		"response_types_supported":                      []string{"code"},
		"response_modes_supported":                      []string{"query"},
		"grant_types_supported":                         grantTypes(),
		"code_challenge_methods_supported":              []string{"S256"},
		"token_endpoint_auth_methods_supported":         append([]string{"none"}, secret...),
		"introspection_endpoint_auth_methods_supported": secret,
		"revocation_endpoint_auth_methods_supported":    append([]string{"none"}, secret...),
		"subject_types_supported":                       []string{"public"},
		"id_token_signing_alg_values_supported":         []string{"RS256"},
		"claims_supported": []string{"iss", "sub", "aud", "exp", "iat", "auth_time", "nonce", "at_hash", "sid", "name",
			"preferred_username", "email", "email_verified"},
		"token_endpoint_auth_signing_alg_values_supported":         assertionMethods(),
		"introspection_endpoint_auth_signing_alg_values_supported": assertionMethods(),
		"revocation_endpoint_auth_signing_alg_values_supported":    assertionMethods(),
		"claim_types_supported":                                    []string{"normal"},
		"authorization_response_iss_parameter_supported":           true,
		"request_parameter_supported":                              false,
		"request_uri_parameter_supported":                          false,
		"claims_parameter_supported":                               false,
	}
	switch p.cfg.Registration {
	case config.ClientsOpen:
		all["registration_endpoint"], all["client_id_metadata_document_supported"] = at(registerPath), true
	case config.ClientsDocuments:
		all["client_id_metadata_document_supported"] = true
	}
	writeJSON(w, http.StatusOK, all)
	return nil
}

// protectedResource tells a client that met a 401 where to get a token (RFC 9728): the gateway, and each
// path of it, is one resource with one authorization server.
func (p *Provider) protectedResource(w http.ResponseWriter, r *http.Request) error {
	cached(w, 5*time.Minute)
	writeJSON(w, http.StatusOK, map[string]any{
		"resource":                 p.cfg.Issuer + strings.TrimPrefix(r.URL.EscapedPath(), config.ResourceMetadata),
		"resource_name":            "Leaky Tokens",
		"resource_documentation":   p.cfg.Issuer + "/docs",
		"authorization_servers":    []string{p.cfg.Issuer},
		"bearer_methods_supported": []string{"header"},
		"scopes_supported":         apiScopes(),
	})
	return nil
}

// keySet is GET /oauth2/jwks: the keys that access tokens and ID tokens are checked with (RFC 7517).
func (p *Provider) keySet(w http.ResponseWriter, _ *http.Request) error {
	text, err := p.cfg.Keys.JWKS()
	if err != nil {
		return err
	}
	cached(w, time.Minute)
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(text)
	return nil
}

// cached lets everybody keep an answer for a while.
func cached(w http.ResponseWriter, d time.Duration) {
	w.Header().Set("Cache-Control", "public, max-age="+strconv.FormatInt(int64(d/time.Second), 10))
	w.Header().Del("Pragma")
}
