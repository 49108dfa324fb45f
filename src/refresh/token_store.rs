//! The secret store as readers of OAuth connections see it: tokens without the notes about them, counted by generation, and
//! refreshed ahead in the background. Reading never waits for a provider.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::Refresher;
use crate::model::id::ConnectionId;
use crate::model::oauth::TokenState;
use crate::model::secret::{SecretAddress, SecretDocument, SecretFields, SecretSource};
use crate::secrets::{SecretError, SecretStore};

/// What the cache reads through.
pub struct TokenStore {
    inner: Arc<dyn SecretStore>,
    refresher: Refresher,
}

impl TokenStore {
    pub fn new(inner: Arc<dyn SecretStore>, refresher: Refresher) -> Self {
        Self { inner, refresher }
    }

    async fn read_tokens(&self, address: &SecretAddress) -> Result<SecretDocument, SecretError> {
        let read = self.inner.read(address).await;
        if address.source != SecretSource::Stored {
            return read;
        }
        // Tokens that the store cannot take, or has not taken yet, are good all the same.
        let newer = self.refresher.served(address.connection);
        let mut document = match (read, &newer) {
            (Ok(document), _) => document,
            (Err(SecretError::Unavailable { .. }), Some(newer)) => return Ok(SecretDocument::clone(newer)),
            (Err(error), _) => return Err(error),
        };
        let Some(state) = TokenState::take(&mut document.fields) else { return Ok(document) };
        if let Some(newer) = newer.filter(|newer| newer.generation > Some(state.generation)) {
            return Ok(SecretDocument::clone(&newer));
        }
        self.refresher.look_ahead(address, &state);
        Ok(SecretDocument { generation: Some(state.generation), expires_at: state.expires_at, ..document })
    }
}

impl SecretStore for TokenStore {
    fn read<'a>(&'a self, address: &'a SecretAddress) -> BoxFuture<'a, Result<SecretDocument, SecretError>> {
        self.read_tokens(address).boxed()
    }

    fn write<'a>(
        &'a self,
        address: &'a SecretAddress,
        fields: &'a SecretFields,
        previous: u64,
    ) -> BoxFuture<'a, Result<u64, SecretError>> {
        self.inner.write(address, fields, previous)
    }

    fn delete<'a>(&'a self, address: &'a SecretAddress) -> BoxFuture<'a, Result<(), SecretError>> {
        self.inner.delete(address)
    }

    fn check(&self) -> BoxFuture<'_, Result<(), SecretError>> {
        self.inner.check()
    }

    fn issues_leases(&self) -> bool {
        self.inner.issues_leases()
    }

    fn leased(&self) -> BoxFuture<'_, HashSet<ConnectionId>> {
        self.inner.leased()
    }

    fn release(&self, connection: ConnectionId) -> BoxFuture<'_, ()> {
        self.inner.release(connection)
    }

    fn own_token_ttl(&self) -> Option<Duration> {
        self.inner.own_token_ttl()
    }
}
