-- name: ClaimSagas :many
-- Takes what is due and nobody else has. asks is counted before the payment is called, so that a row that turns back in
-- STARTED without one is known to have no payment at all.
UPDATE token_purchase_saga SET lease_token = gen_random_uuid(), lease_owner = @owner, lease_until = now() + @lease::interval, next_at = now() + @lease::interval,
  asks = asks + CASE WHEN status = 'STARTED' AND backward AND asks = 0 THEN 0 ELSE 1 END
WHERE id IN (SELECT id FROM token_purchase_saga WHERE next_at <= now() ORDER BY next_at LIMIT @most FOR UPDATE SKIP LOCKED)
RETURNING *;

-- name: AdvanceSaga :one
-- Writes a step, and answers when that is; no row: the lease is somebody else's. The times of a purchase grow with its
-- steps whatever is done to the clock, by what ClickHouse can tell apart.
UPDATE token_purchase_saga SET status = @status, backward = @backward, failure = @failure, payment_id = @payment_id, attempts = 0, asks = 1, last_error = '', updated_at = GREATEST(clock_timestamp(), updated_at + interval '1 millisecond'),
  next_at = CASE WHEN @finished::boolean THEN NULL ELSE now() + @lease::interval END,
  lease_until = CASE WHEN @finished::boolean THEN NULL ELSE now() + @lease::interval END,
  lease_token = CASE WHEN @finished::boolean THEN NULL ELSE lease_token END
WHERE id = @id AND lease_token = @lease_token
RETURNING updated_at;

-- name: RetrySagaLater :execrows
-- Zero rows: the lease is somebody else's, or the step is written although its answer was lost. The
-- payment's id is never forgotten again.
UPDATE token_purchase_saga SET attempts = attempts + 1, last_error = @last_error, payment_id = CASE WHEN @payment_id::text = '' THEN payment_id ELSE @payment_id END,
  next_at = now() + @wait::interval, lease_token = NULL, lease_until = NULL
WHERE id = @id AND lease_token = @lease_token AND status = @status AND backward = @backward;

-- name: ParkSaga :execrows
-- Zero rows: as of RetrySagaLater.
UPDATE token_purchase_saga SET attempts = attempts + 1, last_error = @reason, payment_id = CASE WHEN @payment_id::text = '' THEN payment_id ELSE @payment_id END, parked_at = clock_timestamp(), park_reason = @reason, next_at = NULL, lease_token = NULL, lease_until = NULL,
  updated_at = GREATEST(clock_timestamp(), updated_at)
WHERE id = @id AND lease_token = @lease_token AND status = @status AND backward = @backward;

-- name: WriteSagaStep :exec
INSERT INTO token_purchase_step (saga_id, status, action, detail, attempts) VALUES (@saga_id, @status, @action, @detail, @attempts);

-- name: RecoverSagas :many
-- Turns back what is unfinished for too long and has no tokens yet, and pushes on what has. Rows that a worker has
-- at this moment are left to it. One whose lease has run out may not write any more: it would drive on what is turned back.
UPDATE token_purchase_saga SET recovered = true, backward = backward OR status <> 'TOKENS_ALLOCATED',
  failure = CASE WHEN failure = '' AND status <> 'TOKENS_ALLOCATED' THEN @failure::text ELSE failure END,
  attempts = 0, next_at = now(), lease_token = NULL, lease_until = NULL
WHERE id IN (SELECT id FROM token_purchase_saga WHERE next_at IS NOT NULL AND NOT recovered AND updated_at < now() - @stale::interval
  AND (lease_until IS NULL OR lease_until < now()) ORDER BY updated_at LIMIT @most FOR UPDATE SKIP LOCKED)
RETURNING id;

-- name: HastenSagas :execrows
-- Purchases whose time is further ahead than any wait is long: the clock was ahead when it was written, and was set right.
UPDATE token_purchase_saga SET next_at = now(), lease_token = NULL, lease_until = NULL WHERE next_at > now() + @longest::interval;

-- name: ResumeSaga :execrows
-- A person's word, written beside the steps: go on (or back) at once, whoever has it; the lease ends.
WITH resumed AS (
  UPDATE token_purchase_saga s SET backward = s.backward OR @back::boolean, failure = CASE WHEN s.failure = '' THEN @failure::text ELSE s.failure END,
    attempts = 0, parked_at = NULL, park_reason = '', next_at = now(), lease_token = NULL, lease_until = NULL, updated_at = GREATEST(clock_timestamp(), updated_at)
  WHERE s.id = @id AND s.status NOT IN ('COMPLETED', 'FAILED') RETURNING s.id AS saga, s.status AS reached)
INSERT INTO token_purchase_step (saga_id, status, action, detail, attempts) SELECT saga, reached, @action, @detail, 0 FROM resumed;

-- name: SagaGauges :one
SELECT count(*) FILTER (WHERE parked_at IS NOT NULL)::bigint AS parked, count(*) FILTER (WHERE parked_at IS NULL)::bigint AS open,
  COALESCE(EXTRACT(EPOCH FROM now() - min(created_at) FILTER (WHERE parked_at IS NULL)), 0)::float8 AS oldest_seconds
FROM token_purchase_saga WHERE status NOT IN ('COMPLETED', 'FAILED');

-- name: ReleaseSaga :exec
-- Gives a claim back untouched: the replica stops. Wakes the workers of the others at commit.
WITH released AS (
  UPDATE token_purchase_saga SET next_at = now(), lease_token = NULL, lease_until = NULL WHERE id = @id AND lease_token = @lease_token RETURNING 1)
SELECT pg_notify('leaky_sagas', '') FROM released;
