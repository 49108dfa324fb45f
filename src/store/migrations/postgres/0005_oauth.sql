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
    completed_at BIGINT,
    -- How often a browser was sent to the provider with a new state; and until when the present one is worked on.
    attempt BIGINT NOT NULL DEFAULT 0,
    busy_until BIGINT
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
CREATE INDEX connection_grants_by_account ON connection_grants (account_id);

-- What happened to connections, for webhooks: written with the change itself, kept for some days.
CREATE TABLE events (
    id TEXT COLLATE "C" PRIMARY KEY,
    kind TEXT NOT NULL,
    body TEXT NOT NULL,
    at BIGINT NOT NULL,
    -- When a delivery was entered for each webhook that wants it.
    spread_at BIGINT
);
CREATE INDEX events_unspread ON events (id) WHERE spread_at IS NULL;
CREATE INDEX events_by_age ON events (at);

-- What a webhook is still to be told. Whoever delivers it moves due_at on first, so that no other does.
CREATE TABLE deliveries (
    event_id TEXT COLLATE "C" NOT NULL REFERENCES events (id) ON DELETE CASCADE,
    -- A digest of its URL.
    webhook TEXT COLLATE "C" NOT NULL,
    attempts BIGINT NOT NULL,
    due_at BIGINT NOT NULL,
    PRIMARY KEY (event_id, webhook)
);
CREATE INDEX deliveries_by_due ON deliveries (webhook, due_at, event_id);
