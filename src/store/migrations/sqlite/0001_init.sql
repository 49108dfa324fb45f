-- The same tables as PostgreSQL has. STRICT: no column takes a value of another type.

CREATE TABLE tenants (
    id TEXT PRIMARY KEY,
    slug TEXT NOT NULL,
    name TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    UNIQUE (slug)
) STRICT;

CREATE TABLE projects (
    id TEXT PRIMARY KEY,
    tenant_id TEXT NOT NULL REFERENCES tenants (id),
    slug TEXT NOT NULL,
    name TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    UNIQUE (tenant_id, slug)
) STRICT;

CREATE TABLE connections (
    id TEXT PRIMARY KEY,
    project_id TEXT NOT NULL REFERENCES projects (id),
    name TEXT NOT NULL,
    template TEXT NOT NULL,
    provider TEXT NOT NULL,
    account_label TEXT,
    fields TEXT NOT NULL,
    environment TEXT,
    services TEXT,
    status TEXT NOT NULL,
    status_reason TEXT,
    status_since INTEGER NOT NULL,
    version INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    UNIQUE (project_id, name)
) STRICT;

-- A server without a tenant is the platform's.
CREATE TABLE servers (
    id TEXT PRIMARY KEY,
    tenant_id TEXT REFERENCES tenants (id),
    service TEXT NOT NULL,
    name TEXT NOT NULL,
    canonical_url TEXT NOT NULL,
    config_schema TEXT NOT NULL,
    required_scopes TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;
CREATE INDEX servers_by_tenant ON servers (tenant_id);
-- Any number of tenants may have a server at one URL; each finds its own and the platform's.
CREATE INDEX servers_by_url ON servers (canonical_url, tenant_id);
-- A manifest names a server by its service.
CREATE UNIQUE INDEX servers_by_service ON servers (COALESCE(tenant_id, ''), service);

-- The tenant stands here again, so that a server's instances in one tenant are found without those of all others.
CREATE TABLE instances (
    id TEXT PRIMARY KEY,
    tenant_id TEXT NOT NULL REFERENCES tenants (id),
    project_id TEXT NOT NULL REFERENCES projects (id),
    name TEXT NOT NULL,
    server_id TEXT NOT NULL REFERENCES servers (id),
    active_profile_id TEXT,
    created_at INTEGER NOT NULL,
    UNIQUE (project_id, name)
) STRICT;
CREATE INDEX instances_by_tenant_and_name ON instances (tenant_id, name);
CREATE INDEX instances_by_tenant_and_server ON instances (tenant_id, server_id, project_id);

CREATE TABLE profiles (
    id TEXT PRIMARY KEY,
    instance_id TEXT NOT NULL REFERENCES instances (id),
    name TEXT NOT NULL,
    config_values TEXT NOT NULL,
    version INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    UNIQUE (instance_id, name)
) STRICT;

-- No reference to connections here or in overrides: one may be deleted while it is used, and then resolves to CONNECTION_MISSING.
CREATE TABLE profile_wires (
    profile_id TEXT NOT NULL REFERENCES profiles (id),
    config_key TEXT NOT NULL,
    connection_id TEXT NOT NULL,
    credential TEXT NOT NULL,
    PRIMARY KEY (profile_id, config_key)
) STRICT, WITHOUT ROWID;
CREATE INDEX profile_wires_by_connection ON profile_wires (connection_id);

CREATE TABLE workflows (
    project_id TEXT NOT NULL REFERENCES projects (id),
    workflow_id TEXT NOT NULL,
    environment TEXT,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (project_id, workflow_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE overrides (
    project_id TEXT NOT NULL,
    workflow_id TEXT NOT NULL,
    instance_id TEXT NOT NULL REFERENCES instances (id),
    position INTEGER NOT NULL,
    step TEXT,
    replaces TEXT,
    connection_id TEXT NOT NULL,
    PRIMARY KEY (project_id, workflow_id, instance_id, position),
    FOREIGN KEY (project_id, workflow_id) REFERENCES workflows (project_id, workflow_id)
) STRICT, WITHOUT ROWID;
-- Two overrides of the same step and connection would leave open which one decides.
CREATE UNIQUE INDEX overrides_decide_once
    ON overrides (project_id, workflow_id, instance_id, COALESCE(step, ''), COALESCE(replaces, ''));
CREATE INDEX overrides_by_connection ON overrides (connection_id);

CREATE TABLE tokens (
    id TEXT PRIMARY KEY,
    tenant_id TEXT NOT NULL REFERENCES tenants (id),
    project_id TEXT REFERENCES projects (id),
    name TEXT NOT NULL,
    shown_prefix TEXT NOT NULL,
    hash BLOB NOT NULL,
    role TEXT NOT NULL,
    scopes TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    revoked_at INTEGER,
    UNIQUE (hash)
) STRICT;
CREATE INDEX tokens_by_prefix ON tokens (shown_prefix);
CREATE INDEX tokens_by_tenant ON tokens (tenant_id, project_id);

CREATE TABLE change_log (
    sequence INTEGER PRIMARY KEY,
    tenant_id TEXT NOT NULL,
    project_id TEXT,
    entity TEXT NOT NULL,
    entity_id TEXT NOT NULL,
    at INTEGER NOT NULL
) STRICT;
-- One row: whoever changes something holds its lock until commit, so that sequences become visible in their order.
CREATE TABLE change_head (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    sequence INTEGER NOT NULL
) STRICT;
INSERT INTO change_head (id, sequence) VALUES (1, 0);

CREATE TABLE sealed_secrets (
    address TEXT NOT NULL,
    version INTEGER NOT NULL,
    key_id TEXT NOT NULL,
    wrapped_key BLOB NOT NULL,
    sealed BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (address, version)
) STRICT;
-- One row: the master key under which every row of sealed_secrets lies, and a text sealed by it that tells it from others.
CREATE TABLE sealed_head (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    key_id TEXT,
    key_check BLOB
) STRICT;
INSERT INTO sealed_head (id) VALUES (1);
