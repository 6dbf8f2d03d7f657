-- name: OAuthInsertDevice :exec
INSERT INTO oauth_devices (device_hash, user_hash, client_id, scope, poll_interval, expires_at, resources)
VALUES (@device_hash, @user_hash, @client_id, @scope, @poll_interval, @expires_at, @resources);

-- name: OAuthDeviceByUserCode :one
SELECT * FROM oauth_devices WHERE user_hash = @user_hash AND state = 'pending' AND expires_at > now();

-- name: OAuthLockDevice :one
SELECT * FROM oauth_devices WHERE device_hash = @device_hash FOR UPDATE;

-- name: OAuthPolledDevice :exec
UPDATE oauth_devices SET polled_at = @polled_at, poll_interval = @poll_interval WHERE device_hash = @device_hash;

-- name: OAuthDecideDevice :execrows
UPDATE oauth_devices SET state = @state, user_id = @user_id, auth_time = @auth_time, scope = @scope
WHERE device_hash = @device_hash AND state = 'pending' AND expires_at > now();

-- name: OAuthUseDevice :exec
UPDATE oauth_devices SET state = 'used' WHERE device_hash = @device_hash;

-- name: OAuthPurgeDevices :execrows
DELETE FROM oauth_devices WHERE expires_at < @before;
