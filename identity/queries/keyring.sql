-- name: LockIdentity :exec
-- Until the transaction ends no other replica is past this.
SELECT pg_advisory_xact_lock(hashtextextended('identity start of ' || current_schema(), 0));

-- name: SigningKeys :many
-- Those that are published, the one that signs last first.
SELECT kid, public_key, private_key, created_at, active_at, retire_at, now()::timestamptz AS now FROM signing_keys
WHERE retire_at IS NULL OR retire_at > now() ORDER BY active_at DESC, kid;

-- name: AddSigningKey :exec
INSERT INTO signing_keys (kid, public_key, private_key, active_at) VALUES ($1, $2, $3, now() + make_interval(secs => sqlc.arg(ahead)::float8));

-- name: RetireSigningKeys :exec
-- All but one get an end, unless they have one.
UPDATE signing_keys SET retire_at = now() + make_interval(secs => sqlc.arg(after)::float8) WHERE kid <> sqlc.arg(kid) AND retire_at IS NULL;

-- name: WithdrawSigningKey :exec
UPDATE signing_keys SET withdrawn_at = now(), retire_at = now() WHERE kid = $1;

-- name: ActivateSigningKey :exec
UPDATE signing_keys SET active_at = now() WHERE kid = $1;

-- name: PurgeSigningKeys :execrows
DELETE FROM signing_keys WHERE retire_at < now() - interval '1 day';
