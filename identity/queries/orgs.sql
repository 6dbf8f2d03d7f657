-- name: AddOrg :exec
INSERT INTO orgs (id, name, created_at) VALUES ($1, $2, $3);

-- name: CountOwned :one
SELECT count(*) FROM org_members WHERE user_id = $1 AND role = 'OWNER';

-- name: OrgsOf :many
SELECT o.id, o.name, o.created_at, m.role, m.team FROM orgs o JOIN org_members m ON m.org_id = o.id WHERE m.user_id = $1 ORDER BY o.name, o.id;

-- name: LockOrg :one
SELECT id FROM orgs WHERE id = $1 FOR NO KEY UPDATE;

-- name: OrgExists :one
SELECT EXISTS (SELECT 1 FROM orgs WHERE id = $1);

-- name: SetMember :exec
INSERT INTO org_members (org_id, user_id, role, team) VALUES ($1, $2, $3, $4)
ON CONFLICT (org_id, user_id) DO UPDATE SET role = excluded.role, team = excluded.team;

-- name: Members :many
SELECT m.user_id, u.username, m.role, m.team, m.joined_at FROM org_members m JOIN users u ON u.id = m.user_id
WHERE m.org_id = sqlc.arg(org_id) AND m.user_id > sqlc.arg(after) ORDER BY m.user_id LIMIT sqlc.arg(most);

-- name: CountOwners :one
-- An upstream provider that an organisation was made for stands for an owner: the next login makes one.
SELECT ((SELECT count(*) FROM org_members m WHERE m.org_id = $1 AND m.role = 'OWNER')
    + (SELECT count(*) FROM upstream_orgs u WHERE u.org_id = $1))::bigint AS owners;

-- name: CountMembers :one
SELECT count(*) FROM org_members WHERE org_id = $1;

-- name: DeleteMember :execrows
DELETE FROM org_members WHERE org_id = $1 AND user_id = $2;
