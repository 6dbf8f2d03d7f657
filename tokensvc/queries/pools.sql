-- name: Clock :one
SELECT clock_timestamp()::timestamptz;

-- name: ReadPools :many
SELECT false AS is_org, user_id AS owner, provider, total_tokens, remaining_tokens, refill, window_us, anchor, reset_time, rests, returned, version, announced, created_at, updated_at,
    clock_timestamp()::timestamptz AS now
FROM token_pools WHERE (user_id, provider) IN (SELECT unnest(@users::uuid[]), unnest(@user_providers::text[]))
UNION ALL
SELECT true, org_id, provider, total_tokens, remaining_tokens, refill, window_us, anchor, reset_time, rests, returned, version, announced, created_at, updated_at,
    clock_timestamp()::timestamptz AS now
FROM token_org_pools WHERE (org_id, provider) IN (SELECT unnest(@orgs::uuid[]), unnest(@org_providers::text[]));

-- name: MakeUserPool :exec
INSERT INTO token_pools (user_id, provider, total_tokens, remaining_tokens, refill, window_us, anchor, reset_time, created_at, updated_at)
VALUES (@owner, @provider, 0, 0, @refill, @window_us, @at, @reset_time, @at, @at) ON CONFLICT (user_id, provider) DO NOTHING;

-- name: MakeOrgPool :exec
INSERT INTO token_org_pools (org_id, provider, total_tokens, remaining_tokens, refill, window_us, anchor, reset_time, created_at, updated_at)
VALUES (@owner, @provider, 0, 0, @refill, @window_us, @at, @reset_time, @at, @at) ON CONFLICT (org_id, provider) DO NOTHING;

-- name: LockUserPools :many
-- In the order of the owners, so that two batches never wait for each other in a circle.
SELECT false AS is_org, user_id AS owner, provider, total_tokens, remaining_tokens, refill, window_us, anchor, reset_time, rests, returned, version, announced, created_at, updated_at,
    clock_timestamp()::timestamptz AS now
FROM token_pools WHERE (user_id, provider) IN (SELECT unnest(@owners::uuid[]), unnest(@providers::text[]))
ORDER BY user_id, provider FOR UPDATE;

-- name: LockOrgPools :many
SELECT true AS is_org, org_id AS owner, provider, total_tokens, remaining_tokens, refill, window_us, anchor, reset_time, rests, returned, version, announced, created_at, updated_at,
    clock_timestamp()::timestamptz AS now
FROM token_org_pools WHERE (org_id, provider) IN (SELECT unnest(@owners::uuid[]), unnest(@providers::text[]))
ORDER BY org_id, provider FOR UPDATE;

-- name: FreeUserPools :many
-- Locks those that nobody has locked.
SELECT user_id, provider FROM token_pools WHERE (user_id, provider) IN (SELECT unnest(@owners::uuid[]), unnest(@providers::text[]))
ORDER BY user_id, provider FOR UPDATE SKIP LOCKED;

-- name: FreeOrgPools :many
SELECT org_id, provider FROM token_org_pools WHERE (org_id, provider) IN (SELECT unnest(@owners::uuid[]), unnest(@providers::text[]))
ORDER BY org_id, provider FOR UPDATE SKIP LOCKED;

-- name: SaveUserPools :exec
UPDATE token_pools p SET total_tokens = n.total, remaining_tokens = n.remaining, reset_time = nullif(n.reset_time, 'epoch'::timestamptz),
    rests = n.rests::bigint[], returned = n.returned, version = n.version, announced = n.announced, updated_at = now()
FROM (SELECT unnest(@owners::uuid[]) AS owner, unnest(@providers::text[]) AS provider, unnest(@totals::bigint[]) AS total,
    unnest(@remainings::bigint[]) AS remaining, unnest(@reset_times::timestamptz[]) AS reset_time, unnest(@rests::text[]) AS rests, unnest(@returneds::bigint[]) AS returned, unnest(@versions::bigint[]) AS version,
    unnest(@announceds::bigint[]) AS announced) AS n
WHERE p.user_id = n.owner AND p.provider = n.provider;

-- name: SaveOrgPools :exec
UPDATE token_org_pools p SET total_tokens = n.total, remaining_tokens = n.remaining, reset_time = nullif(n.reset_time, 'epoch'::timestamptz),
    rests = n.rests::bigint[], returned = n.returned, version = n.version, announced = n.announced, updated_at = now()
FROM (SELECT unnest(@owners::uuid[]) AS owner, unnest(@providers::text[]) AS provider, unnest(@totals::bigint[]) AS total,
    unnest(@remainings::bigint[]) AS remaining, unnest(@reset_times::timestamptz[]) AS reset_time, unnest(@rests::text[]) AS rests, unnest(@returneds::bigint[]) AS returned, unnest(@versions::bigint[]) AS version,
    unnest(@announceds::bigint[]) AS announced) AS n
WHERE p.org_id = n.owner AND p.provider = n.provider;

-- name: UnannouncedPools :many
SELECT account::text, provider FROM token_pool_states WHERE version > announced ORDER BY updated_at LIMIT @most;

-- name: TryJobLock :one
SELECT pg_try_advisory_xact_lock(@job::bigint);
