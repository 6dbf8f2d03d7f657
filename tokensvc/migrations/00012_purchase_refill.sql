-- +goose Up
-- How the pool refills that the purchase makes, as the buyer stated it; empty: the default
-- (pools.refill). Pools that exist keep theirs; docs/purchases.md says how to change one.
ALTER TABLE token_purchase_saga ADD COLUMN refill varchar(10) NOT NULL DEFAULT '' CHECK (refill IN ('', 'window', 'never'));

-- +goose Down
ALTER TABLE token_purchase_saga DROP COLUMN refill;
