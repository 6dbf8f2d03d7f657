package reconcile

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"
)

// Stub is a provider's stub, which knows what it served.
type Stub struct {
	URL  string
	HTTP *http.Client
}

const (
	stubPage = 2000
	stubWait = 30 * time.Second
	stubBody = 16 << 20 // bytes of a page
)

type stubAnswer struct {
	Requests []struct {
		ID        string    `json:"id"`
		Status    int       `json:"status"`
		Input     int64     `json:"input"`
		Output    int64     `json:"output"`
		Stream    bool      `json:"stream"`
		Aborted   bool      `json:"aborted"`
		Truncated bool      `json:"truncated"`
		NoUsage   bool      `json:"noUsage"`
		Time      time.Time `json:"time"`
	} `json:"requests"`
	Next uint64 `json:"next"`
}

// served reads what stubs served in [from, to), as far as they remember. What cost no tokens is
// left out: lists of models and refusals.
func (s Sources) served(ctx context.Context, from, to time.Time) (map[string]Served, error) {
	all := map[string]Served{}
	for provider, stub := range s.Stubs {
		for after := uint64(0); ; {
			page, err := stub.page(ctx, after)
			if err != nil {
				return nil, fmt.Errorf("read what the stub of %s served: %w", provider, err)
			}
			for _, r := range page.Requests {
				if r.ID == "" || r.Input+r.Output == 0 || r.Time.Before(from) || !r.Time.Before(to) {
					continue
				}
				one := all[r.ID]
				whole := r.Status == http.StatusOK && !r.Aborted && !r.Truncated && !r.NoUsage
				all[r.ID] = Served{Provider: provider, Input: one.Input + r.Input, Output: one.Output + r.Output, Times: one.Times + 1,
					Whole: whole && (one.Times == 0 || one.Whole), Stream: r.Stream, At: r.Time}
			}
			if len(all) > s.Most {
				return nil, ErrTooMany
			}
			if after = page.Next; len(page.Requests) < stubPage {
				break
			}
		}
	}
	return all, nil
}

func (s Stub) page(ctx context.Context, after uint64) (page stubAnswer, err error) {
	ctx, cancel := context.WithTimeout(ctx, stubWait)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("%s/__stub/requests?after=%d&limit=%d", s.URL, after, stubPage), nil)
	if err != nil {
		return page, err
	}
	res, err := s.HTTP.Do(r)
	if err != nil {
		return page, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return page, fmt.Errorf("status %d", res.StatusCode)
	}
	return page, json.NewDecoder(io.LimitReader(res.Body, stubBody)).Decode(&page)
}
