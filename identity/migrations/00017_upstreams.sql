-- +goose Up
-- Who signs in by another provider. Its issuer and their subject there are who they are (OpenID Connect
-- Core, 5.7); nothing else that it says is. confirmed_at is when it last let them in. org_id is the
-- organisation that they are in because of it.
CREATE TABLE upstream_users (
    issuer       varchar(500) NOT NULL,
    subject      varchar(255) NOT NULL,
    user_id      uuid         NOT NULL UNIQUE REFERENCES users (id) ON DELETE CASCADE,
    org_id       uuid         REFERENCES orgs (id) ON DELETE SET NULL,
    created_at   timestamptz  NOT NULL DEFAULT now(),
    confirmed_at timestamptz  NOT NULL DEFAULT now(),
    PRIMARY KEY (issuer, subject)
);

-- The organisation of a provider's people, which was made for them. One of the same name that somebody
-- else made is another.
CREATE TABLE upstream_orgs (
    issuer varchar(500) NOT NULL,
    name   varchar(100) NOT NULL,
    org_id uuid         NOT NULL UNIQUE REFERENCES orgs (id) ON DELETE CASCADE,
    PRIMARY KEY (issuer, name)
);

-- Logins that are under way at another provider. A row is deleted by its one use; browser_hash is that of
-- a cookie, without which nobody may use it. content is sealed.
CREATE TABLE upstream_logins (
    state_hash   bytea       PRIMARY KEY,
    browser_hash bytea       NOT NULL,
    content      text        NOT NULL,
    expires_at   timestamptz NOT NULL
);
CREATE INDEX upstream_logins_expiry ON upstream_logins (expires_at);

-- +goose Down
DROP TABLE upstream_logins, upstream_orgs, upstream_users;
