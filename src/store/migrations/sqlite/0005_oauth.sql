-- OAuth: connections whose tokens are kept fresh.

-- Which set of tokens is current, counted from 1; 0 for a connection that has none.
ALTER TABLE connections ADD COLUMN generation INTEGER NOT NULL DEFAULT 0;
ALTER TABLE connections ADD COLUMN token_expires_at INTEGER;
-- The provider's own id of the account.
ALTER TABLE connections ADD COLUMN account_id TEXT;

-- Who refreshes a connection's tokens now. Only daemons on several hosts need to tell each other.
CREATE TABLE refresh_leases (
    connection_id TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    ends_at INTEGER NOT NULL
) STRICT;
