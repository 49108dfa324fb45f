//! Sign-ins at providers that people were sent to, and what was granted in those that came to an end.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::records::{ProjectRecord, TenantRecord};
use super::rows::{from_json, parsed, timestamp, to_json, unreadable};
use super::tx::execute;
use super::{Store, StoreError, Tx, read};
use crate::limits;
use crate::model::id::{ConnectionId, FlowId, ProjectId};

macro_rules! flow_found {
    ($condition:literal) => {
        concat!(
            "SELECT f.id, f.connection_id, f.secret_id, f.template, f.services, f.scopes_asked, f.actor, f.link_hash,
            f.browser_hash, f.started_at, f.expires_at, f.taken_at, f.completed_at, f.attempt,
            f.busy_until, p.id AS project_id, p.slug AS project_slug,
            p.name AS project_name, t.id AS tenant_id, t.slug AS tenant_slug, t.name AS tenant_name
            FROM connect_flows f JOIN projects p ON p.id = f.project_id JOIN tenants t ON t.id = p.tenant_id WHERE ",
            $condition
        )
    };
}

const FLOW_GET: &str = flow_found!("f.id = $1");
const FLOW_OF_STATE: &str = flow_found!("f.state_hash = $1");
const FLOW_LATEST: &str =
    flow_found!("f.project_id = $1 AND f.connection_id = $2 ORDER BY f.started_at DESC, f.id DESC LIMIT 1");
const FLOWS_OPEN: &str = "SELECT COUNT(*) FROM connect_flows WHERE project_id = $1 AND expires_at > $2
    AND completed_at IS NULL";
const FLOW_INSERT: &str =
    "INSERT INTO connect_flows (id, project_id, connection_id, secret_id, template, services, scopes_asked,
        actor, link_hash, started_at, expires_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";
/// Only one browser gets in. Each attempt has a state of its own, and then the one before is good for nothing: so there is none
/// while that one is worked on.
const FLOW_OPEN: &str = "UPDATE connect_flows SET browser_hash = $2, state_hash = $3, taken_at = NULL, attempt = $5 + 1
    WHERE id = $1 AND completed_at IS NULL AND expires_at > $4 AND (browser_hash IS NULL OR browser_hash = $2)
        AND attempt = $5 AND (busy_until IS NULL OR busy_until <= $4)";
/// Of those who come back with one state, one gets through.
const FLOW_TAKE: &str = "UPDATE connect_flows SET taken_at = $2, busy_until = $3
    WHERE state_hash = $1 AND taken_at IS NULL AND completed_at IS NULL AND expires_at > $2";
const FLOW_RELEASE: &str = "UPDATE connect_flows SET busy_until = NULL WHERE state_hash = $1";
const FLOW_COMPLETE: &str = "UPDATE connect_flows SET completed_at = $2 WHERE id = $1";
const FLOW_DELETE: &str = "DELETE FROM connect_flows WHERE secret_id = $1";
const OF_ACCOUNT: &str = "SELECT c.id, c.name FROM connection_grants g JOIN connections c ON c.id = g.connection_id
    WHERE g.account_id = $1 AND c.project_id = $2 AND c.template = $3 ORDER BY c.id LIMIT $4";
const GRANT_GET: &str =
    "SELECT account_id, scopes_asked, scopes_granted, granted_at FROM connection_grants WHERE connection_id = $1";
const GRANT_PUT: &str =
    "INSERT INTO connection_grants (connection_id, account_id, scopes_asked, scopes_granted, granted_at)
    VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT (connection_id) DO UPDATE SET account_id = excluded.account_id, scopes_asked = excluded.scopes_asked,
        scopes_granted = excluded.scopes_granted, granted_at = excluded.granted_at";

/// A sign-in at a provider: begun by somebody, to be finished in one browser.
#[derive(Clone, Debug)]
pub struct FlowRecord {
    pub id: FlowId,
    pub connection: ConnectionId,
    /// Under which id its own secrets lie.
    pub secret: ConnectionId,
    pub template: String,
    /// The services of the account that are to be enabled.
    pub services: BTreeSet<String>,
    pub scopes_asked: BTreeSet<String>,
    /// Who began it.
    pub actor: String,
    /// SHA-256 of the key in its link.
    pub link_hash: [u8; 32],
    /// SHA-256 of what the browser holds that opened the link.
    pub browser_hash: Option<[u8; 32]>,
    pub started_at: Timestamp,
    pub expires_at: Timestamp,
    /// When somebody came back with its present state.
    pub taken_at: Option<Timestamp>,
    pub completed_at: Option<Timestamp>,
    /// How often its browser was sent to the provider with a new state.
    pub attempt: i64,
    /// Until when what somebody came back with is worked on, unless that ends before.
    pub busy_until: Option<Timestamp>,
}

/// A sign-in, and where it belongs.
#[derive(Clone, Debug)]
pub struct FlowFound {
    pub flow: FlowRecord,
    pub tenant: TenantRecord,
    pub project: ProjectRecord,
}

/// What a provider granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantRecord {
    /// The provider's own id of the account, where it tells one.
    pub account_id: Option<String>,
    pub scopes_asked: BTreeSet<String>,
    pub scopes_granted: BTreeSet<String>,
    pub granted_at: Timestamp,
}

impl GrantRecord {
    /// What was asked for, and not granted.
    pub fn scopes_missing(&self) -> BTreeSet<String> {
        self.scopes_asked.difference(&self.scopes_granted).cloned().collect()
    }
}

#[derive(sqlx::FromRow)]
struct FlowRow {
    id: String,
    connection_id: String,
    secret_id: String,
    template: String,
    services: String,
    scopes_asked: String,
    actor: String,
    link_hash: Vec<u8>,
    browser_hash: Option<Vec<u8>>,
    started_at: i64,
    expires_at: i64,
    taken_at: Option<i64>,
    completed_at: Option<i64>,
    attempt: i64,
    busy_until: Option<i64>,
    project_id: String,
    project_slug: String,
    project_name: String,
    tenant_id: String,
    tenant_slug: String,
    tenant_name: String,
}

impl FlowRow {
    fn read(self) -> Result<FlowFound, StoreError> {
        let hash = |column: &str, bytes: Vec<u8>| <[u8; 32]>::try_from(bytes).map_err(|_| unreadable(column));
        let time = |column: &str, at: Option<i64>| at.map(|at| timestamp(column, at)).transpose();
        let tenant = TenantRecord {
            id: parsed("tenants.id", &self.tenant_id)?,
            slug: parsed("tenants.slug", &self.tenant_slug)?,
            name: self.tenant_name,
        };
        let project = ProjectRecord {
            id: parsed("projects.id", &self.project_id)?,
            tenant: tenant.id,
            slug: parsed("projects.slug", &self.project_slug)?,
            name: self.project_name,
        };
        let flow = FlowRecord {
            id: parsed("connect_flows.id", &self.id)?,
            connection: parsed("connect_flows.connection_id", &self.connection_id)?,
            secret: parsed("connect_flows.secret_id", &self.secret_id)?,
            template: self.template,
            services: from_json("connect_flows.services", &self.services)?,
            scopes_asked: from_json("connect_flows.scopes_asked", &self.scopes_asked)?,
            actor: self.actor,
            link_hash: hash("connect_flows.link_hash", self.link_hash)?,
            browser_hash: self.browser_hash.map(|bytes| hash("connect_flows.browser_hash", bytes)).transpose()?,
            started_at: timestamp("connect_flows.started_at", self.started_at)?,
            expires_at: timestamp("connect_flows.expires_at", self.expires_at)?,
            taken_at: time("connect_flows.taken_at", self.taken_at)?,
            completed_at: time("connect_flows.completed_at", self.completed_at)?,
            attempt: self.attempt,
            busy_until: time("connect_flows.busy_until", self.busy_until)?,
        };
        Ok(FlowFound { flow, tenant, project })
    }
}

impl Store {
    /// A sign-in, whosever it is.
    pub async fn flow_get(&self, id: FlowId) -> Result<Option<FlowFound>, StoreError> {
        let row: Option<FlowRow> =
            read!(self, |held| sqlx::query_as(FLOW_GET).bind(id.to_string()).fetch_optional(held))?;
        row.map(FlowRow::read).transpose()
    }

    /// The sign-in whose present state has this hash.
    pub async fn flow_of_state(&self, state: &[u8; 32]) -> Result<Option<FlowFound>, StoreError> {
        let row: Option<FlowRow> =
            read!(self, |held| sqlx::query_as(FLOW_OF_STATE).bind(state.as_slice()).fetch_optional(held))?;
        row.map(FlowRow::read).transpose()
    }

    /// The sign-in that was last begun for a connection, unless it is forgotten.
    pub async fn flow_latest(
        &self,
        project: ProjectId,
        connection: ConnectionId,
    ) -> Result<Option<FlowFound>, StoreError> {
        let (project, connection) = (project.to_string(), connection.to_string());
        let row: Option<FlowRow> =
            read!(self, |held| sqlx::query_as(FLOW_LATEST).bind(&project).bind(&connection).fetch_optional(held))?;
        row.map(FlowRow::read).transpose()
    }

    /// How many sign-ins of a project are neither finished nor expired.
    pub async fn flows_open(&self, project: ProjectId, now: Timestamp) -> Result<i64, StoreError> {
        read!(self, |held| {
            sqlx::query_scalar(FLOWS_OPEN).bind(project.to_string()).bind(now.as_microsecond()).fetch_one(held)
        })
    }

    /// Connections of a project, of one template, that are of the same account as this one: at most `limits::REFERENCES_MAX`.
    pub async fn connections_of_account(
        &self,
        project: ProjectId,
        template: &str,
        account: &str,
    ) -> Result<Vec<(ConnectionId, String)>, StoreError> {
        let (project, limit) = (project.to_string(), limits::REFERENCES_MAX);
        let rows: Vec<(String, String)> = read!(self, |held| {
            sqlx::query_as(OF_ACCOUNT).bind(account).bind(&project).bind(template).bind(limit).fetch_all(held)
        })?;
        rows.into_iter().map(|(id, name)| Ok((parsed("connections.id", &id)?, name))).collect()
    }

    /// What the provider granted to a connection; `None` if nobody ever signed in for it.
    pub async fn grant_get(&self, connection: ConnectionId) -> Result<Option<GrantRecord>, StoreError> {
        let row: Option<(Option<String>, String, String, i64)> =
            read!(self, |held| sqlx::query_as(GRANT_GET).bind(connection.to_string()).fetch_optional(held))?;
        let record = |(account_id, asked, granted, at): (_, String, String, _)| {
            Ok(GrantRecord {
                account_id,
                scopes_asked: from_json("connection_grants.scopes_asked", &asked)?,
                scopes_granted: from_json("connection_grants.scopes_granted", &granted)?,
                granted_at: timestamp("connection_grants.granted_at", at)?,
            })
        };
        row.map(record).transpose()
    }
}

impl Tx {
    pub async fn flow_insert(&mut self, project: &ProjectRecord, flow: &FlowRecord) -> Result<(), StoreError> {
        let services = to_json("connect_flows.services", &flow.services)?;
        let scopes = to_json("connect_flows.scopes_asked", &flow.scopes_asked)?;
        execute!(
            self,
            sqlx::query(FLOW_INSERT)
                .bind(flow.id.to_string())
                .bind(project.id.to_string())
                .bind(flow.connection.to_string())
                .bind(flow.secret.to_string())
                .bind(&flow.template)
                .bind(&services)
                .bind(&scopes)
                .bind(&flow.actor)
                .bind(flow.link_hash.as_slice())
                .bind(flow.started_at.as_microsecond())
                .bind(flow.expires_at.as_microsecond())
        )
        .map(drop)
    }

    /// A browser is sent to the provider with the state of the attempt after these; `false` if another browser, or another
    /// attempt, was first, or it is too late.
    pub async fn flow_open(
        &mut self,
        id: FlowId,
        (browser, state): (&[u8; 32], &[u8; 32]),
        attempts: i64,
    ) -> Result<bool, StoreError> {
        let now = self.now.as_microsecond();
        execute!(
            self,
            sqlx::query(FLOW_OPEN)
                .bind(id.to_string())
                .bind(browser.as_slice())
                .bind(state.as_slice())
                .bind(now)
                .bind(attempts)
        )
        .map(|changed| changed > 0)
    }

    /// Somebody came back with a state, which is worked on until then; `false` if it was used before, or is not good any more.
    pub async fn flow_take(&mut self, state: &[u8; 32], busy_until: Timestamp) -> Result<bool, StoreError> {
        let (now, until) = (self.now.as_microsecond(), busy_until.as_microsecond());
        execute!(self, sqlx::query(FLOW_TAKE).bind(state.as_slice()).bind(now).bind(until)).map(|changed| changed > 0)
    }

    /// What somebody came back with is worked on no more, and the sign-in is not at its end.
    pub async fn flow_release(&mut self, state: &[u8; 32]) -> Result<(), StoreError> {
        execute!(self, sqlx::query(FLOW_RELEASE).bind(state.as_slice())).map(drop)
    }

    /// A sign-in has come to its end. Goes with the change of the connection itself.
    pub async fn flow_complete(&mut self, id: FlowId) -> Result<(), StoreError> {
        let now = self.now.as_microsecond();
        execute!(self, sqlx::query(FLOW_COMPLETE).bind(id.to_string()).bind(now)).map(drop)
    }

    /// Forgets the sign-in whose secrets lay under this id.
    pub async fn flow_delete(&mut self, secret: ConnectionId) -> Result<(), StoreError> {
        execute!(self, sqlx::query(FLOW_DELETE).bind(secret.to_string())).map(drop)
    }

    /// Notes what the provider granted. Goes with the change of the connection itself.
    pub async fn grant_put(&mut self, connection: ConnectionId, grant: &GrantRecord) -> Result<(), StoreError> {
        let asked = to_json("connection_grants.scopes_asked", &grant.scopes_asked)?;
        let granted = to_json("connection_grants.scopes_granted", &grant.scopes_granted)?;
        execute!(
            self,
            sqlx::query(GRANT_PUT)
                .bind(connection.to_string())
                .bind(&grant.account_id)
                .bind(&asked)
                .bind(&granted)
                .bind(grant.granted_at.as_microsecond())
        )
        .map(drop)
    }
}
