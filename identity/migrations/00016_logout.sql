-- +goose Up
-- Where a client's users may go once they have signed out there, and where it hears that a grant has
-- ended. dpop says that its tokens are bound to a key that it shows with each use.
ALTER TABLE oauth_clients
    ADD COLUMN logout_redirect_uris text[]        NOT NULL DEFAULT '{}',
    ADD COLUMN logout_uri           varchar(2000) NOT NULL DEFAULT '',
    ADD COLUMN dpop                 boolean       NOT NULL DEFAULT false;

-- The thumbprint of the key that a code or a grant is bound to (RFC 9449, 6.1 and 10); empty: to none.
ALTER TABLE oauth_codes    ADD COLUMN jkt varchar(43) NOT NULL DEFAULT '';
ALTER TABLE token_families ADD COLUMN jkt varchar(43) NOT NULL DEFAULT '';

-- What clients are still to be told: each grant of theirs that ended, whatever ended it.
CREATE TABLE oauth_logouts (
    id         uuid          PRIMARY KEY DEFAULT gen_random_uuid(),
    client_id  varchar(500)  NOT NULL,
    uri        varchar(2000) NOT NULL,
    user_id    uuid          NOT NULL,
    family     uuid          NOT NULL,
    attempts   integer       NOT NULL DEFAULT 0,
    next_at    timestamptz   NOT NULL DEFAULT now(),
    created_at timestamptz   NOT NULL DEFAULT now()
);
CREATE INDEX oauth_logouts_due ON oauth_logouts (next_at);

-- +goose StatementBegin
CREATE FUNCTION token_family_ended() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO oauth_logouts (client_id, uri, user_id, family)
    SELECT c.id, c.logout_uri, NEW.user_id, NEW.id FROM oauth_clients c WHERE c.id = NEW.client_id AND c.logout_uri <> '';
    RETURN NULL;
END $$;
-- +goose StatementEnd
CREATE TRIGGER token_family_ended AFTER UPDATE OF revoked_at ON token_families
    FOR EACH ROW WHEN (OLD.revoked_at IS NULL AND NEW.revoked_at IS NOT NULL) EXECUTE FUNCTION token_family_ended();

-- +goose Down
DROP TRIGGER token_family_ended ON token_families;
DROP FUNCTION token_family_ended;
DROP TABLE oauth_logouts;
ALTER TABLE token_families DROP COLUMN jkt;
ALTER TABLE oauth_codes DROP COLUMN jkt;
ALTER TABLE oauth_clients DROP COLUMN logout_redirect_uris, DROP COLUMN logout_uri, DROP COLUMN dpop;
