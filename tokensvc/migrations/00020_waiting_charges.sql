-- +goose Up
-- Charges whose pool somebody had locked when they came: they are taken from the stream, which waits for
-- no pool, and are booked when the lock is gone. event is the message, whole. refused is why it cannot be
-- booked at all; such a row is for people.
CREATE TABLE token_waiting_charges (
    id         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account    text        NOT NULL,
    provider   text        NOT NULL,
    request    text        NOT NULL,
    version    bigint      NOT NULL,
    event      bytea       NOT NULL,
    refused    text        NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (request, version)
);
CREATE INDEX token_waiting_charges_pool ON token_waiting_charges (account, provider) WHERE refused = '';

-- +goose Down
-- +goose StatementBegin
DO $$ BEGIN
    IF EXISTS (SELECT FROM token_waiting_charges) THEN
        RAISE EXCEPTION 'charges wait in token_waiting_charges: let them be booked first';
    END IF;
END $$;
-- +goose StatementEnd
DROP TABLE token_waiting_charges;
