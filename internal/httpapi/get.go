package httpapi

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
)

// mostAnswer bounds what is read of another part's answer, in bytes.
const mostAnswer = 64 << 20

// Get asks another part for a JSON document and decodes it into out. An answer other than 200 is an
// error that names its status.
func Get(ctx context.Context, client *http.Client, url string, out any) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return err
	}
	resp, err := client.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answered %s", r.URL.Path, resp.Status)
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, mostAnswer)).Decode(out); err != nil {
		return fmt.Errorf("parse answer of %s: %w", r.URL.Path, err)
	}
	return nil
}
