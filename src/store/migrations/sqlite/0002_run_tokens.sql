-- The public keys by which daemons verify each other's run tokens. The private ones never leave the daemon that made them.
CREATE TABLE run_token_keys (
    id TEXT PRIMARY KEY,
    public_key BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT;

-- Run tokens issued up to then are revoked.
ALTER TABLE projects ADD COLUMN run_tokens_not_before INTEGER;
CREATE INDEX projects_by_run_tokens_not_before ON projects (run_tokens_not_before)
    WHERE run_tokens_not_before IS NOT NULL;

-- The one instance that the token of an MCP process may resolve. No reference: without the instance it finds nothing.
ALTER TABLE tokens ADD COLUMN instance_id TEXT;
