-- +goose Up
-- A key signs from active_at on, until a later one does; it is published before that, so
-- that whoever checks signatures has it by then, and after that until retire_at.
DROP INDEX signing_keys_one_active;
ALTER TABLE signing_keys ADD COLUMN active_at timestamptz;
UPDATE signing_keys SET active_at = created_at;
ALTER TABLE signing_keys ALTER COLUMN active_at SET NOT NULL;
ALTER TABLE signing_keys DROP COLUMN active;

-- +goose Down
ALTER TABLE signing_keys ADD COLUMN active boolean NOT NULL DEFAULT false;
UPDATE signing_keys SET active = true WHERE kid = (SELECT kid FROM signing_keys WHERE active_at <= now() ORDER BY active_at DESC LIMIT 1);
ALTER TABLE signing_keys DROP COLUMN active_at;
CREATE UNIQUE INDEX signing_keys_one_active ON signing_keys (active) WHERE active;
