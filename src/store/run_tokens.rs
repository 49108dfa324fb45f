//! What daemons must agree on to believe each other's run tokens: public keys, and from when on each project's tokens hold.
//! No run token is here.

use jiff::Timestamp;

use super::records::{Act, Entity, ProjectRecord, RunTokenKey, RunTokenTrust};
use super::rows::{parsed, timestamp, unreadable};
use super::tx::execute;
use super::{Store, StoreError, Tx, read};

/// Keys and revocations in one statement, so that no revocation is older than the keys it is read with.
const TRUST_READ: &str = "SELECT id, public_key, expires_at AS at FROM run_token_keys WHERE expires_at > $1
    UNION ALL
    SELECT id, NULL, run_tokens_not_before FROM projects WHERE run_tokens_not_before > $2";
const KEY_INSERT: &str = "INSERT INTO run_token_keys (id, public_key, created_at, expires_at) VALUES ($1, $2, $3, $4)";
const KEYS_PRUNE: &str = "DELETE FROM run_token_keys WHERE expires_at <= $1";
/// Never back, whatever the clock of this machine says: what was revoked stays revoked.
const REVOKE: &str = "UPDATE projects SET run_tokens_not_before = $2
    WHERE id = $1 AND (run_tokens_not_before IS NULL OR run_tokens_not_before < $2)";

type TrustRow = (String, Option<Vec<u8>>, i64);

impl Store {
    /// The keys that have not ended by `now`, and the revocations after `revoked_after`.
    pub async fn run_token_trust(&self, now: Timestamp, revoked_after: Timestamp) -> Result<RunTokenTrust, StoreError> {
        let rows: Vec<TrustRow> = read!(self, |connection| {
            sqlx::query_as(TRUST_READ)
                .bind(now.as_microsecond())
                .bind(revoked_after.as_microsecond())
                .fetch_all(connection)
        })?;
        let mut trust = RunTokenTrust::default();
        for (id, public, at) in rows {
            match public {
                Some(public) => trust.keys.push(RunTokenKey {
                    id: parsed("run_token_keys.id", &id)?,
                    public: public.try_into().map_err(|_| unreadable("run_token_keys.public_key"))?,
                    expires_at: timestamp("run_token_keys.expires_at", at)?,
                }),
                None => {
                    let not_before = timestamp("projects.run_tokens_not_before", at)?;
                    trust.revoked.push((parsed("projects.id", &id)?, not_before));
                }
            }
        }
        Ok(trust)
    }
}

impl Tx {
    /// Publishes a key, and removes those that have ended. Not in the change log: whoever meets a key that it does not know
    /// reads them all, and a thousand daemons that restart are not to tell each other of a thousand keys.
    pub async fn run_token_key_insert(&mut self, key: &RunTokenKey) -> Result<(), StoreError> {
        let now = self.now.as_microsecond();
        execute!(self, sqlx::query(KEYS_PRUNE).bind(now))?;
        execute!(
            self,
            sqlx::query(KEY_INSERT)
                .bind(key.id.to_string())
                .bind(key.public.as_slice())
                .bind(now)
                .bind(key.expires_at.as_microsecond())
        )
        .map(drop)
    }

    /// Revokes the project's run tokens that were issued up to `at`.
    pub async fn run_tokens_revoke(&mut self, project: &ProjectRecord, at: Timestamp) -> Result<(), StoreError> {
        let sequence = self.sequence_next().await?;
        execute!(self, sqlx::query(REVOKE).bind(project.id.to_string()).bind(at.as_microsecond()))?;
        self.project_change(sequence, project, Act::Revoke, Entity::RunTokens, project.id).await
    }
}
