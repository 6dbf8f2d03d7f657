-- name: OAuthPerson :one
-- Whom a token speaks of, as they are now.
SELECT u.id, u.username, u.email, u.generation, (u.disabled_at IS NOT NULL)::bool AS disabled,
    ARRAY(SELECT r.name FROM user_roles ur JOIN roles r ON r.id = ur.role_id WHERE ur.user_id = u.id ORDER BY r.name COLLATE "C")::text[] AS roles
FROM users u WHERE u.id = @id;

-- name: OAuthRevoked :one
-- Whether an access token, or the login or grant that it came from, was revoked.
SELECT (EXISTS (SELECT 1 FROM revocations WHERE kind = 'token' AND id = @jti::text)
    OR EXISTS (SELECT 1 FROM revocations WHERE kind = 'family' AND id = @sid::text))::bool AS revoked;

-- name: OAuthRefreshToken :one
SELECT f.*, t.used_at, t.created_at AS issued_at, t.expires_at AS ends_at
FROM refresh_tokens t JOIN token_families f ON f.id = t.family_id WHERE t.hash = @hash;

-- name: OAuthIsMember :one
SELECT EXISTS (SELECT 1 FROM org_members WHERE org_id = @org_id AND user_id = @user_id);
