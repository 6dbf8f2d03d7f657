-- +goose Up
-- The place in the stream that JetStream confirmed a published event with: a stream that comes back from
-- an older copy has it no longer, or something else there.
ALTER TABLE token_outbox ADD COLUMN stream_seq bigint;

-- +goose Down
ALTER TABLE token_outbox DROP COLUMN stream_seq;
