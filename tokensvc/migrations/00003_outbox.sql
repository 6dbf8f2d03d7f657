-- +goose Up
-- Events, written in the transaction of what they tell of. All of an aggregate's events
-- fall into one slot; a relay takes slots as a whole, so their order holds.
CREATE TABLE token_outbox (
    id             uuid         PRIMARY KEY,
    seq            bigint       GENERATED ALWAYS AS IDENTITY,
    slot           smallint     NOT NULL CHECK (slot BETWEEN 0 AND 63),
    aggregate_type varchar(50)  NOT NULL,
    aggregate_id   varchar(150),          -- null: an event on its own
    event_type     varchar(100) NOT NULL,
    subject        varchar(200) NOT NULL,
    payload        jsonb        NOT NULL,
    correlation_id varchar(128) NOT NULL DEFAULT '',
    created_at     timestamptz  NOT NULL DEFAULT now(),
    published_at   timestamptz,
    attempts       integer      NOT NULL DEFAULT 0,
    next_at        timestamptz,           -- not tried again before
    last_error     text         NOT NULL DEFAULT '',
    parked_at      timestamptz            -- given up; a person looks at it
);
CREATE INDEX token_outbox_pending ON token_outbox (slot, seq) WHERE published_at IS NULL AND parked_at IS NULL;
CREATE INDEX token_outbox_waiting ON token_outbox (slot, aggregate_type, aggregate_id, seq) WHERE next_at IS NOT NULL AND published_at IS NULL AND parked_at IS NULL;
CREATE INDEX token_outbox_published ON token_outbox (published_at) WHERE published_at IS NOT NULL;
CREATE INDEX token_outbox_parked ON token_outbox (parked_at) WHERE parked_at IS NOT NULL;

-- The row lock of a slot is a relay's claim to it.
CREATE TABLE token_outbox_slots (slot smallint PRIMARY KEY);
INSERT INTO token_outbox_slots SELECT generate_series(0, 63);

-- +goose Down
DROP TABLE token_outbox_slots;
DROP TABLE token_outbox;
