-- People who sign in at an OpenID Connect provider, the invitations by which they join, and sessions that need no API key.

-- A browser is signed in with a key or by the provider; who was signed in before signs in again.
DROP TABLE sessions;
CREATE TABLE sessions (
    id TEXT PRIMARY KEY,
    hash TEXT NOT NULL UNIQUE,
    org_id TEXT NOT NULL REFERENCES orgs (id),
    user_id TEXT NOT NULL REFERENCES users (id),
    api_key_id TEXT REFERENCES api_keys (id),
    csrf TEXT NOT NULL,
    ip TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX sessions_by_expiry ON sessions (expires_at);
CREATE INDEX sessions_by_user ON sessions (org_id, user_id, created_at, id);

-- Who somebody is at a provider. Nothing else makes two sign-ins the same person.
CREATE TABLE identities (
    issuer TEXT NOT NULL,
    subject TEXT NOT NULL,
    user_id TEXT NOT NULL REFERENCES users (id),
    created_at BIGINT NOT NULL,
    PRIMARY KEY (issuer, subject)
);

CREATE TABLE invitations (
    id TEXT PRIMARY KEY,
    org_id TEXT NOT NULL REFERENCES orgs (id),
    hash TEXT NOT NULL UNIQUE,
    role TEXT NOT NULL,
    scopes TEXT NOT NULL,
    email TEXT,
    invited_by TEXT NOT NULL REFERENCES users (id),
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    accepted_at BIGINT,
    accepted_by TEXT REFERENCES users (id),
    revoked_at BIGINT
);
CREATE INDEX invitations_by_org ON invitations (org_id, created_at, id);

-- What a member's sessions are good for when the provider opened them.
ALTER TABLE members ADD COLUMN scopes TEXT NOT NULL DEFAULT '["*"]';

-- Sign-ins that went to the provider and have not come back.
CREATE TABLE sign_ins (
    state_hash TEXT PRIMARY KEY,
    browser_hash TEXT NOT NULL,
    nonce TEXT NOT NULL,
    verifier TEXT NOT NULL,
    landing TEXT NOT NULL,
    invitation_id TEXT REFERENCES invitations (id),
    expires_at BIGINT NOT NULL
);
CREATE INDEX sign_ins_by_expiry ON sign_ins (expires_at);
