package analytics

import (
	"context"
	"net/http"

	"github.com/google/uuid"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/membership"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
)

// Members tells what a user is in an organisation. Errors mean that nobody knows.
type Members interface {
	Ask(ctx context.Context, org, user string) (membership.Answer, error)
}

// reader is a caller with what they may read, and the names that queries may use.
type reader struct {
	who       principal.Principal
	members   Members
	providers []string
}

// id is an optional UUID, in lower case.
func (p params) id(name string) (string, error) {
	text, err := p.text(name)
	if err != nil || text == "" {
		return "", err
	}
	id, err := uuid.Parse(text)
	if err != nil || len(text) != 36 {
		return "", bad("invalid %s", name)
	}
	return id.String(), nil
}

// scope puts into a filter whose calls it is about, and refuses what the caller may not see: their
// own without a word; an organisation's for its OWNER, who names it; everybody's for ADMIN.
func (r reader) scope(ctx context.Context, p params, f *Filter) (err error) {
	if f.UserID, err = p.id("userId"); err != nil {
		return err
	}
	if f.OrgID, err = p.id("orgId"); err != nil {
		return err
	}
	switch {
	case r.who.Is(principal.RoleAdmin):
		return nil
	case f.OrgID != "":
		answer, err := r.members.Ask(ctx, f.OrgID, r.who.UserID)
		if err != nil {
			return httpapi.Unavailable("memberships cannot be looked up at the moment")
		}
		switch {
		case answer.Member && (answer.Role == membership.Owner || f.UserID == r.who.UserID):
			return nil
		case answer.Member:
			return httpapi.Fail(http.StatusForbidden, "an organisation's calls are for its OWNER; add userId for your own")
		}
		return httpapi.Fail(http.StatusForbidden, "the caller is not in this organisation")
	case f.UserID == "":
		f.UserID = r.who.UserID
	}
	if f.UserID != r.who.UserID {
		return httpapi.Fail(http.StatusForbidden, "userId is not the caller's")
	}
	return nil
}

// filterNames are the parameters of every query.
func filterNames(more ...string) []string {
	return append([]string{"provider", "userId", "orgId", "account", "team", "keyId", "model", "endUser", "session", "tag", "from", "to"},
		more...)
}

// filter reads what filterNames names; the provider may be required.
func (r reader) filter(ctx context.Context, p params, needProvider bool) (f Filter, err error) {
	if f.Provider, err = p.provider(r.providers, needProvider); err != nil {
		return f, err
	}
	if err := r.scope(ctx, p, &f); err != nil {
		return f, err
	}
	if f.Account, err = p.matching("account", account); err != nil {
		return f, err
	}
	if f.KeyID, err = p.matching("keyId", keyID); err != nil {
		return f, err
	}
	for into, parameter := range map[*string]string{&f.Team: "team", &f.Model: "model", &f.EndUser: "endUser", &f.Session: "session"} {
		if *into, err = p.matching(parameter, anyName); err != nil {
			return f, err
		}
	}
	return f, p.tag(&f)
}

// tag is NAME:VALUE.
func (p params) tag(f *Filter) error {
	text, err := p.text("tag")
	if err != nil || text == "" {
		return err
	}
	for i := range len(text) {
		if text[i] == ':' {
			f.TagName, f.TagValue = text[:i], text[i+1:]
			break
		}
	}
	if !usage.TagName.MatchString(f.TagName) || f.TagValue != "" && !usage.IsLabel(f.TagValue) {
		return bad("tag must be NAME:VALUE, such as project:apollo")
	}
	return nil
}
