-- +goose Up
-- A client that describes itself by a document has the document's URL for an id.
ALTER TABLE oauth_clients ALTER COLUMN id TYPE varchar(500);
ALTER TABLE oauth_codes ALTER COLUMN client_id TYPE varchar(500);
ALTER TABLE oauth_devices ALTER COLUMN client_id TYPE varchar(500);
ALTER TABLE token_families ALTER COLUMN client_id TYPE varchar(500);
ALTER TABLE audit_log ALTER COLUMN client TYPE varchar(500);

-- keys is the JWK set by which a client proves who it is, instead of a secret. registered says who
-- made it: an administrator ('admin'), itself ('open') or its document ('document'); the last two are
-- removed once nobody has used them for a while. A document is read anew after fetched_at.
ALTER TABLE oauth_clients
    ADD COLUMN keys            text         NOT NULL DEFAULT '',
    ADD COLUMN id_token_claims boolean      NOT NULL DEFAULT false,
    ADD COLUMN registered      varchar(10)  NOT NULL DEFAULT 'admin' CHECK (registered IN ('admin', 'open', 'document')),
    ADD COLUMN used_at         timestamptz,
    ADD COLUMN fetched_at      timestamptz;
CREATE INDEX oauth_clients_registered ON oauth_clients (registered, used_at) WHERE registered <> 'admin';

-- Assertions that were used, so that none is used twice.
CREATE TABLE oauth_assertions (
    hash       bytea       PRIMARY KEY,
    expires_at timestamptz NOT NULL
);
CREATE INDEX oauth_assertions_expiry ON oauth_assertions (expires_at);

-- +goose Down
DROP TABLE oauth_assertions;
DROP INDEX oauth_clients_registered;
ALTER TABLE oauth_clients DROP COLUMN keys, DROP COLUMN id_token_claims, DROP COLUMN registered, DROP COLUMN used_at, DROP COLUMN fetched_at;
DELETE FROM oauth_clients WHERE length(id) > 64;
ALTER TABLE token_families ALTER COLUMN client_id TYPE varchar(100) USING left(client_id, 100);
ALTER TABLE oauth_devices ALTER COLUMN client_id TYPE varchar(64);
ALTER TABLE oauth_codes ALTER COLUMN client_id TYPE varchar(64);
ALTER TABLE oauth_clients ALTER COLUMN id TYPE varchar(64);
