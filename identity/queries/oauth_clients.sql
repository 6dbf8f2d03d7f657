-- name: OAuthInsertClient :exec
INSERT INTO oauth_clients (id, name, secret_hash, redirect_uris, origins, grant_types, scopes, owner_id, org_id, resource_server, family, keys,
    id_token_claims, registered, used_at, fetched_at, logout_redirect_uris, logout_uri, dpop)
VALUES (@id, @name, @secret_hash, @redirect_uris, @origins, @grant_types, @scopes, @owner_id, @org_id, @resource_server, @family, @keys,
    @id_token_claims, @registered, @used_at, @fetched_at, @logout_redirect_uris, @logout_uri, @dpop);

-- name: OAuthEditClient :one
-- What tokens were given for is left alone.
UPDATE oauth_clients SET name = @name, redirect_uris = @redirect_uris, origins = @origins, grant_types = @grant_types, scopes = @scopes,
    keys = @keys, id_token_claims = @id_token_claims, logout_redirect_uris = @logout_redirect_uris, logout_uri = @logout_uri, dpop = @dpop,
    updated_at = now()
WHERE id = @id RETURNING *;

-- name: OAuthClientUsed :exec
-- Exact to an hour: it is written once in a while, not with each token.
UPDATE oauth_clients SET used_at = now() WHERE id = @id AND registered <> 'admin' AND (used_at IS NULL OR used_at < now() - interval '1 hour');

-- name: OAuthCountRegistered :one
SELECT count(*) FROM oauth_clients WHERE registered <> 'admin';

-- name: OAuthIdleClients :many
-- Clients that made themselves and that nobody has used for a while.
SELECT id FROM oauth_clients WHERE registered <> 'admin' AND used_at < @before ORDER BY used_at LIMIT 100;

-- name: OAuthPutDocument :one
-- What a client's document says now. Nobody but the document itself has this id.
INSERT INTO oauth_clients (id, name, redirect_uris, origins, grant_types, scopes, owner_id, family, registered, used_at, fetched_at)
VALUES (@id, @name, @redirect_uris, @origins, @grant_types, @scopes, @owner_id, @family, 'document', now(), now())
ON CONFLICT (id) DO UPDATE SET name = excluded.name, redirect_uris = excluded.redirect_uris, origins = excluded.origins,
    grant_types = excluded.grant_types, scopes = excluded.scopes, fetched_at = now(), updated_at = now()
    WHERE oauth_clients.registered = 'document'
RETURNING *;

-- name: OAuthUseAssertion :execrows
INSERT INTO oauth_assertions (hash, expires_at) VALUES (@hash, @expires_at) ON CONFLICT (hash) DO NOTHING;

-- name: OAuthPurgeAssertions :execrows
DELETE FROM oauth_assertions WHERE expires_at < @before;

-- name: OAuthKnownOrigin :one
-- Whether some client has a redirect URI at one of the origins.
SELECT EXISTS (SELECT 1 FROM oauth_clients WHERE origins && @origins::text[]);

-- name: OAuthClient :one
SELECT * FROM oauth_clients WHERE id = @id;

-- name: OAuthClients :many
SELECT * FROM oauth_clients WHERE id > @after ORDER BY id LIMIT @most;

-- name: OAuthSetSecret :one
UPDATE oauth_clients SET secret_hash = @secret_hash, family = @family, updated_at = now()
WHERE id = @id AND secret_hash IS NOT NULL
RETURNING *;

-- name: OAuthLockClient :one
SELECT * FROM oauth_clients WHERE id = @id FOR UPDATE;

-- name: OAuthDeleteClient :execrows
DELETE FROM oauth_clients WHERE id = @id;

-- A service account cannot log in: an empty hash matches no password.
-- name: OAuthInsertServiceAccount :exec
WITH account AS (
    INSERT INTO users (id, username, email, password_hash) VALUES (@id, @username, @email, '') RETURNING id
)
INSERT INTO user_roles (user_id, role_id) SELECT account.id, roles.id FROM account, roles WHERE roles.name = 'USER';

-- name: OAuthClientTurn :exec
-- Replicas that start together make the development client one after the other.
SELECT pg_advisory_xact_lock(hashtextextended('development client of ' || current_schema(), 0));

-- name: OAuthUserExists :one
SELECT EXISTS (SELECT 1 FROM users WHERE id = @id);

-- name: OAuthEnsureRegistrar :exec
-- Whom clients belong to that no administrator registered: it has no role, and no password matches.
INSERT INTO users (id, username, email, password_hash) VALUES (@id, @username, @email, '') ON CONFLICT (id) DO NOTHING;
