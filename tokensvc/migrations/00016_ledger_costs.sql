-- +goose Up
-- What a call cost in money, frozen in its event, beside the tokens that its pool paid. A usage entry
-- has it in millionths of the currency; a correction has the difference, so that costs sum up as
-- amounts do. Entries that are no usage, and those from before, have none.
ALTER TABLE token_ledger
    ADD COLUMN cost_micros   bigint,
    ADD COLUMN currency      text,
    ADD COLUMN price_version text;

-- +goose Down
ALTER TABLE token_ledger DROP COLUMN cost_micros, DROP COLUMN currency, DROP COLUMN price_version;
