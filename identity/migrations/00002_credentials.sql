-- +goose Up
-- generation grows when what was issued to a user before must not count any longer; every
-- access token carries the one it was issued under.
ALTER TABLE users
    ADD COLUMN generation  bigint NOT NULL DEFAULT 1 CHECK (generation > 0),
    ADD COLUMN disabled_at timestamptz;

CREATE TABLE orgs (
    id         uuid PRIMARY KEY,
    name       varchar(100) NOT NULL,
    created_at timestamptz  NOT NULL DEFAULT now()
);

CREATE TABLE org_members (
    org_id    uuid        NOT NULL REFERENCES orgs (id) ON DELETE CASCADE,
    user_id   uuid        NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    role      varchar(10) NOT NULL CHECK (role IN ('OWNER', 'MEMBER')),
    team      varchar(50) NOT NULL DEFAULT '',
    joined_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (org_id, user_id)
);
CREATE INDEX org_members_user ON org_members (user_id);

-- A key with an organisation acts for it, as long as its owner is a member.
ALTER TABLE api_keys
    ADD COLUMN org_id       uuid REFERENCES orgs (id) ON DELETE CASCADE,
    ADD COLUMN last_used_at timestamptz;
CREATE INDEX api_keys_expiry ON api_keys (expires_at) WHERE expires_at IS NOT NULL;

-- A family is one login, or one grant to a client, and all the tokens that came from it.
CREATE TABLE token_families (
    id         uuid PRIMARY KEY,
    user_id    uuid         NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    client_id  varchar(100) NOT NULL,
    scope      varchar(500) NOT NULL DEFAULT '',
    org_id     uuid REFERENCES orgs (id) ON DELETE CASCADE,
    auth_time  timestamptz  NOT NULL,
    created_at timestamptz  NOT NULL DEFAULT now(),
    expires_at timestamptz  NOT NULL,
    revoked_at timestamptz,
    reason     varchar(50)  NOT NULL DEFAULT ''
);
CREATE INDEX token_families_user ON token_families (user_id);
CREATE INDEX token_families_expiry ON token_families (expires_at);

-- hash is the SHA-256 of the token. A used one stays, so that its reuse is noticed.
CREATE TABLE refresh_tokens (
    hash       bytea PRIMARY KEY,
    family_id  uuid        NOT NULL REFERENCES token_families (id) ON DELETE CASCADE,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    used_at    timestamptz
);
CREATE INDEX refresh_tokens_family ON refresh_tokens (family_id);

-- What was revoked before its time and may still be around somewhere.
CREATE TABLE revocations (
    kind        varchar(10)  NOT NULL,
    id          varchar(100) NOT NULL,
    generation  bigint       NOT NULL DEFAULT 0,
    until       timestamptz  NOT NULL,
    created_at  timestamptz  NOT NULL DEFAULT now(),
    PRIMARY KEY (kind, id)
);
CREATE INDEX revocations_until ON revocations (until);

-- Who did what to which credential. Rows are only ever added.
CREATE TABLE audit_log (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at         timestamptz  NOT NULL DEFAULT clock_timestamp(),
    actor      varchar(100) NOT NULL,
    client     varchar(100) NOT NULL DEFAULT '',
    ip         varchar(45)  NOT NULL DEFAULT '',
    user_agent varchar(200) NOT NULL DEFAULT '',
    action     varchar(50)  NOT NULL,
    target     varchar(200) NOT NULL DEFAULT '',
    outcome    varchar(20)  NOT NULL,
    detail     jsonb        NOT NULL DEFAULT '{}'
);
CREATE INDEX audit_log_actor ON audit_log (actor, id);
CREATE INDEX audit_log_target ON audit_log (target, id);
CREATE INDEX audit_log_action ON audit_log (action, id);
CREATE INDEX audit_log_at ON audit_log (at);

-- +goose StatementBegin
CREATE FUNCTION audit_log_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit log is append-only' USING ERRCODE = 'insufficient_privilege';
END
$$;
-- +goose StatementEnd
CREATE TRIGGER audit_log_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION audit_log_is_append_only();

-- +goose Down
DROP TABLE audit_log, revocations, refresh_tokens, token_families;
DROP FUNCTION audit_log_is_append_only;
ALTER TABLE api_keys DROP COLUMN org_id, DROP COLUMN last_used_at;
DROP TABLE org_members, orgs;
ALTER TABLE users DROP COLUMN generation, DROP COLUMN disabled_at;
