package audit

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/leaky-tokens/leaky-tokens/identity/clientinfo"
	"github.com/leaky-tokens/leaky-tokens/identity/identitydb"
	"github.com/leaky-tokens/leaky-tokens/identity/migrations"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

func TestEntriesTakeTheRestFromTheContext(t *testing.T) {
	t.Parallel()
	pool := testenv.Postgres(t)
	if err := migrations.Up(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	from := clientinfo.With(t.Context(), clientinfo.Origin{IP: netip.MustParseAddr("2001:db8::1"), Agent: "curl/8"})
	nasty := strings.Repeat("ä\x00\xff", 500)
	for _, c := range []struct {
		ctx           context.Context //nolint:containedctx // a row of a table
		entry         Entry
		actor, client string
	}{
		{from, Entry{}, Anonymous, ""},
		{principal.With(from, principal.Principal{UserID: "u", KeyID: "k"}), Entry{}, "u", "key:k"},
		{principal.With(from, principal.Principal{UserID: "u", Client: "app", KeyID: "k"}), Entry{}, "u", "app"},
		{principal.With(from, principal.Principal{UserID: "u"}), Entry{Actor: System, Client: "x"}, System, "x"},
		{from, Entry{Actor: nasty, Client: nasty, Target: nasty, Detail: map[string]string{"k": nasty}}, strings.Repeat("ä", 100),
			strings.Repeat("ä", 100)},
	} {
		c.entry.Action = "test.record"
		if err := Record(c.ctx, pool, c.entry); err != nil {
			t.Fatal(err)
		}
		rows, err := identitydb.New(pool).ListAudit(t.Context(), identitydb.ListAuditParams{Most: 1})
		if err != nil || len(rows) != 1 {
			t.Fatal(len(rows), err)
		}
		if e := rows[0]; e.Actor != c.actor || e.Client != c.client || e.Ip != "2001:db8::1" || e.UserAgent != "curl/8" ||
			e.Outcome != Success || e.Action != "test.record" {
			t.Errorf("want %q by %q, got %+v", c.actor, c.client, e)
		}
	}
}

func FuzzClean(f *testing.F) {
	f.Add("a\x00b", 1)
	f.Add("\xff\xfe", 10)
	f.Fuzz(func(t *testing.T, s string, most int) {
		most = max(0, most%300)
		if got := clean(s, most); !utf8.ValidString(got) || strings.Contains(got, "\x00") || utf8.RuneCountInString(got) > most {
			t.Fatalf("%q cut to %d is %q", s, most, got)
		}
	})
}
