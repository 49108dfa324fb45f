-- OAuth: connections whose tokens are kept fresh.

-- Which set of tokens is current, counted from 1; 0 for a connection that has none.
ALTER TABLE connections ADD COLUMN generation INTEGER NOT NULL DEFAULT 0;
ALTER TABLE connections ADD COLUMN token_expires_at INTEGER;

-- Who refreshes a connection's tokens now. Only daemons on several hosts need to tell each other.
CREATE TABLE refresh_leases (
    connection_id TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    ends_at INTEGER NOT NULL
) STRICT;

-- Sign-ins at providers that people were sent to. Keys and states are kept as hashes; what else is secret lies at secret_id in
-- the secret store.
CREATE TABLE connect_flows (
    id TEXT PRIMARY KEY,
    project_id TEXT NOT NULL REFERENCES projects (id),
    connection_id TEXT NOT NULL,
    secret_id TEXT NOT NULL,
    template TEXT NOT NULL,
    services TEXT NOT NULL,
    scopes_asked TEXT NOT NULL,
    actor TEXT NOT NULL,
    link_hash BLOB NOT NULL,
    browser_hash BLOB,
    state_hash BLOB UNIQUE,
    started_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    taken_at INTEGER,
    completed_at INTEGER
) STRICT;
CREATE INDEX connect_flows_by_project ON connect_flows (project_id, expires_at);
CREATE INDEX connect_flows_by_end ON connect_flows (expires_at);

-- Connections of which the sign-in is not finished.
CREATE INDEX connections_pending ON connections (status_since) WHERE status = 'pending';

-- What a provider granted to a connection, and whose account it is.
CREATE TABLE connection_grants (
    connection_id TEXT PRIMARY KEY,
    account_id TEXT,
    scopes_asked TEXT NOT NULL,
    scopes_granted TEXT NOT NULL,
    granted_at INTEGER NOT NULL
) STRICT;
