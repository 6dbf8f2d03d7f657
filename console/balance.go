package console

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"github.com/leaky-tokens/leaky-tokens/client"
	"github.com/leaky-tokens/leaky-tokens/client/api"
)

// balanceData is what an account owns, and what became of it.
type balanceData struct {
	Accounts  []choice
	Account   string // "" or the id of an organisation
	Pools     []api.Quota
	Provider  string
	Providers []string
	Entries   []entryRow
	More      string // address of the next page
	Purchases []api.Saga
	Order     string // names a purchase, so that a form sent twice buys once
}

type entryRow struct {
	api.LedgerEntry

	Purchase string // address of the purchase behind it
}

// payer is whose balance a page is about: the caller's own, or an organisation's.
func (v *visit) payer(text string) (org *uuid.UUID, accounts []choice, err error) {
	accounts = []choice{{"", v.me.Username, text == ""}}
	for _, o := range v.me.Organisations {
		accounts = append(accounts, choice{o.ID.String(), o.Name, o.ID.String() == text})
	}
	if text == "" {
		return nil, accounts, nil
	}
	found, err := id(text, "The account")
	return &found, accounts, err
}

func (s *site) balance(v *visit) error {
	ctx, q := v.r.Context(), v.r.URL.Query()
	org, accounts, err := v.payer(q.Get("account"))
	if err != nil {
		return err
	}
	d := balanceData{Accounts: accounts, Account: q.Get("account"), Providers: s.cfg.Providers, Order: rand.Text()}
	pools, err := each(ctx, s.cfg.Providers, func(ctx context.Context, provider string) (*api.Quota, error) {
		return pool(ctx, v, org, provider)
	})
	if err != nil {
		return err
	}
	for _, p := range pools {
		if p != nil {
			d.Pools = append(d.Pools, *p)
		}
	}
	if d.Provider = q.Get("provider"); d.Provider == "" && len(d.Pools) > 0 {
		d.Provider = d.Pools[0].Provider
	}
	if d.Provider != "" && len(d.Pools) > 0 {
		if err := s.ledger(ctx, v, org, &d); err != nil {
			return err
		}
	}
	if v.admin() {
		got, err := v.api.ListSagasWithResponse(ctx, &api.ListSagasParams{Limit: new(int32(15))})
		if err != nil && !tolerable(err) {
			return err
		}
		if err == nil && got.JSON200 != nil {
			d.Purchases = got.JSON200.Items
		}
	}
	return s.show(v, "balance", "/balance", "Balance", d)
}

// pool is what an account owns at a provider, nil when it owns nothing there.
func pool(ctx context.Context, v *visit, org *uuid.UUID, provider string) (*api.Quota, error) {
	var found *api.Quota
	var err error
	if org == nil {
		var got *api.GetQuotaResponse
		if got, err = v.api.GetQuotaWithResponse(ctx, &api.GetQuotaParams{UserID: &v.me.ID, Provider: provider}); err == nil {
			found = got.JSON200
		}
	} else {
		var got *api.GetOrganisationQuotaResponse
		if got, err = v.api.GetOrganisationQuotaWithResponse(ctx, &api.GetOrganisationQuotaParams{OrgID: *org, Provider: provider}); err == nil {
			found = got.JSON200
		}
	}
	if refused, ok := errors.AsType[*client.Error](err); ok && refused.Status == http.StatusNotFound {
		return nil, nil
	}
	return found, err
}

func (s *site) ledger(ctx context.Context, v *visit, org *uuid.UUID, d *balanceData) error {
	params := &api.ListLedgerParams{Provider: d.Provider, Limit: new(int32(30))}
	if org != nil {
		params.OrgID = org
	} else {
		params.UserID = &v.me.ID
	}
	if cursor := v.r.URL.Query().Get("cursor"); cursor != "" {
		params.Cursor = &cursor
	}
	got, err := v.api.ListLedgerWithResponse(ctx, params)
	if refused, ok := errors.AsType[*client.Error](err); ok && refused.Status == http.StatusNotFound {
		return nil
	}
	if err != nil {
		return err
	}
	page, err := client.Answer(got.JSON200)
	if err != nil {
		return err
	}
	for _, e := range page.Items {
		row := entryRow{LedgerEntry: e}
		if saga, ok := purchaseOf(e); ok {
			row.Purchase = path + "/balance/purchases/" + saga
		}
		d.Entries = append(d.Entries, row)
	}
	if page.NextCursor != "" {
		d.More = path + "/balance?" + url.Values{"account": {d.Account}, "provider": {d.Provider}, "cursor": {page.NextCursor}}.Encode()
	}
	return nil
}

// purchaseOf is the purchase that an entry names.
func purchaseOf(e api.LedgerEntry) (string, bool) {
	reference := e.Reference[strings.LastIndexByte(e.Reference, ':')+1:]
	_, err := uuid.Parse(reference)
	return reference, e.Kind == "purchase" && err == nil
}

// buy orders tokens. The form names its order, so that sent twice it buys once.
func (s *site) buy(v *visit) error {
	form := v.r.PostForm
	org, _, err := v.payer(form.Get("account"))
	if err != nil {
		return err
	}
	tokens, err := strconv.ParseInt(strings.TrimSpace(form.Get("tokens")), 10, 64)
	if err != nil {
		return &shown{status: http.StatusBadRequest, title: "Malformed", text: "Write how many tokens, as a whole number."}
	}
	order := form.Get("order")
	if len(order) < 16 || len(order) > 64 {
		return &shown{status: http.StatusBadRequest, title: "Malformed", text: "Reload the page and buy again; nothing was bought."}
	}
	in := api.PurchaseRequest{Provider: form.Get("provider"), Tokens: tokens}
	if org != nil {
		in.OrgID = new(org.String())
	}
	got, err := v.api.PurchaseTokensWithResponse(v.r.Context(), &api.PurchaseTokensParams{IdempotencyKey: &order}, in)
	if err != nil {
		return err
	}
	accepted, err := client.Answer(got.JSON202)
	if err != nil {
		return err
	}
	http.Redirect(v.w, v.r, path+"/balance/purchases/"+accepted.SagaID.String(), http.StatusSeeOther)
	return nil
}

// purchaseData is one purchase, on its way or at its end.
type purchaseData struct {
	api.Purchase

	Steps   []step
	Done    bool
	Address string
	Log     []api.SagaStep // what an ADMIN sees of it
}

// step is a station of a purchase.
type step struct {
	Label         string
	Reached, Next bool
}

func (s *site) purchase(v *visit) error {
	saga, err := id(v.r.PathValue("id"), "The purchase")
	if err != nil {
		return err
	}
	got, err := v.api.GetPurchaseWithResponse(v.r.Context(), saga)
	if err != nil {
		return err
	}
	found, err := client.Answer(got.JSON200)
	if err != nil {
		return err
	}
	d := purchaseData{Purchase: found, Address: path + "/balance/purchases/" + saga.String(), Steps: steps(found.Status),
		Done: found.Status == api.COMPLETED || found.Status == api.FAILED}
	if v.admin() {
		whole, err := v.api.GetSagaWithResponse(v.r.Context(), saga)
		if err != nil && !tolerable(err) {
			return err
		}
		if err == nil && whole.JSON200 != nil {
			d.Log = whole.JSON200.Steps
		}
	}
	if v.fragment() {
		return s.part(v, "progress", d)
	}
	return s.show(v, "purchase", "/balance", "Purchase", d)
}

// steps are the stations of a purchase with how far it came.
func steps(status api.PurchaseStatus) []step {
	order := []struct {
		status api.PurchaseStatus
		label  string
	}{{api.STARTED, "Ordered"}, {api.PAYMENTRESERVED, "Payment reserved"}, {api.TOKENSALLOCATED, "Tokens allocated"},
		{api.COMPLETED, "Completed"}}
	if status == api.FAILED {
		return []step{{Label: "Ordered", Reached: true}, {Label: "Failed, and undone", Reached: true}}
	}
	var out []step
	reached := true
	for _, o := range order {
		out = append(out, step{Label: o.label, Reached: reached, Next: !reached && out[len(out)-1].Reached})
		reached = reached && o.status != status
	}
	return out
}

// AccountName is the account for people.
func (d balanceData) AccountName() string {
	for _, a := range d.Accounts {
		if a.Chosen {
			return a.Label
		}
	}
	return cmp.Or(d.Account, "me")
}
