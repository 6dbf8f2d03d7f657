package extauthz

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/jwks"
	"github.com/leaky-tokens/leaky-tokens/internal/principal"
)

var (
	// errInvalid: a credential is not (or no longer) good.
	errInvalid = errors.New("invalid credential")
	// errUnreachable: identity, which would know, does not answer.
	errUnreachable = errors.New("identity does not answer")
)

const (
	// maxToken is the longest JWT that is looked at, in bytes.
	maxToken = 8 << 10
	// skew is how far clocks may be apart.
	skew = 30 * time.Second
	// tokenTTL is how long a verified token is not verified again.
	tokenTTL = 30 * time.Second
)

// tokens checks access tokens of identity: RFC 9068, by the rules of RFC 8725.
type tokens struct {
	tiers  config.Tiers
	keys   *jwks.Keys
	parser *jwt.Parser
	cache  *cache
}

func newTokens(cfg config.Auth, tiers config.Tiers, keys *jwks.Keys) *tokens {
	return &tokens{tiers: tiers, keys: keys, cache: newCache(), parser: jwt.NewParser(jwt.WithValidMethods([]string{"RS256"}),
		jwt.WithIssuer(cfg.Issuer), jwt.WithAudience(cfg.Audience), jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithLeeway(skew), jwt.WithStrictDecoding())}
}

type accessClaims struct {
	jwt.RegisteredClaims
	Roles []string `json:"roles"`
}

// check gives the caller of a token; errInvalid or errUnreachable otherwise.
func (t *tokens) check(ctx context.Context, token string, now time.Time) (*caller, error) {
	if len(token) > maxToken {
		return nil, fmt.Errorf("%w: longer than %d bytes", errInvalid, maxToken)
	}
	print := fingerprintOf(token)
	if found := t.cache.get(print, now); found != nil {
		return found, nil
	}
	generation := t.cache.generation.Load()
	found, err := t.verify(ctx, token, now)
	if err != nil {
		return nil, err
	}
	t.cache.add(print, found, generation)
	return found, nil
}

func (t *tokens) verify(ctx context.Context, token string, now time.Time) (*caller, error) {
	if err := checkHeader(token); err != nil {
		return nil, err
	}
	var claims accessClaims
	if _, err := t.parser.ParseWithClaims(token, &claims, t.keys.KeyfuncContext(ctx)); err != nil {
		if errors.Is(err, jwks.ErrUnavailable) {
			return nil, fmt.Errorf("%w: %w", errUnreachable, err)
		}
		return nil, fmt.Errorf("%w: %w", errInvalid, err)
	}
	id, err := uuid.Parse(claims.Subject)
	if err != nil || id.String() != claims.Subject {
		return nil, fmt.Errorf("%w: sub is not a user id", errInvalid)
	}
	slices.Sort(claims.Roles)
	until := now.Add(tokenTTL)
	if end := claims.ExpiresAt.Add(skew); end.Before(until) {
		until = end
	}
	return &caller{until: until, who: principal.Principal{UserID: claims.Subject, Roles: claims.Roles, Tier: principal.TierOf(claims.Roles, t.tiers)}}, nil
}

// tokenHeader are the members of a JOSE header that matter.
type tokenHeader struct{ alg, kid, typ string }

// checkHeader looks at a token's header before any of its text is trusted: only
// RS256 access tokens that name their key, and none that bring a key along.
func checkHeader(token string) error {
	head, rest, ok := strings.Cut(token, ".")
	if !ok || strings.Count(rest, ".") != 1 {
		return fmt.Errorf("%w: not a signed JWT", errInvalid)
	}
	text, err := base64.RawURLEncoding.Strict().DecodeString(head)
	if err != nil {
		return fmt.Errorf("%w: header is not base64url", errInvalid)
	}
	h, err := parseHeader(text)
	switch {
	case err != nil:
		return err
	case h.alg != "RS256":
		return fmt.Errorf("%w: alg is not RS256", errInvalid)
	case h.kid == "":
		return fmt.Errorf("%w: no kid", errInvalid)
	case !strings.EqualFold(strings.TrimPrefix(strings.ToLower(h.typ), "application/"), "at+jwt"):
		return fmt.Errorf("%w: typ is not at+jwt", errInvalid)
	}
	return nil
}

// parseHeader reads the members one by one, since encoding/json would take the last
// of two that are the same and match names in any case. Members that name or bring a
// key, change the encoding or must be understood are refused.
func parseHeader(text []byte) (h tokenHeader, err error) {
	malformed := fmt.Errorf("%w: header is not a JSON object of plain members", errInvalid)
	dec := json.NewDecoder(bytes.NewReader(text))
	if open, err := dec.Token(); err != nil || open != json.Delim('{') {
		return h, malformed
	}
	for seen := make([]string, 0, 4); dec.More(); {
		name, err := dec.Token()
		if err != nil {
			return h, malformed
		}
		member, ok := name.(string)
		if !ok || slices.Contains(seen, member) || len(seen) > 8 {
			return h, malformed
		}
		seen = append(seen, member)
		value, err := dec.Token()
		if err != nil {
			return h, malformed
		}
		plain, isText := value.(string)
		switch member {
		case "alg":
			h.alg = plain
		case "kid":
			h.kid = plain
		case "typ":
			h.typ = plain
		default:
			return h, fmt.Errorf("%w: header member is not allowed", errInvalid)
		}
		if !isText {
			return h, malformed
		}
	}
	if end, err := dec.Token(); err != nil || end != json.Delim('}') || dec.More() {
		return h, malformed
	}
	return h, nil
}
