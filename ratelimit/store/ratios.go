package store

import (
	"context"
)

// learnedKey is a hash of what each meter told, by its name.
func (s *Store) learnedKey() string { return s.config.Prefix + "learned" }

// SetRatios keeps what a meter told, in place of what it told before.
func (s *Store) SetRatios(ctx context.Context, meter string, report []byte) error {
	return s.gated(func() error { return s.client.HSet(ctx, s.learnedKey(), meter, report).Err() })
}

// Ratios is what the meters told, by name.
func (s *Store) Ratios(ctx context.Context) (reports map[string]string, err error) {
	err = s.gated(func() error {
		reports, err = s.client.HGetAll(ctx, s.learnedKey()).Result()
		return err
	})
	return reports, err
}

// DeleteRatios forgets what a meter told.
func (s *Store) DeleteRatios(ctx context.Context, meter string) error {
	return s.gated(func() error { return s.client.HDel(ctx, s.learnedKey(), meter).Err() })
}
