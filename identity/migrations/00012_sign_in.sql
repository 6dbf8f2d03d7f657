-- +goose Up
-- origins are those of the redirect URIs, as browsers write them: the web pages that may read what
-- the token endpoint answers. Those of 127.0.0.1 and [::1] stand without a port, as any will do.
ALTER TABLE oauth_clients ADD COLUMN origins text[] NOT NULL DEFAULT '{}';
UPDATE oauth_clients SET origins = ARRAY(
    SELECT DISTINCT regexp_replace(regexp_replace(regexp_replace(lower(substring(uri FROM '^(https?://(\[[^]]*\]|[^/?#:]+)(:[0-9]+)?)')),
        '^(https://.*):443$', '\1'), '^(http://.*):80$', '\1'), '^(http://(127\.[0-9.]+|\[[^]]*\])):[0-9]+$', '\1')
    FROM unnest(redirect_uris) AS uri WHERE uri ~ '^https?://');
CREATE INDEX oauth_clients_origins ON oauth_clients USING gin (origins);

-- resources are where the tokens of a grant may be used beside here (RFC 8707).
ALTER TABLE oauth_codes ADD COLUMN resources text[] NOT NULL DEFAULT '{}';
ALTER TABLE oauth_devices ADD COLUMN resources text[] NOT NULL DEFAULT '{}';
ALTER TABLE token_families ADD COLUMN resources text[] NOT NULL DEFAULT '{}';

-- A user's grants are listed and ended by client.
CREATE INDEX token_families_grants ON token_families (user_id, client_id) WHERE revoked_at IS NULL;

-- A withdrawn key signs nothing more, and nothing that it signed counts any longer.
ALTER TABLE signing_keys ADD COLUMN withdrawn_at timestamptz;

-- +goose Down
ALTER TABLE signing_keys DROP COLUMN withdrawn_at;
DROP INDEX token_families_grants;
ALTER TABLE token_families DROP COLUMN resources;
ALTER TABLE oauth_devices DROP COLUMN resources;
ALTER TABLE oauth_codes DROP COLUMN resources;
DROP INDEX oauth_clients_origins;
ALTER TABLE oauth_clients DROP COLUMN origins;
