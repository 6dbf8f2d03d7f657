-- name: AddAudit :exec
INSERT INTO audit_log (actor, client, ip, user_agent, action, target, outcome, detail)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8);

-- name: ListAudit :many
-- Newest first, those before the cursor (0: from the newest).
SELECT * FROM audit_log
WHERE (sqlc.arg(before)::bigint = 0 OR id < sqlc.arg(before)::bigint)
    AND (sqlc.arg(actor)::text = '' OR actor = sqlc.arg(actor)::text)
    AND (sqlc.arg(action)::text = '' OR action = sqlc.arg(action)::text)
    AND (sqlc.arg(target)::text = '' OR target = sqlc.arg(target)::text)
    AND (sqlc.narg(since)::timestamptz IS NULL OR at >= sqlc.narg(since)::timestamptz)
    AND (sqlc.narg(until)::timestamptz IS NULL OR at < sqlc.narg(until)::timestamptz)
ORDER BY id DESC LIMIT sqlc.arg(most);
