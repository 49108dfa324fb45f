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
    completed_at INTEGER,
    -- How often a browser was sent to the provider with a new state; and until when the present one is worked on.
    attempt INTEGER NOT NULL DEFAULT 0,
    busy_until INTEGER
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
CREATE INDEX connection_grants_by_account ON connection_grants (account_id);

-- What happened to connections, for webhooks: written with the change itself, kept for some days.
CREATE TABLE events (
    id TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    body TEXT NOT NULL,
    at INTEGER NOT NULL,
    -- When a delivery was entered for each webhook that wants it.
    spread_at INTEGER
) STRICT;
CREATE INDEX events_unspread ON events (id) WHERE spread_at IS NULL;
CREATE INDEX events_by_age ON events (at);

-- What a webhook is still to be told. Whoever delivers it moves due_at on first, so that no other does.
CREATE TABLE deliveries (
    event_id TEXT NOT NULL REFERENCES events (id) ON DELETE CASCADE,
    -- A digest of its URL.
    webhook TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    due_at INTEGER NOT NULL,
    PRIMARY KEY (event_id, webhook)
) STRICT;
CREATE INDEX deliveries_by_due ON deliveries (webhook, due_at, event_id);
