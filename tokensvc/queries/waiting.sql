-- name: KeepWaiting :exec
INSERT INTO token_waiting_charges (account, provider, request, version, event)
SELECT unnest(@accounts::text[]), unnest(@providers::text[]), unnest(@requests::text[]), unnest(@versions::bigint[]), unnest(@events::bytea[])
ON CONFLICT (request, version) DO NOTHING;

-- name: WaitingPools :many
-- Pools with charges that wait, the longest waiting first.
SELECT account, provider FROM token_waiting_charges WHERE refused = '' GROUP BY account, provider ORDER BY min(id) LIMIT @most;

-- name: CountWaiting :one
SELECT count(*) FROM token_waiting_charges WHERE refused = '';

-- name: WaitingAmong :many
SELECT DISTINCT account, provider FROM token_waiting_charges
WHERE refused = '' AND (account, provider) IN (SELECT unnest(@accounts::text[]), unnest(@providers::text[]));

-- name: WaitingCharges :many
SELECT id, event FROM token_waiting_charges
WHERE refused = '' AND (account, provider) IN (SELECT unnest(@accounts::text[]), unnest(@providers::text[])) ORDER BY id LIMIT @most;

-- name: DropWaiting :exec
DELETE FROM token_waiting_charges WHERE id = ANY(@ids::bigint[]);

-- name: RefuseWaiting :exec
UPDATE token_waiting_charges SET refused = @reason WHERE id = @id;
