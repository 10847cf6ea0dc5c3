-- How long the keys of nodes live.

ALTER TABLE nodes ADD COLUMN key_made_at BIGINT NOT NULL DEFAULT 0;
UPDATE nodes SET key_made_at = created_at;
-- Whether it was noted that the key has expired, and everybody told.
ALTER TABLE nodes ADD COLUMN key_expired BIGINT NOT NULL DEFAULT 0;
CREATE INDEX nodes_by_key_expiry ON nodes (key_expires_at) WHERE key_expired = 0 AND revoked_at IS NULL;

-- The relay at which a node is found best.
ALTER TABLE nodes ADD COLUMN home_relay TEXT;
