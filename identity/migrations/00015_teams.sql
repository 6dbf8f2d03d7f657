-- +goose Up
-- Teams are things: a member is in a team that somebody made, so that a misspelt name is refused
-- and is not a new team without limits. Those that members and invitations name are there already.
CREATE TABLE teams (
    org_id     uuid        NOT NULL REFERENCES orgs (id) ON DELETE CASCADE,
    name       varchar(50) NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (org_id, name)
);
INSERT INTO teams (org_id, name)
SELECT org_id, team FROM org_members WHERE team <> ''
UNION SELECT org_id, team FROM org_invitations WHERE team <> ''
UNION SELECT org_id, team FROM invitations WHERE team <> '' AND org_id IS NOT NULL;

-- +goose Down
DROP TABLE teams;
