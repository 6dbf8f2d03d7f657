-- name: AddUpstreamLogin :exec
INSERT INTO upstream_logins (state_hash, browser_hash, content, expires_at) VALUES (@state_hash, @browser_hash, @content, @expires_at);

-- name: TakeUpstreamLogin :one
-- Once, and for the browser that began it.
DELETE FROM upstream_logins WHERE state_hash = @state_hash AND browser_hash = @browser_hash RETURNING content;

-- name: PurgeUpstreamLogins :execrows
DELETE FROM upstream_logins WHERE expires_at < @before;

-- name: UpstreamUser :one
SELECT user_id, org_id, ended_at FROM upstream_users WHERE issuer = @issuer AND subject = @subject;

-- name: AddUpstreamUser :execrows
INSERT INTO upstream_users (issuer, subject, user_id) VALUES (@issuer, @subject, @user_id) ON CONFLICT (issuer, subject) DO NOTHING;

-- name: ConfirmUpstreamUser :exec
UPDATE upstream_users SET confirmed_at = now(), asked_at = now(), ended_at = NULL, org_id = @org_id, refresh_token = sqlc.narg(refresh_token)
WHERE user_id = @user_id;

-- name: TakeUpstreamUsers :many
-- About whom providers are to be asked, by one replica.
UPDATE upstream_users SET asked_at = @asked_at WHERE user_id IN (SELECT u.user_id FROM upstream_users u
    WHERE u.ended_at IS NULL AND u.refresh_token IS NOT NULL AND u.issuer = ANY(@issuers::text[]) AND u.asked_at < @before
        AND NOT EXISTS (SELECT 1 FROM users d WHERE d.id = u.user_id AND d.disabled_at IS NOT NULL)
    ORDER BY u.asked_at LIMIT @most FOR UPDATE SKIP LOCKED)
RETURNING issuer, user_id, refresh_token;

-- name: LapsedUpstreamUsers :many
-- Whom nobody has confirmed for too long: of one issuer, or of those that are configured no more.
SELECT l.user_id FROM upstream_users l JOIN users u ON u.id = l.user_id
WHERE l.ended_at IS NULL AND u.disabled_at IS NULL AND l.confirmed_at < @before
    AND (l.issuer = @issuer::text OR @issuer::text = '' AND l.issuer <> ALL(@known::text[])) LIMIT @most;

-- name: ReconfirmUpstreamUser :exec
-- Unless they have signed in meanwhile.
UPDATE upstream_users SET confirmed_at = now(), refresh_token = @next WHERE user_id = @user_id AND refresh_token = @asked;

-- name: EndUpstreamUser :execrows
-- Unless they have signed in meanwhile.
UPDATE upstream_users SET ended_at = now(), refresh_token = NULL
WHERE user_id = @user_id AND ended_at IS NULL AND (refresh_token = sqlc.narg(asked) OR sqlc.narg(asked)::bytea IS NULL AND confirmed_at < @before);

-- name: DecidedUpstreamUser :exec
-- An ADMIN has: what a provider said before counts no more.
UPDATE upstream_users SET ended_at = NULL, confirmed_at = now() WHERE user_id = @user_id;

-- name: UpstreamOrg :one
SELECT org_id FROM upstream_orgs WHERE issuer = @issuer AND name = @name;

-- name: AddUpstreamOrg :execrows
INSERT INTO upstream_orgs (issuer, name, org_id) VALUES (@issuer, @name, @org_id) ON CONFLICT (issuer, name) DO NOTHING;

-- name: ActsForUpstreamOrg :one
-- The organisation that somebody acts for because of how they sign in.
SELECT u.org_id::uuid AS org_id FROM upstream_users u JOIN org_members m ON m.org_id = u.org_id AND m.user_id = u.user_id
WHERE u.user_id = @user_id;
