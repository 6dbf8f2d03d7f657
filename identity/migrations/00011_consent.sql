-- +goose Up
-- What a name looks like: two names with one skeleton are taken for each other (Unicode TS 39,
-- section 4, as far as the characters that names may have). Capital I, l and 1 look alike, 0 and
-- O do, and so do rn and m, vv and w.
-- +goose StatementBegin
CREATE FUNCTION name_skeleton(name text) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT replace(replace(translate(lower(normalize(name, NFKC)), '01i|', 'olll'), 'rn', 'm'), 'vv', 'w')
$$;
-- +goose StatementEnd

-- Accounts that were there before and look like an older one keep working under their own name;
-- the oldest stands for all of them against new ones.
ALTER TABLE users ADD COLUMN lookalike boolean NOT NULL DEFAULT false;
UPDATE users SET lookalike = true WHERE id IN (
    SELECT id FROM (SELECT id, row_number() OVER (PARTITION BY name_skeleton(username) ORDER BY created_at, id) AS nth FROM users) ranked
    WHERE nth > 1);
CREATE UNIQUE INDEX users_skeleton_key ON users (name_skeleton(username)) WHERE NOT lookalike;

-- Who may register while auth.registration is invite. code_hash is the SHA-256 of the code.
CREATE TABLE invitations (
    id         uuid         PRIMARY KEY,
    code_hash  bytea        NOT NULL UNIQUE,
    email      varchar(100) NOT NULL DEFAULT '',
    org_id     uuid REFERENCES orgs (id) ON DELETE CASCADE,
    role       varchar(10)  NOT NULL DEFAULT 'MEMBER' CHECK (role IN ('OWNER', 'MEMBER')),
    team       varchar(50)  NOT NULL DEFAULT '',
    created_by uuid         NOT NULL,
    created_at timestamptz  NOT NULL DEFAULT now(),
    expires_at timestamptz  NOT NULL,
    used_at    timestamptz,
    used_by    uuid
);
CREATE INDEX invitations_expiry ON invitations (expires_at);

-- A membership that its user has not accepted yet.
CREATE TABLE org_invitations (
    org_id     uuid        NOT NULL REFERENCES orgs (id) ON DELETE CASCADE,
    user_id    uuid        NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    role       varchar(10) NOT NULL CHECK (role IN ('OWNER', 'MEMBER')),
    team       varchar(50) NOT NULL DEFAULT '',
    invited_by uuid        NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (org_id, user_id)
);
CREATE INDEX org_invitations_user ON org_invitations (user_id);
CREATE INDEX org_invitations_expiry ON org_invitations (expires_at);

-- What the one use of a refresh token gave, sealed by a key that only the token itself yields. It
-- stays for as long as a repeat gets the same answer.
ALTER TABLE refresh_tokens ADD COLUMN answer bytea;
CREATE INDEX refresh_tokens_answer ON refresh_tokens (used_at) WHERE answer IS NOT NULL;

-- +goose Down
DROP INDEX refresh_tokens_answer;
ALTER TABLE refresh_tokens DROP COLUMN answer;
DROP TABLE org_invitations, invitations;
DROP INDEX users_skeleton_key;
ALTER TABLE users DROP COLUMN lookalike;
DROP FUNCTION name_skeleton;
