-- name: CountKeys :one
SELECT count(*) FROM api_keys WHERE user_id = $1;

-- name: DeleteExpiredKeysOf :execrows
DELETE FROM api_keys WHERE user_id = $1 AND expires_at <= now();

-- name: AddKey :exec
INSERT INTO api_keys (id, user_id, key_value, name, created_at, expires_at, org_id) VALUES ($1, $2, $3, $4, $5, $6, $7);

-- name: ListKeys :many
SELECT id, name, created_at, expires_at, org_id, last_used_at FROM api_keys WHERE user_id = $1 ORDER BY created_at, id;

-- name: DeleteKey :one
DELETE FROM api_keys WHERE id = $1 AND user_id = $2 RETURNING key_value;

-- name: DeleteMemberKeys :many
DELETE FROM api_keys WHERE user_id = sqlc.arg(user_id) AND org_id = sqlc.arg(org_id)::uuid RETURNING id, key_value;

-- name: KeyByHash :one
-- A key and its owner as they are now; member says that they still belong to the key's organisation.
SELECT k.id, k.user_id, k.name, k.expires_at, k.org_id, k.last_used_at, u.generation, (u.disabled_at IS NOT NULL)::boolean AS disabled,
    (m.user_id IS NOT NULL)::boolean AS member, coalesce(m.team, '')::text AS team,
    ARRAY(SELECT r.name FROM user_roles ur JOIN roles r ON r.id = ur.role_id WHERE ur.user_id = k.user_id ORDER BY r.name COLLATE "C")::text[] AS roles
FROM api_keys k JOIN users u ON u.id = k.user_id LEFT JOIN org_members m ON m.org_id = k.org_id AND m.user_id = k.user_id
WHERE k.key_value = $1;

-- name: TouchKey :exec
-- At most once a minute, so that looking keys up writes next to nothing.
UPDATE api_keys SET last_used_at = now() WHERE id = $1 AND (last_used_at IS NULL OR last_used_at < now() - interval '1 minute');

-- name: PurgeKeys :execrows
DELETE FROM api_keys WHERE id IN (SELECT k.id FROM api_keys k WHERE k.expires_at < now() - interval '1 day' LIMIT 1000);
