-- name: AddUpstreamLogin :exec
INSERT INTO upstream_logins (state_hash, browser_hash, content, expires_at) VALUES (@state_hash, @browser_hash, @content, @expires_at);

-- name: TakeUpstreamLogin :one
-- Once, and for the browser that began it.
DELETE FROM upstream_logins WHERE state_hash = @state_hash AND browser_hash = @browser_hash RETURNING content;

-- name: PurgeUpstreamLogins :execrows
DELETE FROM upstream_logins WHERE expires_at < @before;

-- name: UpstreamUser :one
SELECT user_id, org_id FROM upstream_users WHERE issuer = @issuer AND subject = @subject;

-- name: AddUpstreamUser :execrows
INSERT INTO upstream_users (issuer, subject, user_id) VALUES (@issuer, @subject, @user_id) ON CONFLICT (issuer, subject) DO NOTHING;

-- name: ConfirmUpstreamUser :exec
UPDATE upstream_users SET confirmed_at = now(), org_id = @org_id WHERE user_id = @user_id;

-- name: UpstreamOrg :one
SELECT org_id FROM upstream_orgs WHERE issuer = @issuer AND name = @name;

-- name: AddUpstreamOrg :execrows
INSERT INTO upstream_orgs (issuer, name, org_id) VALUES (@issuer, @name, @org_id) ON CONFLICT (issuer, name) DO NOTHING;

-- name: ActsForUpstreamOrg :one
-- The organisation that somebody acts for because of how they sign in.
SELECT u.org_id::uuid AS org_id FROM upstream_users u JOIN org_members m ON m.org_id = u.org_id AND m.user_id = u.user_id
WHERE u.user_id = @user_id;
