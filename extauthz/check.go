package extauthz

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"time"

	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"

	"github.com/leaky-tokens/leaky-tokens/internal/facts"
)

// mintedFor is how long a minted identity is sent again: half its lifetime, so the
// service that gets it last still has half a minute.
const mintedFor = 30 * time.Second

// Check answers one request as envoy.service.auth.v3.Authorization has it. It never
// returns an error: whatever goes wrong is a refusal in the shape of the route. The
// answer may be shared and must not be changed.
func (s *Service) Check(ctx context.Context, req *auth.CheckRequest) (*auth.CheckResponse, error) {
	r, err := s.check(ctx, callOf(req))
	if err != nil {
		return nil, err
	}
	return r.message, nil
}

func (s *Service) check(ctx context.Context, c call) (r *reply, err error) {
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("check panicked", slog.Any("panic", p), slog.String("stack", string(debug.Stack())))
			r, err = s.refuse(c, denyUnavailable)
		}
	}()
	r, denied := s.decide(ctx, c)
	if denied != nil {
		return s.refuse(c, *denied)
	}
	return r, nil
}

// decide gives the answer for a caller who may pass, or why not.
func (s *Service) decide(ctx context.Context, c call) (*reply, *denial) {
	creds, err := readCredentials(c)
	if err != nil {
		return nil, deny(err)
	}
	if !creds.anything {
		if c.rule != facts.RulePublic {
			return nil, &denyMissing
		}
		s.metrics.anonymous.Inc()
		if creds.inQuery {
			return s.anonymous[1], nil
		}
		return s.anonymous[0], nil
	}
	now := time.Now()
	who, err := s.identify(ctx, creds, now)
	if err != nil {
		return nil, deny(err)
	}
	if denied := s.permit(who, c.rule); denied != nil {
		return nil, denied
	}
	r, err := s.answer(who, c.audience, creds.inQuery, now)
	if err != nil {
		s.log.Error("identity not minted", slog.Any("error", err))
		return nil, &denyUnavailable
	}
	s.metrics.allowed.Inc()
	return r, nil
}

var errTwoUsers = errors.New("credentials of different users")

// identify checks every credential that is present; all must be good and of one user.
func (s *Service) identify(ctx context.Context, creds credentials, now time.Time) (*caller, error) {
	if creds.key == "" {
		return s.tokens.check(ctx, creds.token, now)
	}
	byKey, err := s.keys.check(ctx, creds.key, now)
	if err != nil || creds.token == "" {
		return byKey, err
	}
	byToken, err := s.tokens.check(ctx, creds.token, now)
	if err != nil {
		return nil, err
	}
	if byToken.who.UserID != byKey.who.UserID {
		return nil, errTwoUsers
	}
	return byKey, nil
}

// permit applies the rule of the route. A route without one, or with one that is not
// known, is a mistake of ours: the former asks for a caller, the latter lets nobody in.
func (s *Service) permit(who *caller, rule string) *denial {
	switch rule {
	case facts.RulePublic, facts.RuleAuthenticated, "":
		return nil
	}
	if role, ok := strings.CutPrefix(rule, "role:"); ok && role != "" {
		if who.who.Is(role) {
			return nil
		}
		return &denyRole
	}
	s.log.Error("route has an unknown access rule", slog.String("rule", rule))
	return &denyRole
}

// answer is the reply for a caller and an audience, made once and sent again.
func (s *Service) answer(who *caller, audience string, inQuery bool, now time.Time) (*reply, error) {
	if r := who.find(audience, inQuery, now); r != nil {
		return r, nil
	}
	fresh := answer{audience: audience, inQuery: inQuery}
	minted := ""
	var err error
	if audience != "" {
		if minted, err = s.signer.Mint(who.who, audience, now); err != nil {
			return nil, fmt.Errorf("answer check: %w", err)
		}
		fresh.until = now.Add(mintedFor)
	}
	if fresh.reply, err = newReply(namedAnswer(who.who, minted, inQuery)); err != nil {
		return nil, err
	}
	who.keep(fresh)
	return fresh.reply, nil
}
