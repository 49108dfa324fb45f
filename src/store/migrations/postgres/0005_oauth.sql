-- OAuth: connections whose tokens are kept fresh.

-- Which set of tokens is current, counted from 1; 0 for a connection that has none.
ALTER TABLE connections ADD COLUMN generation BIGINT NOT NULL DEFAULT 0;
ALTER TABLE connections ADD COLUMN token_expires_at BIGINT;

-- Who refreshes a connection's tokens now.
CREATE TABLE refresh_leases (
    connection_id TEXT COLLATE "C" PRIMARY KEY,
    owner TEXT NOT NULL,
    ends_at BIGINT NOT NULL
);

-- Sign-ins at providers that people were sent to. Keys and states are kept as hashes; what else is secret lies at secret_id in
-- the secret store.
CREATE TABLE connect_flows (
    id TEXT COLLATE "C" PRIMARY KEY,
    project_id TEXT COLLATE "C" NOT NULL REFERENCES projects (id),
    connection_id TEXT COLLATE "C" NOT NULL,
    secret_id TEXT COLLATE "C" NOT NULL,
    template TEXT COLLATE "C" NOT NULL,
    services TEXT NOT NULL,
    scopes_asked TEXT NOT NULL,
    actor TEXT NOT NULL,
    link_hash BYTEA NOT NULL,
    browser_hash BYTEA,
    state_hash BYTEA UNIQUE,
    started_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    taken_at BIGINT,
    completed_at BIGINT
);
CREATE INDEX connect_flows_by_project ON connect_flows (project_id, expires_at);
CREATE INDEX connect_flows_by_end ON connect_flows (expires_at);

-- Connections of which the sign-in is not finished.
CREATE INDEX connections_pending ON connections (status_since) WHERE status = 'pending';

-- What a provider granted to a connection, and whose account it is.
CREATE TABLE connection_grants (
    connection_id TEXT COLLATE "C" PRIMARY KEY,
    account_id TEXT COLLATE "C",
    scopes_asked TEXT NOT NULL,
    scopes_granted TEXT NOT NULL,
    granted_at BIGINT NOT NULL
);
