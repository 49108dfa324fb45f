//! New tokens into the secret store: tried until they lie there, whatever it takes. Until then they are on the disk, and served
//! from memory.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::{StreamExt, stream};
use jiff::Timestamp;
use tokio::sync::Notify;

use super::pair::{Fit, Pair};
use super::rows::{RowNews, Rows};
use super::spool::{Left, Spool, SpoolError};
use crate::clock::Clock;
use crate::limits;
use crate::metrics::Metrics;
use crate::model::id::ConnectionId;
use crate::model::oauth::TokenState;
use crate::model::secret::{SecretDocument, SecretFields};
use crate::secrets::{SecretError, SecretStore};
use crate::store::Store;

/// Stores pairs. Clones share what waits.
#[derive(Clone)]
pub(super) struct Commits(Arc<Inner>);

struct Inner {
    secrets: Arc<dyn SecretStore>,
    store: Store,
    spool: Spool,
    rows: Rows,
    clock: Clock,
    metrics: Metrics,
    waiting: Mutex<HashMap<ConnectionId, Vec<Waiting>>>,
    /// Pairs that are stored, and stay in the spool until the database has heard of it: a restart would tell it anew.
    untold: Mutex<HashMap<ConnectionId, Arc<Pair>>>,
    /// Told when something waits.
    some: Arc<Notify>,
}

/// A pair that is not stored yet.
#[derive(Clone)]
struct Waiting {
    pair: Arc<Pair>,
    /// The whole secret as it will be, to be served meanwhile; `None` after a restart, until the rest of it was read.
    served: Option<Arc<SecretDocument>>,
}

/// The tokens that count from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub generation: u64,
    pub expires_at: Option<Timestamp>,
}

/// What became of one try to store a pair.
enum Tried {
    /// These tokens lie there, or newer ones.
    Done(Stored),
    NotYet(SecretError),
}

impl Commits {
    pub(super) fn new(
        (secrets, store): (Arc<dyn SecretStore>, Store),
        spool: Spool,
        rows: Rows,
        (clock, metrics): (Clock, Metrics),
        some: Arc<Notify>,
    ) -> Self {
        let (waiting, untold) = (Mutex::default(), Mutex::default());
        Self(Arc::new(Inner { secrets, store, spool, rows, clock, metrics, waiting, untold, some }))
    }

    /// Takes over what the last run of this daemon left in the spool.
    pub(super) async fn resume(&self) -> Result<usize, SpoolError> {
        let Left { pairs, mut untold } = self.0.spool.load(self.0.clock.now()).await?;
        let count = pairs.len();
        for pair in pairs {
            self.wait(Waiting { pair: Arc::new(pair), served: None });
        }
        untold.sort_unstable_by_key(|pair| pair.state.generation);
        for pair in untold {
            let TokenState { generation, expires_at, .. } = pair.state;
            self.0.rows.put_off(pair.address.connection, RowNews::Refreshed { generation, expires_at });
            self.keep_untold(&Arc::new(pair)).await;
        }
        Ok(count)
    }

    /// Steps 8 to 10. Once this returns, the tokens may be used: they are stored, or on the disk and on their way.
    pub(super) async fn store(&self, held: &SecretDocument, pair: Pair) -> Stored {
        if pair.is_dear() {
            // Before anything else that could fail.
            if let Err(error) = self.0.spool.put(&pair).await {
                tracing::error!(connection = %pair.address.connection, %error, "new tokens are in memory only until they are stored");
            }
        }
        let Fit::Write(fields, state) = pair.fit(&held.fields) else {
            // What was read before the request was the token that was sent, so it fits.
            return Stored { generation: pair.state.generation, expires_at: pair.state.expires_at };
        };
        let served = Some(Arc::new(served(&fields, held.version, &state)));
        let waiting = Waiting { pair: Arc::new(pair), served };
        let connection = waiting.pair.address.connection;
        self.wait(waiting.clone());
        match self.0.secrets.write(&waiting.pair.address, &fields, held.version).await {
            Ok(_) => {
                let stored = Stored { generation: state.generation, expires_at: state.expires_at };
                self.finish(&waiting.pair, stored).await;
                return stored;
            }
            Err(SecretError::Conflict { .. }) => {
                if let Tried::Done(stored) = self.try_store(&waiting.pair).await {
                    return stored;
                }
            }
            Err(error) => {
                tracing::warn!(%connection, %error, "new tokens cannot be stored yet, and are kept in the spool until they are");
            }
        }
        self.0.some.notify_one();
        Stored { generation: state.generation, expires_at: state.expires_at }
    }

    /// Tries once more to store what waits for a connection; `None` if nothing waits any more.
    pub(super) async fn retry(&self, connection: ConnectionId) -> Option<Stored> {
        let waiting = self.waiting().get(&connection).cloned().unwrap_or_default();
        let mut left = None;
        for Waiting { pair, .. } in waiting {
            match self.try_store(&pair).await {
                Tried::Done(_) => {}
                Tried::NotYet(error) => {
                    tracing::debug!(%connection, %error, "new tokens are not stored yet");
                    left = Some(Stored { generation: pair.state.generation, expires_at: pair.state.expires_at });
                }
            }
        }
        left
    }

    /// Tries once more to store all that waits.
    pub(super) async fn retry_all(&self) {
        let connections: Vec<ConnectionId> = self.waiting().keys().copied().collect();
        let retry = async |connection| {
            self.retry(connection).await;
        };
        stream::iter(connections).for_each_concurrent(limits::SPOOL_STORES_MAX, retry).await;
    }

    /// How many pairs wait.
    pub(super) fn depth(&self) -> usize {
        self.waiting().values().map(Vec::len).sum()
    }

    /// The secret of a connection whose new tokens are not stored yet.
    pub(super) fn served(&self, connection: ConnectionId) -> Option<Arc<SecretDocument>> {
        self.waiting().get(&connection)?.iter().rev().find_map(|waiting| waiting.served.clone())
    }

    /// Step 9, over whatever was written since.
    async fn try_store(&self, pair: &Arc<Pair>) -> Tried {
        let address = &pair.address;
        let mut last = SecretError::Unavailable { cause: "it is changed again and again".into() };
        for _ in 0..limits::REFRESH_TRIES {
            let held = match self.0.secrets.read(address).await {
                Ok(held) => held,
                Err(SecretError::Missing { .. }) if self.is_gone(address.connection).await => {
                    tracing::info!(connection = %address.connection, "new tokens of a deleted connection are dropped");
                    return Tried::Done(self.drop(pair).await);
                }
                Err(error) => return Tried::NotYet(error),
            };
            let current = TokenState::of(&held.fields);
            let current = current.map_or(Stored { generation: 0, expires_at: None }, |state| Stored {
                generation: state.generation,
                expires_at: state.expires_at,
            });
            match pair.fit(&held.fields) {
                Fit::Stored => return Tried::Done(self.finish(pair, current).await),
                Fit::Superseded => return Tried::Done(self.drop_for(pair, current).await),
                Fit::Spare => match self.0.secrets.write(address, &held.fields, held.version).await {
                    // It is so: a standby could as well have told what was so before ours was sent.
                    Ok(_) => return Tried::Done(self.set_aside(pair, current).await),
                    Err(error @ SecretError::Conflict { .. }) => last = error,
                    Err(error) => return Tried::NotYet(error),
                },
                Fit::Write(fields, state) => match self.0.secrets.write(address, &fields, held.version).await {
                    Ok(_) => {
                        let stored = Stored { generation: state.generation, expires_at: state.expires_at };
                        return Tried::Done(self.finish(pair, stored).await);
                    }
                    Err(error @ SecretError::Conflict { .. }) => last = error,
                    Err(error) => {
                        self.serve(pair, || served(&fields, held.version, &state));
                        return Tried::NotYet(error);
                    }
                },
            }
        }
        Tried::NotYet(last)
    }

    /// Step 10.
    async fn finish(&self, pair: &Arc<Pair>, stored: Stored) -> Stored {
        let (Stored { generation, expires_at }, connection) = (stored, pair.address.connection);
        let is_told = self.0.rows.tell(connection, None, RowNews::Refreshed { generation, expires_at }).await;
        if is_told || !pair.is_dear() {
            return self.drop_for(pair, stored).await;
        }
        if let Err(error) = self.0.spool.mark_stored(pair).await {
            tracing::warn!(%error, "tokens that are stored will be stored once more after a restart");
        }
        self.keep_untold(pair).await;
        self.done(pair);
        stored
    }

    /// Of one connection, the newest alone: it is all that there is to tell.
    async fn keep_untold(&self, pair: &Arc<Pair>) {
        let older = self.untold().insert(pair.address.connection, Arc::clone(pair));
        // The same one may come by two ways, from the attempt and from who tries again.
        if let Some(older) = older.filter(|older| older.intent != pair.intent) {
            self.remove(&older).await;
        }
        // It may have been told this very moment.
        self.0.some.notify_one();
    }

    /// Clears the spool of what the database has heard of since it was stored.
    pub(super) async fn clear_told(&self) {
        let is_told = |connection: &ConnectionId| !self.0.rows.is_waiting(*connection);
        let told: Vec<_> = self.untold().extract_if(|connection, _| is_told(connection)).collect();
        for (_, pair) in told {
            self.remove(&pair).await;
        }
    }

    async fn drop(&self, pair: &Arc<Pair>) -> Stored {
        let stored = Stored { generation: pair.state.generation, expires_at: pair.state.expires_at };
        self.drop_for(pair, stored).await
    }

    async fn drop_for(&self, pair: &Arc<Pair>, stored: Stored) -> Stored {
        if pair.is_dear() {
            self.remove(pair).await;
        }
        self.done(pair);
        stored
    }

    async fn remove(&self, pair: &Pair) {
        if let Err(error) = self.0.spool.remove(pair).await {
            // Found again after a restart, it is known to be stored.
            tracing::warn!(%error, "tokens that are stored are still in the spool");
        }
    }

    /// Reliability (5.3, R) would have the spare revoked. Many providers end the whole grant by that, and with it the tokens that
    /// are kept: so it is counted and told of, and a person decides.
    async fn set_aside(&self, pair: &Arc<Pair>, stored: Stored) -> Stored {
        let connection = pair.address.connection;
        self.0.metrics.token_spare();
        tracing::error!(
            %connection,
            "other tokens lie in the place of new ones: somebody reconnected {connection}, or uses its grant elsewhere; ours are set aside in the spool"
        );
        if let Err(error) = self.0.spool.set_aside(pair).await {
            tracing::warn!(%error, "tokens could not be set aside");
        }
        self.done(pair);
        stored
    }

    /// Whether the database knows that a connection is deleted.
    async fn is_gone(&self, connection: ConnectionId) -> bool {
        matches!(self.0.store.connection_tokens(connection).await, Ok(None))
    }

    fn wait(&self, new: Waiting) {
        let mut waiting = self.waiting();
        let of = waiting.entry(new.pair.address.connection).or_default();
        if !of.iter().any(|known| known.pair.intent == new.pair.intent) {
            of.push(new);
        }
        drop(waiting);
        self.count();
    }

    /// A pair that waits can be served from now on.
    fn serve(&self, pair: &Pair, document: impl FnOnce() -> SecretDocument) {
        let mut waiting = self.waiting();
        let known = waiting.get_mut(&pair.address.connection);
        let known = known.and_then(|of| of.iter_mut().find(|known| known.pair.intent == pair.intent));
        if let Some(known) = known {
            known.served.get_or_insert_with(|| Arc::new(document()));
        }
    }

    fn done(&self, pair: &Pair) {
        let mut waiting = self.waiting();
        if let Some(of) = waiting.get_mut(&pair.address.connection) {
            of.retain(|known| known.pair.intent != pair.intent);
            if of.is_empty() {
                waiting.remove(&pair.address.connection);
            }
        }
        drop(waiting);
        self.count();
    }

    fn count(&self) {
        self.0.metrics.token_spool(self.depth());
    }

    fn untold(&self) -> MutexGuard<'_, HashMap<ConnectionId, Arc<Pair>>> {
        self.0.untold.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<ConnectionId, Vec<Waiting>>> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The secret as its readers get it.
fn served(fields: &SecretFields, version: u64, state: &TokenState) -> SecretDocument {
    let mut fields = fields.clone();
    TokenState::take(&mut fields);
    SecretDocument { fields, version, generation: Some(state.generation), expires_at: state.expires_at }
}
