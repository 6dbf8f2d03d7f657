-- name: AddRoles :exec
INSERT INTO roles (name, description) SELECT unnest(sqlc.arg(names)::text[]), 'Tier' ON CONFLICT (name) DO NOTHING;

-- name: Taken :one
SELECT EXISTS (SELECT 1 FROM users n WHERE name_skeleton(n.username) = name_skeleton(sqlc.arg(username)::text)) AS by_name, EXISTS (SELECT 1 FROM users e WHERE lower(e.email) = lower(sqlc.arg(email)::text)) AS by_email;

-- name: AddUser :exec
INSERT INTO users (id, username, email, password_hash, created_at, updated_at) VALUES ($1, $2, $3, $4, $5, $5);

-- name: AddUserRoles :execrows
INSERT INTO user_roles (user_id, role_id) SELECT sqlc.arg(user_id), id FROM roles WHERE name = ANY(sqlc.arg(names)::text[]);

-- name: DeleteUserRoles :exec
DELETE FROM user_roles WHERE user_id = $1;

-- name: UserByName :one
SELECT u.id, u.username, u.email, u.password_hash, u.created_at, u.generation, u.disabled_at,
    ARRAY(SELECT r.name FROM user_roles ur JOIN roles r ON r.id = ur.role_id WHERE ur.user_id = u.id ORDER BY r.name COLLATE "C")::text[] AS roles
FROM users u WHERE u.username = $1;

-- name: UserByID :one
SELECT u.id, u.username, u.email, u.password_hash, u.created_at, u.generation, u.disabled_at,
    ARRAY(SELECT r.name FROM user_roles ur JOIN roles r ON r.id = ur.role_id WHERE ur.user_id = u.id ORDER BY r.name COLLATE "C")::text[] AS roles
FROM users u WHERE u.id = $1;

-- name: ListUsers :many
-- By name, those after the given one. An empty filter lets everybody through.
SELECT u.id, u.username, u.email, u.password_hash, u.created_at, u.generation, u.disabled_at,
    ARRAY(SELECT r.name FROM user_roles ur JOIN roles r ON r.id = ur.role_id WHERE ur.user_id = u.id ORDER BY r.name COLLATE "C")::text[] AS roles
FROM users u WHERE u.username > sqlc.arg(after)::text
    AND (sqlc.arg(part)::text = '' OR strpos(lower(u.username), lower(sqlc.arg(part)::text)) > 0 OR strpos(lower(u.email), lower(sqlc.arg(part)::text)) > 0)
    AND (sqlc.arg(role)::text = '' OR EXISTS (SELECT 1 FROM user_roles ur JOIN roles r ON r.id = ur.role_id WHERE ur.user_id = u.id AND r.name = sqlc.arg(role)::text))
    AND (sqlc.narg(disabled)::boolean IS NULL OR (u.disabled_at IS NOT NULL) = sqlc.narg(disabled)::boolean)
ORDER BY u.username LIMIT sqlc.arg(most);

-- name: LockAdmins :exec
-- Changes of administrators wait for each other, so that two of them cannot strip one another and leave none.
SELECT 1 FROM roles WHERE name = 'ADMIN' FOR NO KEY UPDATE;

-- name: AnyAdmin :one
SELECT EXISTS (SELECT 1 FROM user_roles ur JOIN roles r ON r.id = ur.role_id JOIN users u ON u.id = ur.user_id
    WHERE r.name = 'ADMIN' AND u.disabled_at IS NULL);

-- name: LockUser :one
SELECT id FROM users WHERE id = $1 FOR NO KEY UPDATE;

-- name: NextGeneration :one
-- What was issued to their before no longer counts.
UPDATE users SET generation = generation + 1, updated_at = now() WHERE id = $1 RETURNING generation;

-- name: SetDisabled :one
UPDATE users SET disabled_at = CASE WHEN sqlc.arg(disabled)::boolean THEN coalesce(disabled_at, now()) END, generation = generation + 1, updated_at = now()
WHERE id = $1 RETURNING generation;

-- name: SetPassword :execrows
-- Only if it is still the one that was checked.
UPDATE users SET password_hash = sqlc.arg(fresh), updated_at = now() WHERE id = sqlc.arg(id) AND password_hash = sqlc.arg(checked);
