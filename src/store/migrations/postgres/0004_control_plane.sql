-- What people and scripts manage over REST.

-- What account of its provider a connection is for, where the template alone does not say so.
ALTER TABLE connections ADD COLUMN service TEXT;
-- Name, provider and template in lower case: what lists are searched through, in the index alone.
ALTER TABLE connections ADD COLUMN sought TEXT COLLATE "C" NOT NULL DEFAULT '';
UPDATE connections SET sought = lower(name COLLATE "default") || chr(10) || lower(provider COLLATE "default") || chr(10) || lower(template COLLATE "default");
CREATE INDEX connections_by_project ON connections (project_id, id, status, sought);
CREATE INDEX connections_by_status ON connections (project_id, status, id);

-- Names of a credential's fields with when each was set, and a keyed digest by which people tell values apart.
CREATE TABLE connection_fields (
    connection_id TEXT COLLATE "C" NOT NULL,
    field TEXT COLLATE "C" NOT NULL,
    fingerprint TEXT NOT NULL,
    set_at BIGINT NOT NULL,
    PRIMARY KEY (connection_id, field)
);

-- A connection that is given a new credential while the old one is kept.
CREATE TABLE rotations (
    connection_id TEXT COLLATE "C" PRIMARY KEY,
    project_id TEXT COLLATE "C" NOT NULL REFERENCES projects (id),
    old_version BIGINT NOT NULL,
    new_version BIGINT NOT NULL,
    began_at BIGINT NOT NULL,
    ends_at BIGINT NOT NULL
);
CREATE INDEX rotations_by_end ON rotations (ends_at);
CREATE INDEX rotations_by_project ON rotations (project_id);

-- When each version of a connection's credential was last handed out, and to which instance.
CREATE TABLE connection_uses (
    connection_id TEXT COLLATE "C" NOT NULL,
    secret_version BIGINT NOT NULL,
    instance_id TEXT COLLATE "C" NOT NULL,
    last_at BIGINT NOT NULL,
    PRIMARY KEY (connection_id, secret_version, instance_id)
);
CREATE INDEX connection_uses_by_age ON connection_uses (last_at);

-- Deleted connections, which can be restored until their secrets are destroyed.
CREATE TABLE deleted_connections (
    id TEXT COLLATE "C" PRIMARY KEY,
    project_id TEXT COLLATE "C" NOT NULL REFERENCES projects (id),
    name TEXT COLLATE "C" NOT NULL,
    kept TEXT NOT NULL,
    deleted_at BIGINT NOT NULL
);
CREATE INDEX deleted_connections_by_project ON deleted_connections (project_id, id);
CREATE INDEX deleted_connections_by_age ON deleted_connections (deleted_at);

ALTER TABLE instances ADD COLUMN version BIGINT NOT NULL DEFAULT 1;
CREATE INDEX instances_by_project ON instances (project_id, id);
-- Whether a server may be deleted is looked up by it.
CREATE INDEX instances_by_server ON instances (server_id);

ALTER TABLE servers ADD COLUMN version BIGINT NOT NULL DEFAULT 1;
-- The project in which it was registered; that of a manifest is the whole tenant's.
ALTER TABLE servers ADD COLUMN registered_in TEXT COLLATE "C";
-- What a server was found to offer: a JSON list of its tools.
ALTER TABLE servers ADD COLUMN tools TEXT;
CREATE TABLE server_versions (
    server_id TEXT COLLATE "C" NOT NULL REFERENCES servers (id),
    number BIGINT NOT NULL,
    config_schema TEXT NOT NULL,
    tools TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (server_id, number)
);

-- The place in the change log of the change that wrote it: one that was removed and made anew never has an old version again.
ALTER TABLE workflows ADD COLUMN version BIGINT NOT NULL DEFAULT 1;
CREATE INDEX overrides_by_instance ON overrides (instance_id);

ALTER TABLE tokens ADD COLUMN last_used_at BIGINT;
CREATE INDEX tokens_by_instance ON tokens (instance_id) WHERE instance_id IS NOT NULL;

-- What was made by a request that may be sent again, so that it is made once.
CREATE TABLE once (
    caller TEXT COLLATE "C" NOT NULL,
    key TEXT COLLATE "C" NOT NULL,
    request BYTEA NOT NULL,
    made TEXT NOT NULL,
    at BIGINT NOT NULL,
    PRIMARY KEY (caller, key)
);
CREATE INDEX once_by_age ON once (at);

-- Who did what: a line for each change, and for each look at a credential.
CREATE TABLE audit_log (
    id TEXT COLLATE "C" PRIMARY KEY,
    tenant_id TEXT COLLATE "C" NOT NULL,
    project_id TEXT COLLATE "C",
    at BIGINT NOT NULL,
    actor TEXT NOT NULL,
    request_id TEXT,
    act TEXT NOT NULL,
    entity TEXT NOT NULL,
    entity_id TEXT NOT NULL
);
CREATE INDEX audit_log_by_project ON audit_log (tenant_id, project_id, id);
