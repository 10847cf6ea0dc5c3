-- What a caller calls an agent stays the way to its threads and runs when it is deleted.
CREATE INDEX runs_by_slug ON runs (org_id, agent_slug, number);
CREATE INDEX runs_by_agent ON runs (org_id, agent_id, number);

-- A sign-in that ties an identity to somebody who is here already; absent when it says who somebody is.
ALTER TABLE sign_ins ADD COLUMN user_id TEXT REFERENCES users (id);
