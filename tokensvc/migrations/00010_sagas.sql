-- +goose Up
-- One row per purchase. price and amount are fixed when it is made, so that a change of the
-- price list never changes what a purchase under way costs.
--
-- next_at is when somebody has to look at the row: null once it is finished or parked. A
-- claim moves it to the end of the lease, so a row whose worker died becomes due by itself.
-- lease_token is new with every claim; a step is written only by who still holds it.
CREATE TABLE token_purchase_saga (
    id               uuid         PRIMARY KEY,
    user_id          uuid         NOT NULL,
    org_id           uuid,
    provider         varchar(50)  NOT NULL CHECK (provider <> ''),
    tokens           bigint       NOT NULL CHECK (tokens > 0),
    idempotency_key  varchar(100),
    status           varchar(50)  NOT NULL CHECK (status IN ('STARTED', 'PAYMENT_RESERVED', 'TOKENS_ALLOCATED', 'COMPLETED', 'FAILED')),
    created_at       timestamptz  NOT NULL,
    updated_at       timestamptz  NOT NULL,
    amount           bigint       NOT NULL CHECK (amount > 0), -- minor units of currency
    currency         varchar(3)   NOT NULL,
    price            bigint       NOT NULL CHECK (price > 0), -- minor units per million tokens
    correlation_id   varchar(128) NOT NULL DEFAULT '', -- of the order
    quota_max        bigint       NOT NULL DEFAULT 0, -- the buyer's tier cap on what a pool holds; 0: none
    backward         boolean      NOT NULL DEFAULT false, -- it is being undone
    recovered        boolean      NOT NULL DEFAULT false, -- the recovery job drove it on
    asks             integer      NOT NULL DEFAULT 0, -- claims of the present step, counted before it is tried; 0 in STARTED: there is no payment
    payment_id       varchar(255) NOT NULL DEFAULT '', -- the payment's own name for it
    failure          text         NOT NULL DEFAULT '', -- why it goes or went backward
    attempts         integer      NOT NULL DEFAULT 0, -- of the present step that failed
    last_error       text         NOT NULL DEFAULT '',
    parked_at        timestamptz,
    park_reason      text         NOT NULL DEFAULT '',
    next_at          timestamptz,
    lease_token      uuid,
    lease_owner      varchar(100) NOT NULL DEFAULT '',
    lease_until      timestamptz,
    CHECK ((status IN ('COMPLETED', 'FAILED') OR parked_at IS NOT NULL) = (next_at IS NULL))
);
CREATE INDEX token_purchase_saga_user ON token_purchase_saga (user_id);
CREATE INDEX token_purchase_saga_org ON token_purchase_saga (org_id) WHERE org_id IS NOT NULL;
CREATE INDEX token_purchase_saga_due ON token_purchase_saga (next_at) WHERE next_at IS NOT NULL;
CREATE INDEX token_purchase_saga_open ON token_purchase_saga (created_at) WHERE status NOT IN ('COMPLETED', 'FAILED');
CREATE INDEX token_purchase_saga_newest ON token_purchase_saga (created_at DESC, id DESC);

-- One row per step taken, for people.
CREATE TABLE token_purchase_step (
    id       bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    saga_id  uuid        NOT NULL REFERENCES token_purchase_saga (id) ON DELETE CASCADE,
    status   varchar(50) NOT NULL, -- after the step
    action   varchar(50) NOT NULL,
    detail   text        NOT NULL DEFAULT '',
    attempts integer     NOT NULL, -- it took
    at       timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX token_purchase_step_saga ON token_purchase_step (saga_id, id);

-- Answers to be given again. The saga outlives its key.
CREATE TABLE token_purchase_key (
    owner        uuid         NOT NULL,
    key          varchar(100) NOT NULL,
    payload_hash bytea        NOT NULL,
    status       integer      NOT NULL,
    answer       bytea        NOT NULL,
    created_at   timestamptz  NOT NULL,
    PRIMARY KEY (owner, key)
);
CREATE INDEX token_purchase_key_age ON token_purchase_key (created_at);

-- +goose Down
DROP TABLE token_purchase_key;
DROP TABLE token_purchase_step;
DROP TABLE token_purchase_saga;
