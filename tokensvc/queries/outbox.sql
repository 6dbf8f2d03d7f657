-- name: AddEvents :exec
-- In the order given. An id that is there already is the same event. Wakes the relays at commit.
WITH added AS (
    INSERT INTO token_outbox (id, slot, aggregate_type, aggregate_id, event_type, subject, payload, correlation_id, traceparent)
    SELECT e.id, token_outbox_slot(coalesce(nullif(e.aggregate_id, ''), e.id::text)), e.aggregate_type, nullif(e.aggregate_id, ''), e.event_type, e.subject, e.payload::jsonb, e.correlation_id, e.traceparent
    FROM (SELECT unnest(@ids::uuid[]) AS id, unnest(@aggregate_types::text[]) AS aggregate_type,
        unnest(@aggregate_ids::text[]) AS aggregate_id, unnest(@event_types::text[]) AS event_type, unnest(@subjects::text[]) AS subject,
        unnest(@payloads::text[]) AS payload, unnest(@correlation_ids::text[]) AS correlation_id,
        unnest(@traceparents::text[]) AS traceparent) AS e
    ON CONFLICT (id) DO NOTHING)
SELECT pg_notify(@channel::text, '');

-- name: ClaimSlots :many
-- In random order, so that under a steady load no slot is always behind.
SELECT s.slot FROM token_outbox_slots s
WHERE EXISTS (SELECT 1 FROM token_outbox o WHERE o.slot = s.slot AND o.published_at IS NULL AND o.parked_at IS NULL
              AND (o.next_at IS NULL OR o.next_at <= now()))
ORDER BY random() LIMIT @most FOR UPDATE SKIP LOCKED;

-- name: PendingEvents :many
-- Of each slot the first ones, in order, without those that stand behind an event about the
-- same thing that waits for its next try.
SELECT p.id, p.aggregate_type, p.aggregate_id, p.event_type, p.subject, p.payload, p.correlation_id, p.traceparent, p.created_at, p.attempts
FROM token_outbox_slots s CROSS JOIN LATERAL (
    SELECT o.id, o.seq, o.aggregate_type, o.aggregate_id, o.event_type, o.subject, o.payload, o.correlation_id, o.traceparent, o.created_at, o.attempts
    FROM token_outbox o
    WHERE o.slot = s.slot AND o.published_at IS NULL AND o.parked_at IS NULL AND (o.next_at IS NULL OR o.next_at <= now())
      AND NOT EXISTS (SELECT 1 FROM token_outbox b WHERE b.slot = o.slot AND b.aggregate_id = o.aggregate_id
                      AND b.seq < o.seq AND b.next_at > now() AND b.published_at IS NULL AND b.parked_at IS NULL)
    ORDER BY o.seq LIMIT @most_of_slot) p
WHERE s.slot = ANY(@slots::smallint[])
ORDER BY p.seq;

-- name: MarkPublished :exec
UPDATE token_outbox o SET published_at = now(), next_at = NULL, stream_seq = n.stream_seq
FROM (SELECT unnest(@ids::uuid[]) AS id, unnest(@stream_seqs::bigint[]) AS stream_seq) AS n WHERE o.id = n.id;

-- name: LockSlots :exec
-- Waits for every round's end, and lets no other begin.
SELECT s.slot FROM token_outbox_slots s ORDER BY s.slot FOR UPDATE;

-- name: LockParked :exec
-- Waits for the end of every try of parked events, and lets no other begin.
SELECT o.id FROM token_outbox o WHERE o.parked_at IS NOT NULL AND o.published_at IS NULL ORDER BY o.seq FOR UPDATE;

-- name: LastPublished :many
-- The latest in the stream before a place in it.
SELECT id, stream_seq::bigint AS stream_seq, published_at::timestamptz AS published_at FROM token_outbox
WHERE published_at IS NOT NULL AND stream_seq < @before::bigint ORDER BY stream_seq DESC LIMIT @most;

-- name: PublishAgain :exec
-- Wakes the relays at commit.
WITH again AS (UPDATE token_outbox SET published_at = NULL, stream_seq = NULL WHERE id = ANY(@ids::uuid[]))
SELECT pg_notify(@channel::text, '');

-- name: MarkFailed :exec
UPDATE token_outbox SET attempts = attempts + 1, last_error = @last_error, next_at = now() + make_interval(secs => @wait_seconds),
    parked_at = CASE WHEN attempts + 1 >= @most_attempts::int THEN coalesce(parked_at, now()) END
WHERE id = @id;

-- name: ParkedEvents :many
-- Those of subjects with a prefix whose next try is due.
SELECT o.id, o.aggregate_type, o.aggregate_id, o.event_type, o.subject, o.payload, o.correlation_id, o.traceparent, o.created_at, o.attempts
FROM token_outbox o
WHERE o.parked_at IS NOT NULL AND o.published_at IS NULL AND starts_with(o.subject, @prefix::text) AND (o.next_at IS NULL OR o.next_at <= now())
ORDER BY o.seq LIMIT @most FOR UPDATE SKIP LOCKED;

-- name: PurgePublished :execrows
DELETE FROM token_outbox WHERE id IN
    (SELECT o.id FROM token_outbox o WHERE o.published_at < now() - make_interval(secs => @kept_seconds) ORDER BY o.published_at LIMIT @most FOR UPDATE SKIP LOCKED);

-- name: OutboxBacklog :one
SELECT count(*) FILTER (WHERE published_at IS NULL AND parked_at IS NULL)::bigint AS pending,
    coalesce(extract(epoch FROM now() - min(created_at) FILTER (WHERE published_at IS NULL AND parked_at IS NULL)), 0)::float8 AS oldest_seconds,
    count(*) FILTER (WHERE parked_at IS NOT NULL)::bigint AS parked
FROM token_outbox WHERE published_at IS NULL;
