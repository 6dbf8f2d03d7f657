package extauthz

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
)

// mintedFor is how long a minted identity is sent again: half its lifetime, so the
// service that gets it last still has half a minute.
const mintedFor = 30 * time.Second

// Check answers one request as envoy.service.auth.v3.Authorization has it. It never
// returns an error: whatever goes wrong is a refusal in the shape of the route.
func (s *Service) Check(ctx context.Context, req *auth.CheckRequest) (*auth.CheckResponse, error) {
	c := callOf(req)
	r, err := s.check(ctx, &c)
	if err != nil {
		return nil, err
	}
	return r.message()
}

// check answers a call, whatever it takes.
func (s *Service) check(ctx context.Context, c *call) (r *reply, err error) {
	if s.log.Enabled(ctx, slog.LevelDebug) {
		defer func() { s.tell(ctx, c, r) }()
	}
	if wait := s.guesses.wait(c.client, time.Now()); wait > 0 {
		if r, err := s.recall(ctx, c); !errors.Is(err, errUnknown) {
			return r, err
		}
		return s.refuse(c, denyGuessing(wait))
	}
	return s.decide(ctx, c, s.identify)
}

// tell says what became of a call.
func (s *Service) tell(ctx context.Context, c *call, r *reply) {
	s.log.LogAttrs(ctx, slog.LevelDebug, "call checked", slog.String("request_id", c.requestID), slog.String("rule", c.rule),
		slog.String("said", said(r).String()))
}

// recall answers a call from memory, without I/O and without checking a signature;
// errUnknown if that cannot be.
func (s *Service) recall(ctx context.Context, c *call) (*reply, error) {
	return s.decide(ctx, c, s.remember)
}

// finder says who a call's credentials stand for.
type finder func(ctx context.Context, creds credentials, now time.Time) (*caller, error)

func (s *Service) decide(ctx context.Context, c *call, find finder) (r *reply, err error) {
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("check panicked", slog.Any("panic", p), slog.String("stack", string(debug.Stack())))
			r, err = s.refuse(c, &denyUnavailable)
		}
	}()
	creds, err := readCredentials(c, s.keysOff())
	if err != nil {
		return s.refuse(c, deny(err))
	}
	if !creds.anything {
		if c.rule != attributes.RulePublic {
			return s.refuse(c, &denyMissing)
		}
		s.metrics.anonymous.Inc()
		return s.anonymous[creds.form], nil
	}
	now := time.Now()
	who, err := find(ctx, creds, now)
	if err == errUnknown { //nolint:errorlint // never wrapped, and on the way of every call
		return nil, err
	}
	if err != nil {
		denied := deny(err)
		if denied == &denyInvalid || denied == &denyExpired {
			s.guesses.failed(c.client)
		}
		return s.refuse(c, denied)
	}
	if denied := s.proofs.holds(who, creds, c, now); denied != nil {
		return s.refuse(c, denied)
	}
	if denied := s.permit(who, c); denied != nil {
		return s.refuse(c, denied)
	}
	if r, err = s.answer(who, c.audience, creds.form, now); err != nil {
		s.log.Error("identity not minted", slog.Any("error", err))
		return s.refuse(c, &denyUnavailable)
	}
	s.metrics.allowed.Inc()
	return r, nil
}

var errTwoUsers = errors.New("credentials of different users")

// remember finds the caller if all credentials are remembered.
func (s *Service) remember(_ context.Context, creds credentials, now time.Time) (*caller, error) {
	if creds.key == "" {
		return s.tokens.recall(creds.token, now)
	}
	if creds.token != "" {
		return nil, errUnknown // both are rare
	}
	return s.keys.recall(creds.key, now)
}

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

// answer is the reply for a caller and an audience, made once and sent again.
func (s *Service) answer(who *caller, audience string, f form, now time.Time) (*reply, error) {
	if r := who.find(audience, f, now); r != nil {
		return r, nil
	}
	fresh := answer{audience: audience, form: f}
	minted := ""
	var err error
	if audience != "" {
		if minted, err = s.signer.Mint(who.who, audience, now); err != nil {
			return nil, fmt.Errorf("answer check: %w", err)
		}
		fresh.until = now.Add(mintedFor)
	}
	if fresh.reply, err = newReply(namedAnswer(who.who, minted, f)); err != nil {
		return nil, err
	}
	who.keep(fresh)
	return fresh.reply, nil
}
