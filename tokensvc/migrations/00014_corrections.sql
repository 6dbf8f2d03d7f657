-- +goose Up
-- A call may be told of again with a higher version, which replaces what was said before. Its first
-- entry has the reference usage:REQUEST, a correction usage:REQUEST~VERSION, the difference as its
-- amount, and the first entry's reference as corrects.
ALTER TABLE token_ledger
    ADD COLUMN version  bigint       NOT NULL DEFAULT 0 CHECK (version >= 0),
    ADD COLUMN corrects varchar(200),
    -- A call that costs nothing has an entry where something else may be told of it later.
    DROP CONSTRAINT token_ledger_amount_check,
    ADD CONSTRAINT token_ledger_amount_check CHECK ((amount <> 0 OR kind = 'usage') AND amount > -9223372036854775808);
CREATE INDEX token_ledger_corrects ON token_ledger (corrects) WHERE corrects IS NOT NULL;

-- What was spent in the current window and given back by corrections: what a limiter has heard of
-- as spent may then shrink.
ALTER TABLE token_pools ADD COLUMN returned bigint NOT NULL DEFAULT 0 CHECK (returned >= 0);
ALTER TABLE token_org_pools ADD COLUMN returned bigint NOT NULL DEFAULT 0 CHECK (returned >= 0);

-- +goose Down
ALTER TABLE token_pools DROP COLUMN returned;
ALTER TABLE token_org_pools DROP COLUMN returned;
DROP INDEX token_ledger_corrects;
ALTER TABLE token_ledger DROP COLUMN version, DROP COLUMN corrects;
