-- +goose Up
-- A pool refills in windows: window k lasts from anchor + k*window_us to anchor +
-- (k+1)*window_us, and reset_time is the end of the one that remaining_tokens is of.
-- version grows with every change; announced is the version that ratelimit was told last.
ALTER TABLE token_pools
    ADD COLUMN version   bigint      NOT NULL DEFAULT 1 CHECK (version > 0),
    ADD COLUMN announced bigint      NOT NULL DEFAULT 0,
    ADD COLUMN window_us bigint      NOT NULL DEFAULT 86400000000 CHECK (window_us > 0),
    ADD COLUMN anchor    timestamptz NOT NULL DEFAULT now();
ALTER TABLE token_org_pools
    ADD COLUMN version   bigint      NOT NULL DEFAULT 1 CHECK (version > 0),
    ADD COLUMN announced bigint      NOT NULL DEFAULT 0,
    ADD COLUMN window_us bigint      NOT NULL DEFAULT 86400000000 CHECK (window_us > 0),
    ADD COLUMN anchor    timestamptz NOT NULL DEFAULT now();
UPDATE token_pools SET anchor = reset_time WHERE reset_time IS NOT NULL;
UPDATE token_org_pools SET anchor = reset_time WHERE reset_time IS NOT NULL;
CREATE INDEX token_pools_unannounced ON token_pools (updated_at) WHERE version > announced;
CREATE INDEX token_org_pools_unannounced ON token_org_pools (updated_at) WHERE version > announced;

-- Both kinds of pools under the names of their accounts.
CREATE VIEW token_pool_states AS
    SELECT 'user:' || user_id AS account, provider, total_tokens, remaining_tokens, refill, window_us, anchor, reset_time,
           version, announced, created_at, updated_at FROM token_pools
    UNION ALL
    SELECT 'org:' || org_id, provider, total_tokens, remaining_tokens, refill, window_us, anchor, reset_time,
           version, announced, created_at, updated_at FROM token_org_pools;

-- One row moves amount from counter to account: both sides of a double entry, which
-- therefore cannot disagree. The reference is what makes an entry happen once.
CREATE TABLE token_ledger (
    id         bigint       GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account    varchar(64)  NOT NULL CHECK (account <> ''),
    counter    varchar(64)  NOT NULL CHECK (counter <> '' AND counter <> account),
    unit       varchar(64)  NOT NULL CHECK (unit <> ''),
    amount     bigint       NOT NULL CHECK (amount <> 0 AND amount > -9223372036854775808),
    kind       varchar(12)  NOT NULL CHECK (kind IN ('purchase', 'usage', 'refund', 'expiry', 'adjustment')),
    reference  varchar(200) NOT NULL,
    reason     text         NOT NULL DEFAULT '',
    actor      uuid,                               -- who caused it, where a person did
    at         timestamptz  NOT NULL,              -- when it happened
    created_at timestamptz  NOT NULL DEFAULT now() -- when it was booked
);
CREATE UNIQUE INDEX token_ledger_reference ON token_ledger (reference);
CREATE INDEX token_ledger_account ON token_ledger (account, unit, id);

-- The two sides of every entry; per unit they sum to zero.
CREATE VIEW token_ledger_sides AS
    SELECT id, account, unit, amount FROM token_ledger
    UNION ALL
    SELECT id, counter, unit, -amount FROM token_ledger;

-- +goose StatementBegin
CREATE FUNCTION token_ledger_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'token_ledger is append-only: % is refused, post a correcting entry', TG_OP;
END $$;
-- +goose StatementEnd
CREATE TRIGGER token_ledger_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON token_ledger
    FOR EACH STATEMENT EXECUTE FUNCTION token_ledger_refuse();

-- Credits that expire. What a pool has beyond its lots never does. Once the unspent part
-- of a lot has expired, the spent part of one in a refilled pool counts until the window
-- ends (expired), so that what is spent never seems to shrink within a window.
CREATE TABLE token_lots (
    id         uuid         PRIMARY KEY DEFAULT gen_random_uuid(),
    account    varchar(64)  NOT NULL,
    provider   varchar(50)  NOT NULL,
    reference  varchar(200) NOT NULL UNIQUE, -- of the credit
    amount     bigint       NOT NULL CHECK (amount > 0),
    remaining  bigint       NOT NULL CHECK (remaining BETWEEN 0 AND amount),
    expires_at timestamptz  NOT NULL,
    expired    boolean      NOT NULL DEFAULT false
);
CREATE INDEX token_lots_account ON token_lots (account, provider);
CREATE INDEX token_lots_due ON token_lots (expires_at) WHERE NOT expired;

-- Pools from before the ledger begin it with what they held.
INSERT INTO token_ledger (account, counter, unit, amount, kind, reference, reason, at)
    SELECT account, 'system:adjustment', 'token:' || provider, total_tokens, 'adjustment', 'opening:' || account || '/' || provider, 'opening balance', now()
    FROM token_pool_states WHERE total_tokens <> 0;
INSERT INTO token_ledger (account, counter, unit, amount, kind, reference, reason, at)
    SELECT account, 'system:usage', 'token:' || provider, remaining_tokens - total_tokens, 'usage', 'opening-usage:' || account || '/' || provider, 'opening balance', now()
    FROM token_pool_states WHERE total_tokens <> remaining_tokens;

-- +goose Down
DROP TABLE token_lots;
DROP TABLE token_ledger CASCADE;
DROP FUNCTION token_ledger_refuse;
DROP VIEW token_pool_states;
ALTER TABLE token_org_pools DROP COLUMN version, DROP COLUMN announced, DROP COLUMN window_us, DROP COLUMN anchor;
ALTER TABLE token_pools DROP COLUMN version, DROP COLUMN announced, DROP COLUMN window_us, DROP COLUMN anchor;
