-- name: AddFamily :exec
INSERT INTO token_families (id, user_id, client_id, scope, org_id, auth_time, expires_at, resources, jkt)
VALUES ($1, $2, $3, $4, $5, $6, $7, sqlc.arg(resources)::text[], sqlc.arg(jkt));

-- name: GrantsOfUser :many
-- What a user granted to applications and what still gives them tokens, by application. A family without
-- offline_access gave none that outlives its access token.
SELECT f.client_id, coalesce(c.name, '')::text AS name, string_agg(DISTINCT f.scope, ' ')::text AS scope,
    coalesce(string_agg(DISTINCT nullif(array_to_string(f.resources, ' '), ''), ' '), '')::text AS resources,
    array_remove(array_agg(DISTINCT f.org_id), NULL)::uuid[] AS orgs, min(f.created_at)::timestamptz AS first_at,
    max(f.created_at)::timestamptz AS last_at, max(f.expires_at)::timestamptz AS expires_at
FROM token_families f LEFT JOIN oauth_clients c ON c.id = f.client_id
WHERE f.user_id = sqlc.arg(user_id) AND f.client_id <> sqlc.arg(first_party) AND f.revoked_at IS NULL AND f.expires_at > now()
    AND (f.scope ~ '(^| )offline_access( |$)' OR f.created_at > now() - make_interval(secs => sqlc.arg(token_life)::float8))
GROUP BY f.client_id, c.name ORDER BY max(f.created_at) DESC, f.client_id LIMIT 1000;

-- name: AddRefreshToken :exec
INSERT INTO refresh_tokens (hash, family_id, expires_at) VALUES ($1, $2, $3);

-- name: RefreshToken :one
SELECT t.family_id, t.used_at, f.revoked_at, f.client_id FROM refresh_tokens t JOIN token_families f ON f.id = t.family_id WHERE t.hash = $1;

-- name: LockFamily :one
-- The row lock makes rotations of one family wait for each other.
SELECT * FROM token_families WHERE id = $1 FOR UPDATE;

-- name: RefreshTokenState :one
SELECT used_at, expires_at, answer, coalesce(used_at > now() - make_interval(secs => sqlc.arg(grace)::float8), false)::boolean AS recent
FROM refresh_tokens WHERE hash = sqlc.arg(hash);

-- name: UseRefreshToken :exec
UPDATE refresh_tokens SET used_at = now(), answer = sqlc.arg(answer) WHERE hash = sqlc.arg(hash);

-- name: DropAnswers :execrows
-- Of refresh tokens whose repeat gets no answer any longer.
UPDATE refresh_tokens SET answer = NULL WHERE hash IN (SELECT t.hash FROM refresh_tokens t
    WHERE t.answer IS NOT NULL AND t.used_at < now() - make_interval(secs => sqlc.arg(grace)::float8) LIMIT 1000);

-- name: EndFamily :execrows
UPDATE token_families SET revoked_at = now(), reason = $2 WHERE id = $1 AND revoked_at IS NULL;

-- name: EndFamiliesOfUser :many
UPDATE token_families SET revoked_at = now(), reason = sqlc.arg(reason)
WHERE user_id = sqlc.arg(user_id) AND revoked_at IS NULL AND expires_at > now() AND id <> sqlc.arg(kept) RETURNING id;

-- name: EndFamiliesOfMember :many
UPDATE token_families SET revoked_at = now(), reason = sqlc.arg(reason)
WHERE user_id = sqlc.arg(user_id) AND org_id = sqlc.arg(org_id)::uuid AND revoked_at IS NULL AND expires_at > now() RETURNING id;

-- name: EndGrantsOfUser :many
UPDATE token_families SET revoked_at = now(), reason = sqlc.arg(reason)
WHERE user_id = sqlc.arg(user_id) AND client_id = sqlc.arg(client_id) AND revoked_at IS NULL AND expires_at > now() RETURNING id;

-- name: EndFamiliesOfClient :many
UPDATE token_families SET revoked_at = now(), reason = sqlc.arg(reason)
WHERE client_id = sqlc.arg(client_id) AND revoked_at IS NULL AND expires_at > now() RETURNING id;

-- name: FamilyLives :one
SELECT EXISTS (SELECT 1 FROM token_families WHERE id = $1 AND revoked_at IS NULL AND expires_at > now());

-- name: PurgeFamilies :execrows
-- A family's end is remembered for a while, so that late reuse is still told as such.
DELETE FROM token_families WHERE id IN (SELECT f.id FROM token_families f WHERE f.expires_at < now() - interval '7 days' LIMIT 1000);

-- name: Holder :one
-- Whom a token would be issued to, as they are now.
SELECT u.username, u.generation, (u.disabled_at IS NOT NULL)::boolean AS disabled,
    ARRAY(SELECT r.name FROM user_roles ur JOIN roles r ON r.id = ur.role_id WHERE ur.user_id = u.id ORDER BY r.name COLLATE "C")::text[] AS roles
FROM users u WHERE u.id = $1;

-- name: Membership :one
SELECT role, team FROM org_members WHERE org_id = $1 AND user_id = $2;
