-- name: AddRevocation :exec
INSERT INTO revocations (kind, id, generation, until) VALUES ($1, $2, $3, $4)
ON CONFLICT (kind, id) DO UPDATE SET generation = greatest(revocations.generation, excluded.generation),
    until = greatest(revocations.until, excluded.until);

-- name: LiveRevocations :many
SELECT kind, id, generation, until FROM revocations WHERE until > now() ORDER BY kind, id;

-- name: PurgeRevocations :execrows
DELETE FROM revocations WHERE until < now() - interval '1 minute';
