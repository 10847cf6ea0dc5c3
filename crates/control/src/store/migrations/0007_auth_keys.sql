-- Keys by which nodes join without an approval: the SHA-256 of each, never the key.

CREATE TABLE auth_keys (
    id TEXT PRIMARY KEY,
    org_id TEXT NOT NULL REFERENCES orgs (id),
    user_id TEXT NOT NULL REFERENCES users (id),
    name TEXT NOT NULL,
    prefix TEXT NOT NULL,
    hash TEXT NOT NULL UNIQUE,
    reusable BIGINT NOT NULL,
    ephemeral BIGINT NOT NULL,
    tags TEXT NOT NULL,
    uses BIGINT NOT NULL,
    last_used_at BIGINT,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    revoked_at BIGINT
);
CREATE INDEX auth_keys_by_org ON auth_keys (org_id, created_at, id);

-- Which key let a node in, and whether the node vanishes when it goes.
ALTER TABLE nodes ADD COLUMN auth_key_id TEXT REFERENCES auth_keys (id);
ALTER TABLE nodes ADD COLUMN ephemeral BIGINT NOT NULL DEFAULT 0;
CREATE INDEX nodes_ephemeral ON nodes (last_seen_at) WHERE ephemeral = 1 AND revoked_at IS NULL;
