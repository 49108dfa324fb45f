//! Access tokens, by their hashes.

use jiff::Timestamp;
use sqlx::AssertSqlSafe;

use super::records::{Act, Entity, ProjectRecord, TokenRecord};
use super::rows::{parsed, parsed_optional, timestamp, unreadable};
use super::tx::{execute, in_tx};
use super::{Store, StoreError, Tx, read};
use crate::limits;
use crate::model::id::{InstanceId, ProjectId, TenantId, TokenId};

macro_rules! token_columns {
    () => {
        "id, tenant_id, project_id, instance_id, name, shown_prefix, hash, role, scopes, created_at, expires_at, revoked_at,
            last_used_at"
    };
}

const TOKENS_FIND: &str = concat!("SELECT ", token_columns!(), " FROM tokens WHERE shown_prefix = $1 ORDER BY id");
const TOKEN_INSERT: &str = concat!(
    "INSERT INTO tokens (",
    token_columns!(),
    ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)"
);
const TOKEN_REVOKE: &str = "UPDATE tokens SET revoked_at = $3 WHERE id = $1 AND tenant_id = $2 AND revoked_at IS NULL
    RETURNING project_id";

/// Between these the rows: id, time. Several daemons write, in any order.
const TOKENS_USED: &str = "WITH used (id, at) AS (VALUES ";
const TOKENS_USED_LATEST: &str = ") UPDATE tokens SET last_used_at = used.at FROM used
    WHERE tokens.id = used.id AND (tokens.last_used_at IS NULL OR tokens.last_used_at < used.at)";

const TOKENS_OF_INSTANCE_DELETE: &str =
    "DELETE FROM tokens WHERE tenant_id = $1 AND project_id = $2 AND instance_id = $3 RETURNING id";

pub(super) const TOKENS_OF_PROJECT: &str = concat!(
    "SELECT ",
    token_columns!(),
    " FROM tokens WHERE tenant_id = $1 AND (project_id = $2 OR project_id IS NULL) ORDER BY id"
);

/// Newest first, before `$3`; those of the whole tenant only where `$5` says so.
const TOKENS_PAGE: &str = concat!(
    "SELECT ",
    token_columns!(),
    " FROM tokens WHERE tenant_id = $1 AND (project_id = $2 OR (project_id IS NULL AND $5)) AND id < $3
    ORDER BY id DESC LIMIT $4"
);
/// Live ones that are called so; the one whose id it is comes first.
const TOKENS_CALLED: &str = concat!(
    "SELECT ",
    token_columns!(),
    " FROM tokens WHERE tenant_id = $1 AND (project_id = $2 OR (project_id IS NULL AND $5)) AND revoked_at IS NULL
        AND (id = $3 OR shown_prefix = $3 OR name = $3)
    ORDER BY id = $3 DESC, shown_prefix = $3 DESC, id LIMIT $4"
);
/// After all ids.
const NEWEST: &str = "tok_~";

#[derive(sqlx::FromRow)]
pub(super) struct TokenRow {
    id: String,
    tenant_id: String,
    project_id: Option<String>,
    instance_id: Option<String>,
    name: String,
    shown_prefix: String,
    hash: Vec<u8>,
    role: String,
    scopes: String,
    created_at: i64,
    expires_at: Option<i64>,
    revoked_at: Option<i64>,
    last_used_at: Option<i64>,
}

impl TokenRow {
    pub(super) fn read(self) -> Result<TokenRecord, StoreError> {
        let time = |column: &str, at: Option<i64>| at.map(|at| timestamp(column, at)).transpose();
        Ok(TokenRecord {
            id: parsed("tokens.id", &self.id)?,
            tenant: parsed("tokens.tenant_id", &self.tenant_id)?,
            project: parsed_optional("tokens.project_id", self.project_id.as_deref())?,
            instance: parsed_optional("tokens.instance_id", self.instance_id.as_deref())?,
            name: self.name,
            shown_prefix: self.shown_prefix,
            hash: self.hash.try_into().map_err(|_| unreadable("tokens.hash"))?,
            role: parsed("tokens.role", &self.role)?,
            scopes: parsed("tokens.scopes", &self.scopes)?,
            created_at: timestamp("tokens.created_at", self.created_at)?,
            expires_at: time("tokens.expires_at", self.expires_at)?,
            revoked_at: time("tokens.revoked_at", self.revoked_at)?,
            last_used_at: time("tokens.last_used_at", self.last_used_at)?,
        })
    }
}

impl Store {
    /// The tokens whose shown prefix is this one; revoked and expired ones included.
    pub async fn tokens_find(&self, shown_prefix: &str) -> Result<Vec<TokenRecord>, StoreError> {
        if shown_prefix.contains('\0') {
            return Ok(Vec::new());
        }
        let rows: Vec<TokenRow> =
            read!(self, |connection| sqlx::query_as(TOKENS_FIND).bind(shown_prefix).fetch_all(connection))?;
        rows.into_iter().map(TokenRow::read).collect()
    }

    /// The tokens of a project and, where `with_wide` says so, those of its whole tenant, newest first: at most `limit` that
    /// are older than `before`.
    pub async fn tokens_page(
        &self,
        (tenant, project): (TenantId, ProjectId),
        with_wide: bool,
        before: Option<TokenId>,
        limit: usize,
    ) -> Result<Vec<TokenRecord>, StoreError> {
        let before = before.map_or_else(|| NEWEST.to_owned(), |id| id.to_string());
        let rows: Vec<TokenRow> = read!(self, |connection| {
            sqlx::query_as(TOKENS_PAGE)
                .bind(tenant.to_string())
                .bind(project.to_string())
                .bind(&before)
                .bind(i64::try_from(limit).unwrap_or(i64::MAX))
                .bind(with_wide)
                .fetch_all(connection)
        })?;
        rows.into_iter().map(TokenRow::read).collect()
    }

    /// The live tokens among these that have this id, shown prefix or name: at most `limits::TOKENS_CALLED_MAX`.
    pub async fn tokens_called(
        &self,
        (tenant, project): (TenantId, ProjectId),
        with_wide: bool,
        asked: &str,
    ) -> Result<Vec<TokenRecord>, StoreError> {
        if asked.contains('\0') {
            return Ok(Vec::new());
        }
        let rows: Vec<TokenRow> = read!(self, |connection| {
            sqlx::query_as(TOKENS_CALLED)
                .bind(tenant.to_string())
                .bind(project.to_string())
                .bind(asked)
                .bind(limits::TOKENS_CALLED_MAX)
                .bind(with_wide)
                .fetch_all(connection)
        })?;
        rows.into_iter().map(TokenRow::read).collect()
    }

    /// Writes down when tokens were last used, each of them once. A measurement: it never enters the change log.
    pub async fn token_uses_write(&self, used: &[(TokenId, Timestamp)]) -> Result<(), StoreError> {
        for some in used.chunks(limits::USES_PER_TRANSACTION) {
            let mut tx = self.begin().await?;
            for few in some.chunks(limits::USES_PER_STATEMENT) {
                tx.tokens_used(few).await?;
            }
            tx.commit().await?;
        }
        Ok(())
    }
}

impl Tx {
    async fn tokens_used(&mut self, used: &[(TokenId, Timestamp)]) -> Result<(), StoreError> {
        let places = |row: usize| format!("(${}, ${})", 2 * row + 1, 2 * row + 2);
        let rows: Vec<String> = (0..used.len()).map(places).collect();
        let text = format!("{TOKENS_USED}{}{TOKENS_USED_LATEST}", rows.join(", "));
        execute!(self, {
            let mut query = sqlx::query(AssertSqlSafe(text)).persistent(false);
            for (token, at) in used {
                query = query.bind(token.to_string()).bind(at.as_microsecond());
            }
            query
        })
        .map(drop)
    }

    pub async fn token_insert(&mut self, token: &TokenRecord) -> Result<(), StoreError> {
        let sequence = self.sequence_next().await?;
        let id = token.id.to_string();
        execute!(
            self,
            sqlx::query(TOKEN_INSERT)
                .bind(&id)
                .bind(token.tenant.to_string())
                .bind(token.project.map(|id| id.to_string()))
                .bind(token.instance.map(|id| id.to_string()))
                .bind(&token.name)
                .bind(&token.shown_prefix)
                .bind(token.hash.as_slice())
                .bind(token.role.to_string())
                .bind(token.scopes.to_string())
                .bind(token.created_at.as_microsecond())
                .bind(token.expires_at.map(Timestamp::as_microsecond))
                .bind(token.revoked_at.map(Timestamp::as_microsecond))
                .bind(token.last_used_at.map(Timestamp::as_microsecond))
        )
        .map_err(|error| error.about(|| format!("token {:?}", token.name)))?;
        self.change_insert(sequence, token.tenant, token.project, Act::Create, Entity::Token, &id).await
    }

    /// `false` if there is no such token that is not yet revoked.
    pub async fn token_revoke(&mut self, tenant: TenantId, id: TokenId, at: Timestamp) -> Result<bool, StoreError> {
        let sequence = self.sequence_next().await?;
        let revoked: Option<Option<String>> = in_tx!(self, |connection| {
            sqlx::query_scalar(TOKEN_REVOKE)
                .bind(id.to_string())
                .bind(tenant.to_string())
                .bind(at.as_microsecond())
                .fetch_optional(connection)
        })?;
        let Some(project) = revoked else { return Ok(false) };
        let project = parsed_optional("tokens.project_id", project.as_deref())?;
        self.change_insert(sequence, tenant, project, Act::Revoke, Entity::Token, &id.to_string()).await?;
        Ok(true)
    }

    /// Deletes the tokens that are good for one instance only. For operations that hold the log's head already.
    pub(super) async fn tokens_of_instance_delete(
        &mut self,
        project: &ProjectRecord,
        instance: InstanceId,
    ) -> Result<(), StoreError> {
        let deleted: Vec<String> = in_tx!(self, |connection| {
            sqlx::query_scalar(TOKENS_OF_INSTANCE_DELETE)
                .bind(project.tenant.to_string())
                .bind(project.id.to_string())
                .bind(instance.to_string())
                .fetch_all(connection)
        })?;
        for token in deleted {
            let sequence = self.sequence_next().await?;
            self.project_change(sequence, project, Act::Delete, Entity::Token, token).await?;
        }
        Ok(())
    }
}
