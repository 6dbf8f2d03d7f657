-- name: AddInvitation :exec
INSERT INTO invitations (id, code_hash, email, org_id, role, team, created_by, created_at, expires_at)
VALUES (@id, @code_hash, @email, @org_id, @role, @team, @created_by, @created_at, @expires_at);

-- name: CountInvitations :one
SELECT count(*) FROM invitations WHERE used_at IS NULL AND expires_at > now();

-- name: Invitations :many
-- Those that may still be used, the newest first.
SELECT id, email, org_id, role, team, created_by, created_at, expires_at FROM invitations
WHERE used_at IS NULL AND expires_at > now() ORDER BY created_at DESC, id LIMIT @most;

-- name: DeleteInvitation :execrows
DELETE FROM invitations WHERE id = @id AND used_at IS NULL;

-- name: LockInvitation :one
SELECT * FROM invitations WHERE code_hash = @code_hash FOR UPDATE;

-- name: UseInvitation :exec
UPDATE invitations SET used_at = now(), used_by = @used_by WHERE id = @id;

-- name: PurgeInvitations :execrows
DELETE FROM invitations WHERE id IN (SELECT i.id FROM invitations i WHERE i.expires_at < now() LIMIT 1000);

-- name: SetOrgInvitation :exec
INSERT INTO org_invitations (org_id, user_id, role, team, invited_by, expires_at) VALUES (@org_id, @user_id, @role, @team, @invited_by, @expires_at)
ON CONFLICT (org_id, user_id) DO UPDATE SET role = excluded.role, team = excluded.team, invited_by = excluded.invited_by,
    created_at = now(), expires_at = excluded.expires_at;

-- name: CountOrgInvitations :one
SELECT count(*) FROM org_invitations WHERE org_id = @org_id AND expires_at > now();

-- name: OrgInvitations :many
SELECT i.user_id, u.username, i.role, i.team, i.created_at, i.expires_at FROM org_invitations i JOIN users u ON u.id = i.user_id
WHERE i.org_id = @org_id AND i.expires_at > now() ORDER BY i.created_at, i.user_id LIMIT 1000;

-- name: OrgInvitationsOf :many
SELECT i.org_id, o.name, i.role, i.team, coalesce(u.username, '')::text AS invited_by, i.created_at, i.expires_at
FROM org_invitations i JOIN orgs o ON o.id = i.org_id LEFT JOIN users u ON u.id = i.invited_by
WHERE i.user_id = @user_id AND i.expires_at > now() ORDER BY i.created_at, i.org_id LIMIT 1000;

-- name: TakeOrgInvitation :one
DELETE FROM org_invitations WHERE org_id = @org_id AND user_id = @user_id AND expires_at > now() RETURNING role, team;

-- name: DropOrgInvitation :execrows
DELETE FROM org_invitations WHERE org_id = @org_id AND user_id = @user_id;

-- name: PurgeOrgInvitations :execrows
DELETE FROM org_invitations WHERE (org_id, user_id) IN (SELECT i.org_id, i.user_id FROM org_invitations i WHERE i.expires_at < now() LIMIT 1000);
