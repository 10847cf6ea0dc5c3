-- Nodes whose key changes: the one that is offered, the one before, and those that never come back.

ALTER TABLE nodes ADD COLUMN next_public_key TEXT;
ALTER TABLE nodes ADD COLUMN previous_public_key TEXT;
ALTER TABLE nodes ADD COLUMN previous_key_until BIGINT;
CREATE UNIQUE INDEX nodes_by_next_key ON nodes (next_public_key) WHERE next_public_key IS NOT NULL;
CREATE UNIQUE INDEX nodes_by_previous_key ON nodes (previous_public_key) WHERE previous_public_key IS NOT NULL;
CREATE INDEX nodes_in_overlap ON nodes (previous_key_until) WHERE previous_key_until IS NOT NULL;

CREATE TABLE retired_keys (
    public_key TEXT PRIMARY KEY,
    node_id TEXT NOT NULL REFERENCES nodes (id),
    retired_at BIGINT NOT NULL
);
