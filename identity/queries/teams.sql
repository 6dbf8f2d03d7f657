-- name: Teams :many
SELECT t.name, t.created_at, (SELECT count(*) FROM org_members m WHERE m.org_id = t.org_id AND m.team = t.name) AS members
FROM teams t WHERE t.org_id = $1 ORDER BY t.name;

-- name: TeamNames :many
SELECT name FROM teams WHERE org_id = $1 ORDER BY name;

-- name: AddTeam :execrows
INSERT INTO teams (org_id, name) VALUES ($1, $2) ON CONFLICT DO NOTHING;

-- name: DeleteTeam :execrows
DELETE FROM teams WHERE org_id = $1 AND name = $2;

-- name: TeamInUse :one
SELECT (EXISTS (SELECT 1 FROM org_members m WHERE m.org_id = sqlc.arg(org_id)::uuid AND m.team = sqlc.arg(team)::text)
    OR EXISTS (SELECT 1 FROM org_invitations i WHERE i.org_id = sqlc.arg(org_id)::uuid AND i.team = sqlc.arg(team)::text AND i.expires_at > now())
    OR EXISTS (SELECT 1 FROM invitations v WHERE v.org_id = sqlc.arg(org_id)::uuid AND v.team = sqlc.arg(team)::text AND v.expires_at > now()))::boolean AS used;

-- name: RenameOrg :execrows
UPDATE orgs SET name = $2 WHERE id = $1;

-- name: UserIDByName :one
SELECT id FROM users WHERE username = $1;

-- name: UserIDByEmail :one
SELECT id FROM users WHERE lower(email) = lower(sqlc.arg(email)::text);

-- name: AllOrgs :many
SELECT o.id, o.name, o.created_at, (SELECT count(*) FROM org_members m WHERE m.org_id = o.id) AS members
FROM orgs o WHERE o.id > sqlc.arg(after) ORDER BY o.id LIMIT sqlc.arg(most);
