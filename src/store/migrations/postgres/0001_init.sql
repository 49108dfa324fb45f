-- Everything that is compared is COLLATE "C": the same order as SQLite's, and no index depends on the host's locale library.

CREATE TABLE tenants (
    id TEXT COLLATE "C" PRIMARY KEY,
    slug TEXT COLLATE "C" NOT NULL,
    name TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    UNIQUE (slug)
);

CREATE TABLE projects (
    id TEXT COLLATE "C" PRIMARY KEY,
    tenant_id TEXT COLLATE "C" NOT NULL REFERENCES tenants (id),
    slug TEXT COLLATE "C" NOT NULL,
    name TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    UNIQUE (tenant_id, slug)
);

CREATE TABLE connections (
    id TEXT COLLATE "C" PRIMARY KEY,
    project_id TEXT COLLATE "C" NOT NULL REFERENCES projects (id),
    name TEXT COLLATE "C" NOT NULL,
    template TEXT NOT NULL,
    provider TEXT NOT NULL,
    account_label TEXT,
    fields TEXT NOT NULL,
    environment TEXT,
    services TEXT,
    status TEXT NOT NULL,
    status_reason TEXT,
    status_since BIGINT NOT NULL,
    version BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    UNIQUE (project_id, name)
);

-- A server without a tenant is the platform's.
CREATE TABLE servers (
    id TEXT COLLATE "C" PRIMARY KEY,
    tenant_id TEXT COLLATE "C" REFERENCES tenants (id),
    service TEXT COLLATE "C" NOT NULL,
    name TEXT NOT NULL,
    canonical_url TEXT COLLATE "C" NOT NULL,
    config_schema TEXT NOT NULL,
    required_scopes TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX servers_by_tenant ON servers (tenant_id);
-- Any number of tenants may have a server at one URL; each finds its own and the platform's.
CREATE INDEX servers_by_url ON servers (canonical_url, tenant_id);
-- A manifest names a server by its service.
CREATE UNIQUE INDEX servers_by_service ON servers (COALESCE(tenant_id, ''), service);

-- The tenant stands here again, so that a server's instances in one tenant are found without those of all others.
CREATE TABLE instances (
    id TEXT COLLATE "C" PRIMARY KEY,
    tenant_id TEXT COLLATE "C" NOT NULL REFERENCES tenants (id),
    project_id TEXT COLLATE "C" NOT NULL REFERENCES projects (id),
    name TEXT COLLATE "C" NOT NULL,
    server_id TEXT COLLATE "C" NOT NULL REFERENCES servers (id),
    active_profile_id TEXT COLLATE "C",
    created_at BIGINT NOT NULL,
    UNIQUE (project_id, name)
);
CREATE INDEX instances_by_tenant_and_name ON instances (tenant_id, name);
CREATE INDEX instances_by_tenant_and_server ON instances (tenant_id, server_id, project_id);

CREATE TABLE profiles (
    id TEXT COLLATE "C" PRIMARY KEY,
    instance_id TEXT COLLATE "C" NOT NULL REFERENCES instances (id),
    name TEXT COLLATE "C" NOT NULL,
    config_values TEXT NOT NULL,
    version BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    UNIQUE (instance_id, name)
);

-- No reference to connections here or in overrides: one may be deleted while it is used, and then resolves to CONNECTION_MISSING.
CREATE TABLE profile_wires (
    profile_id TEXT COLLATE "C" NOT NULL REFERENCES profiles (id),
    config_key TEXT COLLATE "C" NOT NULL,
    connection_id TEXT COLLATE "C" NOT NULL,
    credential TEXT NOT NULL,
    PRIMARY KEY (profile_id, config_key)
);
CREATE INDEX profile_wires_by_connection ON profile_wires (connection_id);

CREATE TABLE workflows (
    project_id TEXT COLLATE "C" NOT NULL REFERENCES projects (id),
    workflow_id TEXT COLLATE "C" NOT NULL,
    environment TEXT,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (project_id, workflow_id)
);

CREATE TABLE overrides (
    project_id TEXT COLLATE "C" NOT NULL,
    workflow_id TEXT COLLATE "C" NOT NULL,
    instance_id TEXT COLLATE "C" NOT NULL REFERENCES instances (id),
    position BIGINT NOT NULL,
    step TEXT COLLATE "C",
    replaces TEXT COLLATE "C",
    connection_id TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (project_id, workflow_id, instance_id, position),
    FOREIGN KEY (project_id, workflow_id) REFERENCES workflows (project_id, workflow_id)
);
-- Two overrides of the same step and connection would leave open which one decides.
CREATE UNIQUE INDEX overrides_decide_once
    ON overrides (project_id, workflow_id, instance_id, COALESCE(step, ''), COALESCE(replaces, ''));
CREATE INDEX overrides_by_connection ON overrides (connection_id);

CREATE TABLE tokens (
    id TEXT COLLATE "C" PRIMARY KEY,
    tenant_id TEXT COLLATE "C" NOT NULL REFERENCES tenants (id),
    project_id TEXT COLLATE "C" REFERENCES projects (id),
    name TEXT NOT NULL,
    shown_prefix TEXT COLLATE "C" NOT NULL,
    hash BYTEA NOT NULL,
    role TEXT NOT NULL,
    scopes TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT,
    revoked_at BIGINT,
    UNIQUE (hash)
);
CREATE INDEX tokens_by_prefix ON tokens (shown_prefix);
CREATE INDEX tokens_by_tenant ON tokens (tenant_id, project_id);

CREATE TABLE change_log (
    sequence BIGINT PRIMARY KEY,
    tenant_id TEXT NOT NULL,
    project_id TEXT,
    entity TEXT NOT NULL,
    entity_id TEXT NOT NULL,
    at BIGINT NOT NULL
);
-- One row: whoever changes something holds its lock until commit, so that sequences become visible in their order.
CREATE TABLE change_head (
    id BIGINT PRIMARY KEY CHECK (id = 1),
    sequence BIGINT NOT NULL
);
INSERT INTO change_head (id, sequence) VALUES (1, 0);

CREATE TABLE sealed_secrets (
    address TEXT COLLATE "C" NOT NULL,
    version BIGINT NOT NULL,
    key_id TEXT COLLATE "C" NOT NULL,
    wrapped_key BYTEA NOT NULL,
    sealed BYTEA NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (address, version)
);
-- One row: the master key under which every row of sealed_secrets lies, and a text sealed by it that tells it from others.
CREATE TABLE sealed_head (
    id BIGINT PRIMARY KEY CHECK (id = 1),
    key_id TEXT COLLATE "C",
    key_check BYTEA
);
INSERT INTO sealed_head (id) VALUES (1);
