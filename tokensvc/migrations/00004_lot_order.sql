-- +goose Up
-- Of lots that expire at the same moment the oldest is spent first.
ALTER TABLE token_lots ADD COLUMN seq bigint GENERATED ALWAYS AS IDENTITY;

-- +goose Down
ALTER TABLE token_lots DROP COLUMN seq;
