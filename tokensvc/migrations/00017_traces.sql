-- +goose Up
-- The span under which an event was caused (W3C Trace Context, traceparent), so that what comes of it
-- is in the trace of the call; a purchase has that of its order, for the steps that follow. Empty:
-- none. A constant default rewrites no row.
ALTER TABLE token_outbox ADD COLUMN traceparent varchar(55) NOT NULL DEFAULT '';
ALTER TABLE token_purchase_saga ADD COLUMN traceparent varchar(55) NOT NULL DEFAULT '';

-- +goose Down
ALTER TABLE token_purchase_saga DROP COLUMN traceparent;
ALTER TABLE token_outbox DROP COLUMN traceparent;
