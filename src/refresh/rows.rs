//! What the database is told of refreshes: news that every daemon hears, and that people see. News that cannot be told wait.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use tokio::sync::Notify;

use crate::clock::Clock;
use crate::limits;
use crate::model::connection::{ConnectionState, Status};
use crate::model::id::ConnectionId;
use crate::store::{Actor, ProjectRecord, Store, StoreError};

/// One thing that happened to a connection's tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RowNews {
    Refreshed {
        generation: u64,
        expires_at: Option<Timestamp>,
    },
    /// It did not work, and is tried again.
    Degraded {
        generation: u64,
        reason: &'static str,
    },
    /// A person must.
    Reconnect {
        generation: u64,
        reason: &'static str,
    },
}

/// Tells the database. Clones share what waits.
#[derive(Clone)]
pub(super) struct Rows(Arc<Inner>);

struct Inner {
    store: Store,
    clock: Clock,
    waiting: Mutex<HashMap<ConnectionId, RowNews>>,
    /// Told when something waits.
    some: Arc<Notify>,
}

/// By which name the audit knows what happens by itself.
const ACTOR: &str = "credway:refresh";

impl Rows {
    pub(super) fn new(store: Store, clock: Clock, some: Arc<Notify>) -> Self {
        Self(Arc::new(Inner { store, clock, waiting: Mutex::default(), some }))
    }

    /// Tells it now, or later if that cannot be. Answers whether it is told.
    pub(super) async fn tell(&self, connection: ConnectionId, project: Option<&ProjectRecord>, news: RowNews) -> bool {
        if let Err(error) = self.try_tell(connection, project, news).await {
            tracing::debug!(%connection, %error, "the database is told later what became of a refresh");
            self.put_off(connection, news);
            return false;
        }
        self.waiting().remove(&connection);
        true
    }

    /// Tells it when that can be.
    pub(super) fn put_off(&self, connection: ConnectionId, news: RowNews) {
        let mut waiting = self.waiting();
        if waiting.len() < limits::REFRESH_ROWS_REMEMBERED || waiting.contains_key(&connection) {
            waiting.insert(connection, news);
        }
        drop(waiting);
        self.0.some.notify_one();
    }

    pub(super) fn is_waiting(&self, connection: ConnectionId) -> bool {
        self.waiting().contains_key(&connection)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting().is_empty()
    }

    /// Tells what waits, until something cannot be told.
    pub(super) async fn retry(&self) {
        let waiting: Vec<(ConnectionId, RowNews)> = self.waiting().iter().map(|(id, news)| (*id, *news)).collect();
        for (connection, news) in waiting {
            if self.try_tell(connection, None, news).await.is_err() {
                return;
            }
            let mut waiting = self.waiting();
            if waiting.get(&connection) == Some(&news) {
                waiting.remove(&connection);
            }
        }
    }

    async fn try_tell(
        &self,
        connection: ConnectionId,
        project: Option<&ProjectRecord>,
        news: RowNews,
    ) -> Result<(), StoreError> {
        let Inner { store, clock, .. } = &*self.0;
        let found;
        let project = match project {
            Some(project) => project,
            None => match store.connection_tokens(connection).await? {
                Some(row) => {
                    found = row.project;
                    &found
                }
                // It was deleted meanwhile.
                None => return Ok(()),
            },
        };
        let status = |state: ConnectionState, reason: &'static str| Status {
            state,
            reason: Some(reason.to_owned()),
            since: clock.now(),
        };
        let is_news = match news {
            RowNews::Refreshed { generation, expires_at } => {
                let mut tx = store.begin().await?;
                let is_news = tx.connection_refreshed(project, connection, generation, expires_at).await?;
                if is_news {
                    tx.commit().await?
                };
                is_news
            }
            RowNews::Degraded { generation, reason } => {
                self.trouble(project, connection, generation, status(ConnectionState::Degraded, reason)).await?
            }
            RowNews::Reconnect { generation, reason } => {
                self.trouble(project, connection, generation, status(ConnectionState::Reconnect, reason)).await?
            }
        };
        match news {
            RowNews::Degraded { reason, .. } if is_news => {
                tracing::warn!(%connection, reason, "connection {connection} cannot be refreshed now: {reason}");
            }
            RowNews::Reconnect { reason, .. } if is_news => {
                tracing::warn!(%connection, reason, "connection {connection} must be reconnected by a person: {reason}");
            }
            _ => {}
        }
        Ok(())
    }

    /// A change that people see is in the audit.
    async fn trouble(
        &self,
        project: &ProjectRecord,
        connection: ConnectionId,
        generation: u64,
        status: Status,
    ) -> Result<bool, StoreError> {
        let actor = Arc::new(Actor { name: ACTOR.to_owned(), request_id: None });
        let mut tx = self.0.store.begin_as(&actor).await?;
        let is_news = tx.connection_troubled(project, connection, generation, &status).await?;
        if is_news {
            tx.commit().await?;
        }
        Ok(is_news)
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, HashMap<ConnectionId, RowNews>> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
