-- +goose Up
CREATE TABLE users (
    id            uuid PRIMARY KEY,
    username      varchar(50)  NOT NULL,
    email         varchar(100) NOT NULL,
    password_hash varchar(255) NOT NULL,
    created_at    timestamptz  NOT NULL DEFAULT now(),
    updated_at    timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT users_username_key UNIQUE (username)
);
-- One mailbox is one account, however its owner writes it.
CREATE UNIQUE INDEX users_email_key ON users (lower(email));

CREATE TABLE roles (
    id          uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name        varchar(50)  NOT NULL UNIQUE,
    description varchar(255) NOT NULL DEFAULT ''
);
INSERT INTO roles (id, name, description) VALUES
    ('11111111-1111-1111-1111-111111111111', 'USER', 'May call providers and see her own usage'),
    ('22222222-2222-2222-2222-222222222222', 'ADMIN', 'May do everything for everybody');

CREATE TABLE user_roles (
    user_id uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    role_id uuid NOT NULL REFERENCES roles (id),
    PRIMARY KEY (user_id, role_id)
);
CREATE INDEX user_roles_role ON user_roles (role_id);

-- key_value is the SHA-256 of the key in hex; the key itself is nowhere.
CREATE TABLE api_keys (
    id         uuid PRIMARY KEY,
    user_id    uuid         NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    key_value  varchar(255) NOT NULL UNIQUE,
    name       varchar(100),
    created_at timestamptz  NOT NULL DEFAULT now(),
    expires_at timestamptz
);
CREATE INDEX api_keys_user ON api_keys (user_id, created_at);

-- private_key is sealed with AES-256-GCM; the id is the additional data.
-- A key is published until retire_at, so that what it signed outlives its reign.
CREATE TABLE signing_keys (
    kid         varchar(64) PRIMARY KEY,
    public_key  bytea       NOT NULL,
    private_key bytea       NOT NULL,
    active      boolean     NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    retire_at   timestamptz
);
CREATE UNIQUE INDEX signing_keys_one_active ON signing_keys (active) WHERE active;

-- +goose Down
DROP TABLE signing_keys, api_keys, user_roles, roles, users;
