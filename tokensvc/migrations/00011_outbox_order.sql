-- +goose Up
-- The order of events follows what they are about, whatever their type is called: all
-- events with one aggregate_id fall into one slot. Before, the type was a part of it, and
-- a purchase has four.
-- +goose StatementBegin
CREATE FUNCTION token_outbox_slot(about text) RETURNS smallint LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT (hashtext(about) & 63)::smallint $$;
-- +goose StatementEnd
UPDATE token_outbox SET slot = token_outbox_slot(coalesce(aggregate_id, id::text)) WHERE published_at IS NULL;
DROP INDEX token_outbox_waiting;
CREATE INDEX token_outbox_waiting ON token_outbox (slot, aggregate_id, seq) WHERE next_at IS NOT NULL AND published_at IS NULL AND parked_at IS NULL;

-- +goose Down
DROP INDEX token_outbox_waiting;
CREATE INDEX token_outbox_waiting ON token_outbox (slot, aggregate_type, aggregate_id, seq) WHERE next_at IS NOT NULL AND published_at IS NULL AND parked_at IS NULL;
DROP FUNCTION token_outbox_slot;
