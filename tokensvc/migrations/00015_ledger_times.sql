-- +goose Up
-- Reconciliation reads the entries of a span of time. They are written nearly in the order of their
-- times, so that a few summaries of blocks find them and writing costs nothing.
CREATE INDEX token_ledger_at ON token_ledger USING brin (at);

-- +goose Down
DROP INDEX token_ledger_at;
