-- name: OAuthInsertClient :exec
INSERT INTO oauth_clients (id, name, secret_hash, redirect_uris, origins, grant_types, scopes, owner_id, org_id, resource_server, family)
VALUES (@id, @name, @secret_hash, @redirect_uris, @origins, @grant_types, @scopes, @owner_id, @org_id, @resource_server, @family);

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
