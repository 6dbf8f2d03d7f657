-- +goose Up
-- One pool per owner and provider: the unique indexes make two first purchases at once
-- meet in one row. reset_time is when the window ends; null means it has not begun.
-- refill "window": remaining = total at each window end; "never": prepaid.
CREATE TABLE token_pools (
    id               uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    provider         varchar(50) NOT NULL CHECK (provider <> ''),
    user_id          uuid        NOT NULL,
    total_tokens     bigint      NOT NULL CHECK (total_tokens >= 0),
    remaining_tokens bigint      NOT NULL CHECK (remaining_tokens <= total_tokens),
    refill           varchar(10) NOT NULL DEFAULT 'window' CHECK (refill IN ('window', 'never')),
    reset_time       timestamptz,
    created_at       timestamptz NOT NULL DEFAULT now(),
    updated_at       timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX token_pools_owner ON token_pools (user_id, provider);

CREATE TABLE token_org_pools (
    id               uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    provider         varchar(50) NOT NULL CHECK (provider <> ''),
    org_id           uuid        NOT NULL,
    total_tokens     bigint      NOT NULL CHECK (total_tokens >= 0),
    remaining_tokens bigint      NOT NULL CHECK (remaining_tokens <= total_tokens),
    refill           varchar(10) NOT NULL DEFAULT 'window' CHECK (refill IN ('window', 'never')),
    reset_time       timestamptz,
    created_at       timestamptz NOT NULL DEFAULT now(),
    updated_at       timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX token_org_pools_owner ON token_org_pools (org_id, provider);

-- +goose Down
DROP TABLE token_org_pools;
DROP TABLE token_pools;
