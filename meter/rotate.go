package meter

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"strconv"
	"time"
)

const (
	reopenTimeout = 2 * time.Second
	reopenEvery   = time.Second
)

// rotator moves a spool that has grown large out of the way and has Envoy open a new one.
type rotator struct {
	path   string
	bytes  int64        // rotate above so many
	reopen string       // URL of Envoy's /reopen_logs, empty: do not rotate
	client *http.Client // without a timeout of its own

	asked time.Time
}

// step rotates when the file being read, offset bytes in, is the current one and large
// enough; and it asks Envoy again until the new file is there. Envoy goes on writing to
// the renamed file until then, which loses nothing: the tail follows the file. That a file is
// waited for is seen on disk, so that it is also by a meter that was started anew in between.
func (r *rotator) step(ctx context.Context, t *tail) error {
	if r.reopen == "" {
		return nil
	}
	current, err := inodeOf(r.path)
	if err == nil {
		if t.file == nil || t.offset < r.bytes || current != t.inode { // an old file is being read
			return nil
		}
		if err := r.rename(t); err != nil {
			return err
		}
	} else if renamed, err := r.renamed(t); err != nil || !renamed {
		return err // nothing was ever written
	}
	if time.Since(r.asked) < reopenEvery {
		return nil
	}
	r.asked = time.Now()
	return r.ask(ctx)
}

// renamed reports whether there is a file that was moved out of the way.
func (r *rotator) renamed(t *tail) (bool, error) {
	all, err := t.sources()
	return len(all) > 0, err
}

func (r *rotator) rename(t *tail) error {
	all, err := t.sources()
	if err != nil {
		return err
	}
	last := 0
	for _, s := range all {
		last = max(last, t.number(s.path))
	}
	if err := os.Rename(r.path, r.path+"."+strconv.Itoa(last+1)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("rotate spool: %w", err)
	}
	return nil
}

func (r *rotator) ask(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, reopenTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.reopen, http.NoBody)
	if err != nil {
		return fmt.Errorf("ask envoy to reopen its logs: %w", err)
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return fmt.Errorf("ask envoy to reopen its logs: %w", err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("ask envoy to reopen its logs: status %d", resp.StatusCode)
	}
	return nil
}
