-- Who may reach what in an org. An org without a row has the standard policy.
CREATE TABLE policies (
    org_id TEXT PRIMARY KEY REFERENCES orgs (id),
    version BIGINT NOT NULL,
    document TEXT NOT NULL,
    updated_at BIGINT NOT NULL,
    updated_by TEXT REFERENCES users (id)
);

-- Rises with what a policy looks at: which nodes there are, their names, owners and tags, and the policy itself.
ALTER TABLE orgs ADD COLUMN topology BIGINT NOT NULL DEFAULT 0;

-- Netmaps carry packet filters from now on: every node is told anew.
UPDATE orgs SET netmap_generation = netmap_generation + 1;
