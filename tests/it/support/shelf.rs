//! A secret store in memory, with accidents on demand: for tests of what stands on a secret store, not of one.

use std::collections::BTreeMap;
use std::sync::Mutex;

use credway::model::secret::{ExposeSecret, SecretAddress, SecretDocument, SecretFields};
use credway::secrets::{SecretError, SecretStore};
use credway::store::Store;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

#[derive(Default)]
pub(crate) struct Shelf {
    documents: Mutex<BTreeMap<String, SecretDocument>>,
    /// By address and version.
    former: Mutex<BTreeMap<(String, u64), SecretDocument>>,
    accident: Mutex<Option<Accident>>,
}

/// What goes wrong at the next write, deletion or destruction.
pub(crate) enum Accident {
    /// It fails, and so do those after it.
    Outage,
    /// It succeeds, and the database is gone afterwards.
    DatabaseGone(Store),
    /// Something else is done first, once.
    Meanwhile(BoxFuture<'static, ()>),
}

impl Shelf {
    pub(crate) fn meet(&self, accident: Accident) {
        *self.accident.lock().unwrap() = Some(accident);
    }

    pub(crate) fn recover(&self) {
        *self.accident.lock().unwrap() = None;
    }

    /// How many secrets of connections there are.
    pub(crate) fn len(&self) -> usize {
        // A project has a key by which fingerprints are made, at the id of no connection.
        let none = format!("conn_{:032}", 0);
        self.documents.lock().unwrap().keys().filter(|address| !address.ends_with(&none)).count()
    }

    /// Every value of this field, over all secrets.
    pub(crate) fn values(&self, field: &str) -> Vec<String> {
        let documents = self.documents.lock().unwrap();
        let values = documents.values().filter_map(|document| document.fields.get(field));
        let mut values: Vec<String> = values.map(|value| value.expose_secret().to_owned()).collect();
        values.sort();
        values
    }

    async fn happen(&self) -> Result<(), SecretError> {
        let (gone, meanwhile) = {
            let mut accident = self.accident.lock().unwrap();
            match accident.take() {
                Some(Accident::Outage) => {
                    *accident = Some(Accident::Outage);
                    return Err(SecretError::Unavailable { cause: "sealed".into() });
                }
                Some(Accident::DatabaseGone(store)) => {
                    *accident = Some(Accident::DatabaseGone(store.clone()));
                    (Some(store), None)
                }
                Some(Accident::Meanwhile(other)) => (None, Some(other)),
                None => (None, None),
            }
        };
        if let Some(store) = gone {
            store.close().await;
        }
        if let Some(other) = meanwhile {
            other.await;
        }
        Ok(())
    }

    fn put(&self, address: &SecretAddress, fields: &SecretFields, previous: u64) -> Result<u64, SecretError> {
        let mut documents = self.documents.lock().unwrap();
        let version = documents.get(&address.to_string()).map_or(0, |document| document.version);
        if version != previous {
            return Err(SecretError::Conflict { address: address.clone(), previous });
        }
        let document =
            SecretDocument { fields: fields.clone(), version: version + 1, generation: None, expires_at: None };
        if let Some(former) = documents.insert(address.to_string(), document) {
            self.former.lock().unwrap().insert((address.to_string(), former.version), former);
        }
        Ok(version + 1)
    }
}

impl SecretStore for Shelf {
    fn read<'a>(&'a self, address: &'a SecretAddress) -> BoxFuture<'a, Result<SecretDocument, SecretError>> {
        let found = self.documents.lock().unwrap().get(&address.to_string()).cloned();
        std::future::ready(found.ok_or_else(|| SecretError::Missing { address: address.clone() })).boxed()
    }

    fn write<'a>(
        &'a self,
        address: &'a SecretAddress,
        fields: &'a SecretFields,
        previous: u64,
    ) -> BoxFuture<'a, Result<u64, SecretError>> {
        async move {
            self.happen().await?;
            self.put(address, fields, previous)
        }
        .boxed()
    }

    fn delete<'a>(&'a self, address: &'a SecretAddress) -> BoxFuture<'a, Result<(), SecretError>> {
        async move {
            self.happen().await?;
            self.documents.lock().unwrap().remove(&address.to_string());
            Ok(())
        }
        .boxed()
    }

    fn read_version<'a>(
        &'a self,
        address: &'a SecretAddress,
        version: u64,
    ) -> BoxFuture<'a, Result<SecretDocument, SecretError>> {
        let found = self.former.lock().unwrap().get(&(address.to_string(), version)).cloned();
        std::future::ready(found.ok_or_else(|| SecretError::Missing { address: address.clone() })).boxed()
    }

    fn destroy_version<'a>(
        &'a self,
        address: &'a SecretAddress,
        version: u64,
    ) -> BoxFuture<'a, Result<(), SecretError>> {
        async move {
            self.happen().await?;
            self.former.lock().unwrap().remove(&(address.to_string(), version));
            Ok(())
        }
        .boxed()
    }

    fn check(&self) -> BoxFuture<'_, Result<(), SecretError>> {
        std::future::ready(Ok(())).boxed()
    }
}
