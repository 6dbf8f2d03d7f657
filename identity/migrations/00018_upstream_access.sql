-- +goose Up
-- asked_at is when the provider was last asked whether somebody may still come in, by refresh_token, which
-- is sealed. ended_at: it said no, or nothing for too long, and the account is disabled for that reason.
ALTER TABLE upstream_users
    ADD COLUMN asked_at      timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN refresh_token bytea,
    ADD COLUMN ended_at      timestamptz;
CREATE INDEX upstream_users_asked ON upstream_users (asked_at) WHERE ended_at IS NULL;
CREATE INDEX upstream_users_confirmed ON upstream_users (issuer, confirmed_at) WHERE ended_at IS NULL;

-- +goose Down
DROP INDEX upstream_users_confirmed, upstream_users_asked;
ALTER TABLE upstream_users DROP COLUMN asked_at, DROP COLUMN refresh_token, DROP COLUMN ended_at;
