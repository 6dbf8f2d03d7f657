-- name: TakePurchaseKey :exec
-- Fails on token_purchase_key_pkey when somebody has the key. The loser of a race waits here until the winner has committed.
INSERT INTO token_purchase_key (owner, key, payload_hash, status, answer, created_at)
VALUES (@owner, @key, @payload_hash, @status, @answer, now());

-- name: FindPurchaseKey :one
SELECT payload_hash, status, answer FROM token_purchase_key WHERE owner = @owner AND key = @key;

-- name: InsertSaga :exec
-- Wakes the workers at commit.
WITH written AS (
INSERT INTO token_purchase_saga (id, user_id, org_id, provider, tokens, idempotency_key, status, created_at, updated_at, amount, currency, price, quota_max, correlation_id, traceparent, refill, next_at)
VALUES (@id, @user_id, @org_id, @provider, @tokens, @idempotency_key, 'STARTED', @created_at, @created_at, @amount, @currency, @price, @quota_max, @correlation_id, @traceparent, @refill, now()))
SELECT pg_notify('leaky_sagas', '');

-- name: FindSaga :one
SELECT * FROM token_purchase_saga WHERE id = @id;

-- name: ListSagas :many
-- Newest first, after the given one.
SELECT * FROM token_purchase_saga
WHERE (@status::text = '' OR status = @status) AND (NOT @parked::boolean OR parked_at IS NOT NULL) AND (NOT @open::boolean OR status NOT IN ('COMPLETED', 'FAILED'))
  AND (created_at, id) < (@before::timestamptz, @before_id::uuid)
ORDER BY created_at DESC, id DESC LIMIT @most;

-- name: ListSagaSteps :many
SELECT status, action, detail, attempts, at FROM token_purchase_step WHERE saga_id = @saga_id ORDER BY id;

-- name: PurgePurchaseKeys :execrows
-- By the clock that they were written by: of another one that is ahead, a key would go whose order is repeated.
DELETE FROM token_purchase_key WHERE (owner, key) IN (
  SELECT k.owner, k.key FROM token_purchase_key k WHERE k.created_at < now() - @keep::interval ORDER BY k.created_at LIMIT 1000);

-- name: UserHoldings :one
-- What the buyer's pool holds, for the tier's cap: of one that refills what it is filled to.
SELECT (CASE WHEN refill = 'never' THEN remaining_tokens ELSE total_tokens END)::bigint AS holds FROM token_pools WHERE user_id = @owner AND provider = @provider;

-- name: OrgHoldings :one
SELECT (CASE WHEN refill = 'never' THEN remaining_tokens ELSE total_tokens END)::bigint AS holds FROM token_org_pools WHERE org_id = @owner AND provider = @provider;
