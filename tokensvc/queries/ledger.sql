-- name: PostEntries :many
-- Posts what was not posted before, in the order of the references, so that two writers
-- with the same ones wait for each other instead of deadlocking. Answers the new references.
INSERT INTO token_ledger (account, counter, unit, amount, kind, reference, reason, actor, at, version, corrects, cost_micros, currency, price_version)
SELECT e.account, e.counter, e.unit, e.amount, e.kind, e.reference, e.reason, nullif(e.actor, '00000000-0000-0000-0000-000000000000'::uuid), e.at,
    e.version, nullif(e.corrects, ''), CASE WHEN e.kind = 'usage' THEN e.cost END, nullif(e.currency, ''), nullif(e.price, '')
FROM (SELECT unnest(@accounts::text[]) AS account, unnest(@counters::text[]) AS counter, unnest(@units::text[]) AS unit,
    unnest(@amounts::bigint[]) AS amount, unnest(@kinds::text[]) AS kind, unnest(@refs::text[]) AS reference,
    unnest(@reasons::text[]) AS reason, unnest(@actors::uuid[]) AS actor, unnest(@ats::timestamptz[]) AS at,
    unnest(@versions::bigint[]) AS version, unnest(@corrected::text[]) AS corrects,
    unnest(@costs::bigint[]) AS cost, unnest(@currencies::text[]) AS currency, unnest(@prices::text[]) AS price) AS e
ORDER BY e.reference
ON CONFLICT (reference) DO NOTHING
RETURNING reference;

-- name: BookedCalls :many
-- What the calls with these first entries are charged by now, and by which version.
SELECT coalesce(e.corrects, e.reference)::text AS reference, min(e.account)::text AS account, min(e.unit)::text AS unit,
    (-sum(e.amount))::bigint AS tokens, max(e.version)::bigint AS version, min(e.at)::timestamptz AS at,
    coalesce(sum(e.cost_micros), 0)::bigint AS cost_micros
FROM token_ledger e WHERE e.reference = ANY(@refs::text[]) OR e.corrects = ANY(@refs::text[])
GROUP BY coalesce(e.corrects, e.reference);

-- name: FindEntry :one
SELECT account, counter, unit, amount, kind, reason, at FROM token_ledger WHERE reference = @reference;

-- name: SumReferences :one
SELECT coalesce(sum(amount), 0)::bigint FROM token_ledger WHERE reference = ANY(@refs::text[]);

-- name: ListEntries :many
SELECT id, account, counter, unit, amount, kind, reference, reason, actor, at, created_at, version, corrects, cost_micros, currency, price_version FROM token_ledger
WHERE account = @account AND unit = @unit AND id < @before ORDER BY id DESC LIMIT @most;

-- name: OpenLots :many
SELECT l.account, l.provider, l.reference, l.amount, l.remaining, l.expires_at, l.expired FROM token_lots l
WHERE (l.account, l.provider) IN (SELECT unnest(@accounts::text[]), unnest(@providers::text[]))
ORDER BY l.account, l.provider, l.expires_at, l.seq;

-- name: SaveLots :exec
INSERT INTO token_lots (account, provider, reference, amount, remaining, expires_at, expired)
SELECT unnest(@accounts::text[]), unnest(@providers::text[]), unnest(@refs::text[]), unnest(@amounts::bigint[]),
    unnest(@remainings::bigint[]), unnest(@expiries::timestamptz[]), unnest(@expired::boolean[])
ON CONFLICT (reference) DO UPDATE SET amount = excluded.amount, remaining = excluded.remaining, expired = excluded.expired;

-- name: DropLots :exec
DELETE FROM token_lots WHERE reference = ANY(@refs::text[]);

-- name: DueLots :many
SELECT DISTINCT account, provider FROM token_lots WHERE NOT expired AND expires_at <= @at ORDER BY account, provider LIMIT @most;

-- name: LedgerDifferences :many
-- Pools that are not the fold of their entries, and entries of accounts without a pool.
SELECT coalesce(p.account, f.account)::text AS account, coalesce(p.provider, f.provider)::text AS provider,
    coalesce(p.remaining_tokens, 0)::bigint AS remaining, coalesce(f.remaining, 0)::bigint AS remaining_booked,
    coalesce(p.total_tokens, 0)::bigint AS total, coalesce(f.total, 0)::bigint AS total_booked
FROM token_pool_states p
FULL JOIN (SELECT e.account, substr(e.unit, 7) AS provider, sum(e.amount) AS remaining,
        coalesce(sum(e.amount) FILTER (WHERE e.counter NOT IN ('system:usage', 'system:refill')), 0) AS total
    FROM token_ledger e GROUP BY e.account, e.unit) f ON f.account = p.account AND f.provider = p.provider
WHERE p.account IS NULL OR p.remaining_tokens <> coalesce(f.remaining, 0) OR p.total_tokens <> coalesce(f.total, 0)
ORDER BY 1, 2;

-- name: UnbalancedUnits :many
SELECT unit, sum(amount)::bigint AS sum FROM token_ledger_sides GROUP BY unit HAVING sum(amount) <> 0 ORDER BY unit;

-- name: OverfullLots :many
-- Lots that promise more than their pool holds.
SELECT l.account, l.provider, sum(l.remaining)::bigint AS remaining FROM token_lots l
LEFT JOIN token_pool_states p ON p.account = l.account AND p.provider = l.provider
GROUP BY l.account, l.provider, p.remaining_tokens
HAVING sum(l.remaining) > greatest(coalesce(p.remaining_tokens, 0), 0) ORDER BY 1, 2;
