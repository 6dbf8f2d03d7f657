package identity

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/leaky-tokens/leaky-tokens/identity/clientinfo"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
	"github.com/leaky-tokens/leaky-tokens/internal/jwks"
)

// callerFunc is a handler that knows who calls.
type callerFunc func(w http.ResponseWriter, r *http.Request, p principal.Principal) error

// whenReady refuses until the database is prepared, and turns what the database
// could not do into a 503, so that callers retry.
func (s *Service) whenReady(h httpapi.HandlerFunc) httpapi.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		if !s.prepared.Load() {
			return httpapi.Unavailable("identity is starting, try again")
		}
		err := h(w, r.WithContext(clientinfo.With(r.Context(), clientinfo.Of(r))))
		if _, shown := errors.AsType[*httpapi.Error](err); err == nil || shown || r.Context().Err() != nil {
			return err
		}
		if errors.Is(err, errBusy) {
			return httpapi.Unavailable("too many logins at once, try again")
		}
		if !outage(err) {
			return err
		}
		s.said.Warn(r.Context(), "database does not answer", err, slog.String("path", r.URL.Path),
			slog.String("correlation_id", r.Header.Get(httpapi.HeaderCorrelation)))
		return httpapi.Unavailable("identity cannot reach its database, try again")
	}
}

// outage tells a database that is away, full, going down or tied up in a deadlock from a
// mistake of ours. Classes are those of Postgres' appendix A.
func outage(err error) bool {
	if refused, ok := errors.AsType[*pgconn.PgError](err); ok {
		class := refused.Code[:min(2, len(refused.Code))]
		return class == "08" || class == "40" || class == "53" || class == "57" || class == "58" || class == "25"
	}
	_, dial := errors.AsType[*pgconn.ConnectError](err)
	_, network := errors.AsType[net.Error](err)
	return dial || network || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) ||
		pgconn.SafeToRetry(err)
}

// known lets only callers with a valid signed identity through. A raw X-User-Id or
// an Authorization header means nothing here: extauthz checks credentials.
func (s *Service) known(h callerFunc) httpapi.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		p, err := s.verifier.Authenticate(r)
		switch {
		case errors.Is(err, jwks.ErrUnavailable):
			return httpapi.Unavailable("the caller cannot be checked at the moment, try again")
		case err != nil:
			return httpapi.Fail(http.StatusUnauthorized, "authentication is required")
		}
		if _, err := parseID(p.UserID); err != nil {
			return httpapi.Fail(http.StatusUnauthorized, "authentication is required")
		}
		return h(w, r.WithContext(principal.With(r.Context(), p)), p)
	}
}

// loggedIn lets through who logged in: no API key, and no application that was let act for somebody,
// but for one with the scope, which is the console (empty: none). What it guards makes or shows
// credentials, organisations or roles. Envoy's routes say so too; this is the second lock.
func (s *Service) loggedIn(scope string, h callerFunc) httpapi.HandlerFunc {
	return s.known(func(w http.ResponseWriter, r *http.Request, p principal.Principal) error {
		granted := scope != "" && slices.Contains(strings.Fields(p.Scope), scope)
		if !granted && (p.Client != "" || p.Scope != "") {
			return httpapi.Fail(http.StatusForbidden, "an application cannot do this: log in and send the access token")
		}
		return noKey(h)(w, r, p)
	})
}

// noKey refuses API keys, as a stolen one must make nothing that outlives it.
func noKey(h callerFunc) callerFunc {
	return func(w http.ResponseWriter, r *http.Request, p principal.Principal) error {
		if p.KeyID != "" {
			return httpapi.Fail(http.StatusForbidden, "an API key cannot do this: log in and send the access token")
		}
		return h(w, r, p)
	}
}

// admin asks for the role ADMIN, and for more than an API key.
func (s *Service) admin(h callerFunc) callerFunc {
	return noKey(s.withRoleAdmin(h))
}

func (s *Service) withRoleAdmin(h callerFunc) callerFunc {
	return func(w http.ResponseWriter, r *http.Request, p principal.Principal) error {
		if !p.Is(principal.RoleAdmin) {
			return httpapi.Fail(http.StatusForbidden, "the role ADMIN is required")
		}
		return h(w, r, p)
	}
}

// inside refuses what came through a proxy: the endpoint is for extauthz alone, on
// identity's own loopback port. Envoy does not route it; this is the second lock.
func (s *Service) inside(h httpapi.HandlerFunc) httpapi.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		for _, name := range []string{"X-Forwarded-For", "X-Forwarded-Proto", "Forwarded", "X-Envoy-External-Address",
			attributes.HeaderIdentity} {
			if len(r.Header.Values(name)) > 0 {
				return httpapi.Fail(http.StatusNotFound, "no such path")
			}
		}
		return h(w, r)
	}
}

var errBadID = errors.New("malformed id")

// parseID takes only the plain 36-character form, in any case.
func parseID(text string) (uuid.UUID, error) {
	if len(text) != 36 {
		return uuid.UUID{}, errBadID
	}
	id, err := uuid.Parse(text)
	if err != nil {
		return uuid.UUID{}, errBadID
	}
	return id, nil
}

// owner is whose keys a call is about: the caller's own when none is named, and
// anybody's for an ADMIN. For all others a foreign or malformed id is a 403.
func owner(p principal.Principal, given *string) (uuid.UUID, error) {
	own, err := parseID(p.UserID)
	if err != nil || given == nil {
		return own, err
	}
	id, err := parseID(*given)
	switch {
	case err == nil && (id == own || p.Is(principal.RoleAdmin)):
		return id, nil
	case !p.Is(principal.RoleAdmin):
		return uuid.UUID{}, httpapi.Fail(http.StatusForbidden, "not your user id")
	case *given == "":
		return uuid.UUID{}, invalid("userId", "userId is required")
	}
	return uuid.UUID{}, invalid("userId", "invalid userId")
}

// optionalID reads an id that may be absent or empty.
func optionalID(field string, given *string) (*uuid.UUID, error) {
	if given == nil || *given == "" {
		return nil, nil
	}
	id, err := parseID(*given)
	if err != nil {
		return nil, invalid(field, "invalid "+field)
	}
	return &id, nil
}

// queryValue is a query parameter, nil when it is absent; a repeated one is refused,
// as two readers may pick different ones.
func queryValue(r *http.Request, name string) (*string, error) {
	values := r.URL.Query()[name]
	switch len(values) {
	case 0:
		return nil, nil
	case 1:
		return &values[0], nil
	}
	return nil, invalid(name, name+" is given more than once")
}
