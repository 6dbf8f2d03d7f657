package console

import (
	"cmp"
	"net/http"
	"strings"
	"time"

	"github.com/leaky-tokens/leaky-tokens/client"
	"github.com/leaky-tokens/leaky-tokens/client/api"
)

// keysData is the page of the caller's API keys.
type keysData struct {
	Keys           []keyRow
	Orgs           []choice
	Lives          []choice
	Made           *api.NewAPIKey // shown this once
	Gateway, Model string
}

type keyRow struct {
	ID, Name, Org string
	Created       time.Time
	Used, Expires time.Time
	Expired       bool
}

// lives are how long a key may live, in days.
func lives() []choice {
	return []choice{{"90", "90 days", true}, {"30", "30 days", false}, {"365", "1 year", false}, {"0", "without end", false}}
}

func (s *site) keys(v *visit) error { return s.showKeys(v, nil) }

func (s *site) showKeys(v *visit, made *api.NewAPIKey) error {
	got, err := v.api.ListAPIKeysWithResponse(v.r.Context(), &api.ListAPIKeysParams{UserID: &v.me.ID})
	if err != nil {
		return err
	}
	all, err := client.Answer(got.JSON200)
	if err != nil {
		return err
	}
	d := keysData{Made: made, Lives: lives(), Gateway: s.cfg.PublicURL, Model: s.cfg.Model, Orgs: []choice{{"", "me", true}}}
	for _, o := range v.me.Organisations {
		d.Orgs = append(d.Orgs, choice{o.ID.String(), o.Name, false})
	}
	for _, k := range all {
		row := keyRow{ID: k.ID.String(), Created: k.CreatedAt}
		if k.Name != nil {
			row.Name = *k.Name
		}
		if k.LastUsedAt != nil {
			row.Used = *k.LastUsedAt
		}
		if k.ExpiresAt != nil {
			row.Expires, row.Expired = *k.ExpiresAt, time.Now().After(*k.ExpiresAt)
		}
		if k.OrgID != nil {
			o, _ := v.orgOf(*k.OrgID)
			row.Org = cmp.Or(o.Name, k.OrgID.String())
		}
		d.Keys = append(d.Keys, row)
	}
	return s.show(v, "keys", "/keys", "Keys", d)
}

// createKey shows the secret in its answer, which no browser keeps, and nowhere else.
func (s *site) createKey(v *visit) error {
	form := v.r.PostForm
	in := api.APIKeyRequest{Name: new(strings.TrimSpace(form.Get("name"))), UserID: &v.me.ID}
	if org := form.Get("org"); org != "" {
		in.OrgID = &org
	}
	switch days := form.Get("life"); days {
	case "0":
	case "30", "90", "365":
		life := map[string]int{"30": 30, "90": 90, "365": 365}[days]
		in.ExpiresAt = new(time.Now().UTC().AddDate(0, 0, life).Truncate(time.Second))
	default:
		return &shown{status: http.StatusBadRequest, title: "Malformed", text: "Choose how long the key lives."}
	}
	got, err := v.api.CreateAPIKeyWithResponse(v.r.Context(), in)
	if err != nil {
		return err
	}
	made, err := client.Answer(got.JSON201)
	if err != nil {
		return err
	}
	return s.showKeys(v, &made)
}

func (s *site) revokeKey(v *visit) error {
	key, err := id(v.r.PostForm.Get("key"), "The key")
	if err != nil {
		return err
	}
	if _, err := v.api.RevokeAPIKeyWithResponse(v.r.Context(), &api.RevokeAPIKeyParams{UserID: &v.me.ID, APIKeyID: key}); err != nil {
		return err
	}
	http.Redirect(v.w, v.r, path+"/keys", http.StatusSeeOther)
	return nil
}
