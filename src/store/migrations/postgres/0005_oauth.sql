-- OAuth: what it adds to connections, and how others are told of them.

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
