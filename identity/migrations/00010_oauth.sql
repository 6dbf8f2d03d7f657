-- +goose Up
-- secret_hash is the SHA-256 of the secret (256 random bits); none: a public client.
-- owner_id is whom client_credentials acts for. family is the sid of the tokens that it
-- gets by client_credentials, so that all of them can be revoked at once.
CREATE TABLE oauth_clients (
    id              varchar(64)  PRIMARY KEY,
    name            varchar(100) NOT NULL,
    secret_hash     bytea,
    redirect_uris   text[]       NOT NULL DEFAULT '{}',
    grant_types     text[]       NOT NULL,
    scopes          text[]       NOT NULL,
    owner_id        uuid         NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    org_id          uuid REFERENCES orgs (id) ON DELETE CASCADE,
    resource_server boolean      NOT NULL DEFAULT false,
    family          uuid         NOT NULL,
    created_at      timestamptz  NOT NULL DEFAULT now(),
    updated_at      timestamptz  NOT NULL DEFAULT now()
);
CREATE INDEX oauth_clients_owner ON oauth_clients (owner_id);

-- A used code is kept until its tokens may have expired: using it again revokes the
-- family it gave (RFC 6749 section 10.5).
CREATE TABLE oauth_codes (
    code_hash    bytea        PRIMARY KEY,
    client_id    varchar(64)  NOT NULL REFERENCES oauth_clients (id) ON DELETE CASCADE,
    user_id      uuid         NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    redirect_uri text         NOT NULL,
    challenge    varchar(43)  NOT NULL,
    scope        text         NOT NULL,
    nonce        varchar(255) NOT NULL DEFAULT '',
    auth_time    timestamptz  NOT NULL,
    expires_at   timestamptz  NOT NULL,
    used_at      timestamptz,
    family       uuid
);
CREATE INDEX oauth_codes_expiry ON oauth_codes (expires_at);

CREATE TABLE oauth_devices (
    device_hash   bytea       PRIMARY KEY,
    user_hash     bytea       NOT NULL UNIQUE,
    client_id     varchar(64) NOT NULL REFERENCES oauth_clients (id) ON DELETE CASCADE,
    scope         text        NOT NULL,
    state         varchar(8)  NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'approved', 'denied', 'used')),
    user_id       uuid        REFERENCES users (id) ON DELETE CASCADE,
    auth_time     timestamptz,
    poll_interval integer     NOT NULL,
    polled_at     timestamptz,
    expires_at    timestamptz NOT NULL,
    CHECK (state IN ('pending', 'denied') OR (user_id IS NOT NULL AND auth_time IS NOT NULL))
);
CREATE INDEX oauth_devices_expiry ON oauth_devices (expires_at);

-- +goose Down
DROP TABLE oauth_devices, oauth_codes, oauth_clients;
