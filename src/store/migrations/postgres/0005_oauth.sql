-- OAuth: connections whose tokens are kept fresh.

-- Which set of tokens is current, counted from 1; 0 for a connection that has none.
ALTER TABLE connections ADD COLUMN generation BIGINT NOT NULL DEFAULT 0;
ALTER TABLE connections ADD COLUMN token_expires_at BIGINT;
-- The provider's own id of the account.
ALTER TABLE connections ADD COLUMN account_id TEXT;

-- Who refreshes a connection's tokens now.
CREATE TABLE refresh_leases (
    connection_id TEXT COLLATE "C" PRIMARY KEY,
    owner TEXT NOT NULL,
    ends_at BIGINT NOT NULL
);
