-- name: OAuthTakeLogouts :many
-- What is due, to be tried again later if nobody says that it was heard: two seconds, then twice as long each time.
UPDATE oauth_logouts SET attempts = attempts + 1, next_at = now() + make_interval(secs => 2 ^ (attempts + 1))
WHERE id IN (SELECT l.id FROM oauth_logouts l WHERE l.next_at <= now() ORDER BY l.next_at LIMIT @most FOR UPDATE SKIP LOCKED)
RETURNING *;

-- name: OAuthDropLogout :exec
DELETE FROM oauth_logouts WHERE id = @id;

-- name: OAuthPurgeLogouts :execrows
DELETE FROM oauth_logouts WHERE created_at < @before;
