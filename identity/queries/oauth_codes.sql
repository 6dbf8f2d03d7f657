-- name: OAuthInsertCode :exec
INSERT INTO oauth_codes (code_hash, client_id, user_id, redirect_uri, challenge, scope, nonce, auth_time, expires_at, resources, jkt)
VALUES (@code_hash, @client_id, @user_id, @redirect_uri, @challenge, @scope, @nonce, @auth_time, @expires_at, @resources, @jkt);

-- name: OAuthLockCode :one
SELECT * FROM oauth_codes WHERE code_hash = @code_hash FOR UPDATE;

-- name: OAuthUseCode :exec
-- Without a family it was burnt: presented by the wrong client or with a wrong proof.
UPDATE oauth_codes SET used_at = now(), family = @family WHERE code_hash = @code_hash;

-- name: OAuthPurgeCodes :execrows
DELETE FROM oauth_codes WHERE expires_at < @before;
