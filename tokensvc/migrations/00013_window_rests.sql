-- +goose Up
-- What the last windows that ended had left, the latest last: a charge that comes after its
-- window's end draws on what that window had.
ALTER TABLE token_pools ADD COLUMN rests bigint[] NOT NULL DEFAULT '{}';
ALTER TABLE token_org_pools ADD COLUMN rests bigint[] NOT NULL DEFAULT '{}';

-- +goose Down
ALTER TABLE token_pools DROP COLUMN rests;
ALTER TABLE token_org_pools DROP COLUMN rests;
