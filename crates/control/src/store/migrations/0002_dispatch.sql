-- Agents, threads with their rollouts and events, runs with the state of their dispatch.

CREATE TABLE agents (
    id TEXT PRIMARY KEY,
    org_id TEXT NOT NULL REFERENCES orgs (id),
    owner_user_id TEXT NOT NULL REFERENCES users (id),
    slug TEXT NOT NULL,
    settings TEXT NOT NULL,
    version BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    UNIQUE (org_id, slug)
);
CREATE INDEX agents_by_org ON agents (org_id, created_at, id);

CREATE TABLE threads (
    id TEXT PRIMARY KEY,
    org_id TEXT NOT NULL REFERENCES orgs (id),
    owner_user_id TEXT NOT NULL REFERENCES users (id),
    agent_id TEXT,
    title TEXT,
    execution_mode TEXT NOT NULL,
    archived BIGINT NOT NULL,
    active_rollout_id TEXT NOT NULL,
    last_sequence BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX threads_by_org ON threads (org_id, created_at, id);

CREATE TABLE rollouts (
    id TEXT PRIMARY KEY,
    thread_id TEXT NOT NULL REFERENCES threads (id) ON DELETE CASCADE,
    event_count BIGINT NOT NULL,
    started_at BIGINT NOT NULL,
    completed_at BIGINT
);
CREATE INDEX rollouts_by_thread ON rollouts (thread_id, started_at, id);

CREATE TABLE events (
    thread_id TEXT NOT NULL REFERENCES threads (id) ON DELETE CASCADE,
    sequence BIGINT NOT NULL,
    rollout_id TEXT NOT NULL,
    run_id TEXT,
    type TEXT NOT NULL,
    payload TEXT NOT NULL,
    client_event_id TEXT,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (thread_id, sequence)
);
CREATE UNIQUE INDEX events_by_client ON events (thread_id, client_event_id) WHERE client_event_id IS NOT NULL;

-- `spec` is what the order is made of; `phase` to `away_since` are the state of `runs::dispatch`, and `deadline` is what
-- it computes from them, so that what is due can be found.
CREATE TABLE runs (
    id TEXT PRIMARY KEY,
    number BIGINT NOT NULL UNIQUE,
    org_id TEXT NOT NULL REFERENCES orgs (id),
    owner_user_id TEXT NOT NULL REFERENCES users (id),
    thread_id TEXT NOT NULL REFERENCES threads (id) ON DELETE CASCADE,
    rollout_id TEXT NOT NULL,
    agent_id TEXT NOT NULL,
    agent_slug TEXT NOT NULL,
    node_id TEXT NOT NULL REFERENCES nodes (id),
    origin TEXT NOT NULL,
    spec TEXT NOT NULL,
    metadata TEXT,
    status TEXT NOT NULL,
    phase TEXT NOT NULL,
    attempt BIGINT NOT NULL,
    fence BIGINT NOT NULL,
    next_event BIGINT NOT NULL,
    sends BIGINT NOT NULL,
    refusals BIGINT NOT NULL,
    offer_at BIGINT NOT NULL,
    queue_until BIGINT NOT NULL,
    cancel_at BIGINT,
    away_since BIGINT,
    deadline BIGINT,
    outcome TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    accepted_at BIGINT,
    started_at BIGINT,
    completed_at BIGINT
);
CREATE INDEX runs_by_org ON runs (org_id, number);
CREATE INDEX runs_by_thread ON runs (thread_id, number);
CREATE INDEX runs_open_by_node ON runs (node_id, number) WHERE phase <> 'ended';
CREATE INDEX runs_by_deadline ON runs (deadline) WHERE deadline IS NOT NULL;

CREATE TABLE run_keys (
    org_id TEXT NOT NULL,
    owner TEXT NOT NULL,
    key TEXT NOT NULL,
    request_hash TEXT NOT NULL,
    run_id TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (org_id, owner, key)
);
CREATE INDEX run_keys_by_age ON run_keys (created_at);
CREATE INDEX run_keys_by_run ON run_keys (run_id);
CREATE INDEX activity_by_thread ON activity (thread_id, created_at, id);
