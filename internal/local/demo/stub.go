package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/leaky-tokens/leaky-tokens/internal/local/demo/judge"

	"github.com/leaky-tokens/leaky-tokens/client"
)

// stubBook reads what one stub served, page by page, so that little is lost when the
// stub starts anew.
type stubBook struct {
	api      *client.Client
	provider string
	after    uint64 // sequence number of the last record read
	served   map[string]judge.Served
	before   json.RawMessage // its configuration as we found it
}

type stubPage struct {
	Counts struct {
		Total uint64 `json:"total"`
	} `json:"counts"`
	Requests []struct {
		ID     string `json:"id"`
		Input  int64  `json:"input"`
		Output int64  `json:"output"`
	} `json:"requests"`
	Next uint64 `json:"next"`
}

const stubPageSize = 2000

// pace sets the pause between chunks, in milliseconds, and leaves the rest as it was.
func (b *stubBook) pace(ctx context.Context, millis int) error {
	if err := b.api.Call(ctx, http.MethodGet, "/__stub/config", nil, &b.before); err != nil {
		return fmt.Errorf("read configuration of stub %s: %w", b.provider, err)
	}
	config := map[string]any{}
	if err := json.Unmarshal(b.before, &config); err != nil {
		return fmt.Errorf("read configuration of stub %s: %w", b.provider, err)
	}
	config["chunkDelayMs"] = millis
	if err := b.api.Call(ctx, http.MethodPut, "/__stub/config", config, nil); err != nil {
		return fmt.Errorf("pace stub %s: %w", b.provider, err)
	}
	return nil
}

// restore puts the configuration back as pace found it.
func (b *stubBook) restore(ctx context.Context) error {
	if b.before == nil {
		return nil
	}
	if err := b.api.Call(ctx, http.MethodPut, "/__stub/config", b.before, nil); err != nil {
		return fmt.Errorf("restore configuration of stub %s: %w", b.provider, err)
	}
	return nil
}

// skip moves behind everything served before the demo.
func (b *stubBook) skip(ctx context.Context) error {
	page, err := b.page(ctx, 1)
	b.after = page.Counts.Total
	return err
}

// read takes in the pages since the last time.
func (b *stubBook) read(ctx context.Context) error {
	for {
		page, err := b.page(ctx, stubPageSize)
		if err != nil {
			return err
		}
		if page.Counts.Total < b.after { // it forgot: it started anew
			b.after = 0
			continue
		}
		for _, r := range page.Requests {
			if r.ID == "" {
				continue
			}
			s := b.served[r.ID]
			b.served[r.ID] = judge.Served{Input: s.Input + r.Input, Output: s.Output + r.Output, Times: s.Times + 1}
		}
		b.after = max(b.after, page.Next)
		if len(page.Requests) < stubPageSize {
			return nil
		}
	}
}

func (b *stubBook) page(ctx context.Context, limit int) (stubPage, error) {
	var page stubPage
	err := b.api.Call(ctx, http.MethodGet, fmt.Sprintf("/__stub/requests?after=%d&limit=%d", b.after, limit), nil, &page)
	if err != nil {
		return page, fmt.Errorf("read what stub %s served: %w", b.provider, err)
	}
	return page, nil
}
