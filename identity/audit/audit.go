// Package audit is the trail of who did what to which credential, when and from where.
// An entry is written in the transaction of the change it tells of, so that neither
// is there without the other; the table takes no UPDATE and no DELETE.
package audit

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/leaky-tokens/leaky-tokens/identity/clientinfo"
	"github.com/leaky-tokens/leaky-tokens/identity/identitydb"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
)

// Outcomes.
const (
	Success = "success"
	Failure = "failure"
)

// Actors that are no users.
const (
	Anonymous = "anonymous"
	System    = "system" // identity itself: jobs and first start
)

// Entry is one thing that was done. Actor, Client, the address and the user agent are
// taken from the context when they are empty here (see principal.With and clientinfo.With).
type Entry struct {
	Actor   string            // user id, or one of the constants
	Client  string            // OAuth2 client that acted for them, or the API key as "key:<id>"; empty: a login
	Action  string            // such as "key.create": the kind of thing, a dot, what was done to it
	Target  string            // id of what it was done to
	Outcome string            // Success (default) or Failure
	Detail  map[string]string // what else helps; never a secret
}

// Record adds an entry within tx. Texts are cut to what the table holds; bytes that
// Postgres refuses are dropped, as an entry must not fail the change it tells of.
func Record(ctx context.Context, tx identitydb.DBTX, e Entry) error {
	if p, ok := principal.From(ctx); ok && e.Actor == "" {
		e.Actor = p.UserID
		switch {
		case e.Client != "":
		case p.Client != "":
			e.Client = p.Client
		case p.KeyID != "":
			e.Client = "key:" + p.KeyID
		}
	}
	if e.Actor == "" {
		e.Actor = Anonymous
	}
	if e.Outcome == "" {
		e.Outcome = Success
	}
	detail := make(map[string]string, len(e.Detail))
	for name, value := range e.Detail {
		detail[name] = clean(value, 500)
	}
	text, err := json.Marshal(detail)
	if err != nil {
		return fmt.Errorf("encode audit detail: %w", err)
	}
	from := clientinfo.From(ctx)
	err = identitydb.New(tx).AddAudit(ctx, identitydb.AddAuditParams{Actor: clean(e.Actor, 100), Client: clean(e.Client, 100), Ip: from.Text(),
		UserAgent: clean(from.Agent, 200), Action: clean(e.Action, 50), Target: clean(e.Target, 200), Outcome: clean(e.Outcome, 20),
		Detail: text})
	if err != nil {
		return fmt.Errorf("record audit entry: %w", err)
	}
	return nil
}

// clean cuts a text to so many characters and drops what no text column takes.
func clean(s string, most int) string {
	s = strings.ReplaceAll(strings.ToValidUTF8(s, ""), "\x00", "")
	if utf8.RuneCountInString(s) > most {
		s = string([]rune(s)[:most])
	}
	return s
}
