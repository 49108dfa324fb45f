//! What the database knows of OAuth tokens: which set is current, whether its refresh is in trouble, and who is at it. The tokens
//! themselves are secrets.

use std::time::Duration;

use jiff::Timestamp;

use super::records::{Act, Entity, ProjectRecord, TokensFound};
use super::rows::{counted, parsed, stored_version, timestamp};
use super::tx::execute;
use super::{Store, StoreError, Tx, read};
use crate::model::connection::Status;
use crate::model::id::ConnectionId;
use crate::model::secret::{SecretAddress, SecretSource};

const TOKENS_GET: &str =
    "SELECT p.id, p.tenant_id, p.slug, p.name, c.template, c.status, c.status_reason, c.status_since, c.generation
    FROM connections c JOIN projects p ON p.id = c.project_id WHERE c.id = $1";
/// Whatever was wrong with the refresh is over. What people decided stays.
const REFRESHED: &str = "UPDATE connections SET generation = $3, token_expires_at = $4,
        version = CASE WHEN status IN ('degraded', 'reconnect') THEN version + 1 ELSE version END,
        updated_at = CASE WHEN status IN ('degraded', 'reconnect') THEN $5 ELSE updated_at END,
        status_since = CASE WHEN status IN ('degraded', 'reconnect') THEN $5 ELSE status_since END,
        status_reason = CASE WHEN status IN ('degraded', 'reconnect') THEN NULL ELSE status_reason END,
        status = CASE WHEN status IN ('degraded', 'reconnect') THEN 'active' ELSE status END
    WHERE id = $1 AND project_id = $2 AND generation < $3";
/// News of tokens that were replaced meanwhile are none.
const TROUBLED: &str = "UPDATE connections SET status = $3, status_reason = $4, status_since = $5,
        version = version + 1, updated_at = $6
    WHERE id = $1 AND project_id = $2 AND generation <= $7 AND status IN ('active', 'degraded')
        AND (status <> $3 OR COALESCE(status_reason, '') <> COALESCE($4, ''))";
/// By the clock of the database, which all daemons have in common. One that ends later than a lease lasts is of a clock that was
/// set back since, and counts as little as one that is over.
const LEASE_TAKE: &str = "INSERT INTO refresh_leases AS held (connection_id, owner, ends_at)
    SELECT $1, $2, (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::BIGINT + $3
    ON CONFLICT (connection_id) DO UPDATE SET owner = excluded.owner, ends_at = excluded.ends_at
        WHERE held.owner = excluded.owner OR held.ends_at NOT BETWEEN excluded.ends_at - $3 AND excluded.ends_at
    RETURNING owner";
const LEASE_RELEASE: &str = "DELETE FROM refresh_leases WHERE connection_id = $1 AND owner = $2 RETURNING owner";

/// In any order: those for which nothing can be done do not stand before the others.
const IDLE: &str = "SELECT c.id, t.slug, p.slug FROM connections c JOIN projects p ON p.id = c.project_id
        JOIN tenants t ON t.id = p.tenant_id
    WHERE c.template = $1 AND c.status IN ('active', 'degraded') AND COALESCE(c.token_expires_at, c.updated_at) < $2
    ORDER BY random() LIMIT $3";

type TokensRow = (String, String, String, String, String, String, Option<String>, i64, i64);

impl Store {
    /// What is known of a connection's tokens, whosever it is; `None` for one that is gone.
    pub async fn connection_tokens(&self, id: ConnectionId) -> Result<Option<TokensFound>, StoreError> {
        let row: Option<TokensRow> =
            read!(self, |connection| sqlx::query_as(TOKENS_GET).bind(id.to_string()).fetch_optional(connection))?;
        let Some((project, tenant, slug, name, template, state, reason, since, generation)) = row else {
            return Ok(None);
        };
        let project = ProjectRecord {
            id: parsed("projects.id", &project)?,
            tenant: parsed("projects.tenant_id", &tenant)?,
            slug: parsed("projects.slug", &slug)?,
            name,
        };
        let state = parsed("connections.status", &state)?;
        let status = Status { state, reason, since: timestamp("connections.status_since", since)? };
        let generation = counted("connections.generation", generation)?;
        Ok(Some(TokensFound { project, template, status, generation }))
    }

    /// Connections of a template whose access token ended before `until`, wherever they are: nobody has used them since.
    pub async fn connections_idle(
        &self,
        template: &str,
        until: Timestamp,
        limit: usize,
    ) -> Result<Vec<SecretAddress>, StoreError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows: Vec<(String, String, String)> = read!(self, |connection| {
            sqlx::query_as(IDLE).bind(template).bind(until.as_microsecond()).bind(limit).fetch_all(connection)
        })?;
        let address = |(id, tenant, project): (String, String, String)| {
            Ok(SecretAddress {
                tenant: parsed("tenants.slug", &tenant)?,
                project: parsed("projects.slug", &project)?,
                connection: parsed("connections.id", &id)?,
                source: SecretSource::Stored,
            })
        };
        rows.into_iter().map(address).collect()
    }

    /// Asks the other daemons to leave a connection's tokens to `owner` for `span`; `false` if one of them asked before.
    /// That is a courtesy which saves requests. Where all daemons have one SQLite file, there is nobody to ask.
    pub async fn refresh_lease_take(&self, id: ConnectionId, owner: &str, span: Duration) -> Result<bool, StoreError> {
        if self.is_file() {
            return Ok(true);
        }
        let taken: Option<String> = read!(self, |connection| {
            sqlx::query_scalar(LEASE_TAKE)
                .bind(id.to_string())
                .bind(owner)
                .bind(i64::try_from(span.as_micros()).unwrap_or(i64::MAX))
                .fetch_optional(connection)
        })?;
        Ok(taken.is_some())
    }

    /// Ends that.
    pub async fn refresh_lease_release(&self, id: ConnectionId, owner: &str) -> Result<(), StoreError> {
        if self.is_file() {
            return Ok(());
        }
        let released: Option<String> = read!(self, |connection| {
            sqlx::query_scalar(LEASE_RELEASE).bind(id.to_string()).bind(owner).fetch_optional(connection)
        })?;
        drop(released);
        Ok(())
    }
}

impl Tx {
    /// Notes that a connection has newer tokens, and that its refresh works; `false` if that is known already. The version
    /// grows only where people see another status.
    pub async fn connection_refreshed(
        &mut self,
        project: &ProjectRecord,
        id: ConnectionId,
        generation: u64,
        expires_at: Option<Timestamp>,
    ) -> Result<bool, StoreError> {
        let sequence = self.sequence_next().await?;
        let before = self.state_before(project, id).await?;
        let now = self.now.as_microsecond();
        let changed = execute!(
            self,
            sqlx::query(REFRESHED)
                .bind(id.to_string())
                .bind(project.id.to_string())
                .bind(stored_version(generation))
                .bind(expires_at.map(Timestamp::as_microsecond))
                .bind(now)
        )?;
        let is_news = changed > 0;
        if is_news {
            self.event_of(project, id, before).await?;
            self.project_change(sequence, project, Act::Update, Entity::Connection, id).await?;
        }
        Ok(is_news)
    }

    /// Changes the status of a connection whose tokens of `generation` cannot be refreshed; `false` if it is known to be so, or
    /// there are newer ones, or a person turned it off.
    pub async fn connection_troubled(
        &mut self,
        project: &ProjectRecord,
        id: ConnectionId,
        generation: u64,
        status: &Status,
    ) -> Result<bool, StoreError> {
        let sequence = self.sequence_next().await?;
        let before = self.state_before(project, id).await?;
        let now = self.now.as_microsecond();
        let changed = execute!(
            self,
            sqlx::query(TROUBLED)
                .bind(id.to_string())
                .bind(project.id.to_string())
                .bind(status.state.to_string())
                .bind(&status.reason)
                .bind(status.since.as_microsecond())
                .bind(now)
                .bind(stored_version(generation))
        )?;
        let is_news = changed > 0;
        if is_news {
            self.event_of(project, id, before).await?;
            self.project_change(sequence, project, Act::Update, Entity::Connection, id).await?;
        }
        Ok(is_news)
    }
}
