-- Orgs, people, credentials, nodes, the audit log and the activity list.
-- One text for SQLite and PostgreSQL: TEXT for keys, ids and JSON; BIGINT for numbers, milliseconds and 0/1.

CREATE TABLE orgs (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    signing_key TEXT NOT NULL,
    netmap_generation BIGINT NOT NULL,
    next_host_number BIGINT NOT NULL,
    audit_sequence BIGINT NOT NULL,
    audit_hash TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE users (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE members (
    org_id TEXT NOT NULL REFERENCES orgs (id),
    user_id TEXT NOT NULL REFERENCES users (id),
    role TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (org_id, user_id)
);

CREATE TABLE api_keys (
    id TEXT PRIMARY KEY,
    org_id TEXT NOT NULL REFERENCES orgs (id),
    user_id TEXT NOT NULL REFERENCES users (id),
    name TEXT NOT NULL,
    prefix TEXT NOT NULL,
    hash TEXT NOT NULL UNIQUE,
    scopes TEXT NOT NULL,
    is_test BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT,
    last_used_at BIGINT,
    revoked_at BIGINT
);
CREATE INDEX api_keys_by_org ON api_keys (org_id, created_at, id);

-- A signed-in browser. It dies with the key that opened it.
CREATE TABLE sessions (
    hash TEXT PRIMARY KEY,
    api_key_id TEXT NOT NULL REFERENCES api_keys (id),
    csrf TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX sessions_by_expiry ON sessions (expires_at);

CREATE TABLE nodes (
    id TEXT PRIMARY KEY,
    org_id TEXT NOT NULL REFERENCES orgs (id),
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    device_label TEXT,
    os TEXT,
    hostname TEXT,
    app_version TEXT,
    client_metadata TEXT NOT NULL,
    public_key TEXT NOT NULL,
    signing_key TEXT,
    mesh_ip4 TEXT NOT NULL,
    mesh_ip6 TEXT NOT NULL UNIQUE,
    endpoints TEXT NOT NULL,
    online BIGINT NOT NULL,
    last_seen_at BIGINT,
    path TEXT,
    path_reason TEXT,
    tags TEXT NOT NULL,
    owner_user_id TEXT REFERENCES users (id),
    created_at BIGINT NOT NULL,
    revoked_at BIGINT,
    key_expires_at BIGINT,
    UNIQUE (org_id, mesh_ip4)
);
-- The platform's key stands in every org; any other key stands once, and stays after it was revoked.
CREATE UNIQUE INDEX nodes_by_key ON nodes (public_key) WHERE kind <> 'platform';
CREATE UNIQUE INDEX nodes_by_name ON nodes (org_id, name) WHERE revoked_at IS NULL;
CREATE INDEX nodes_by_org ON nodes (org_id, created_at, id);

CREATE TABLE links (
    code TEXT PRIMARY KEY,
    status TEXT NOT NULL,
    public_key TEXT NOT NULL,
    device_label TEXT,
    os TEXT,
    hostname TEXT,
    app_version TEXT,
    client_metadata TEXT NOT NULL,
    ip TEXT NOT NULL,
    match_number TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    org_id TEXT REFERENCES orgs (id),
    node_id TEXT REFERENCES nodes (id)
);
CREATE UNIQUE INDEX links_pending_by_key ON links (public_key) WHERE status = 'pending';
CREATE INDEX links_by_expiry ON links (expires_at);

CREATE TABLE audit (
    org_id TEXT NOT NULL REFERENCES orgs (id),
    sequence BIGINT NOT NULL,
    id TEXT NOT NULL UNIQUE,
    actor_type TEXT NOT NULL,
    actor_id TEXT,
    action TEXT NOT NULL,
    target_type TEXT,
    target_id TEXT,
    ip TEXT,
    attributes TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    previous_hash TEXT NOT NULL,
    hash TEXT NOT NULL,
    PRIMARY KEY (org_id, sequence)
);

CREATE TABLE activity (
    id TEXT PRIMARY KEY,
    org_id TEXT NOT NULL REFERENCES orgs (id),
    actor_user_id TEXT,
    actor_type TEXT NOT NULL,
    resource_type TEXT NOT NULL,
    resource_id TEXT NOT NULL,
    event_type TEXT NOT NULL,
    severity TEXT NOT NULL,
    status TEXT,
    title TEXT NOT NULL,
    summary TEXT,
    attributes TEXT NOT NULL,
    thread_id TEXT,
    agent_run_id TEXT,
    sandbox_id TEXT,
    runmesh_node_id TEXT,
    created_at BIGINT NOT NULL
);
CREATE INDEX activity_by_org ON activity (org_id, created_at, id);
CREATE INDEX activity_by_node ON activity (runmesh_node_id, created_at, id);
