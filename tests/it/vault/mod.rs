//! The Vault store against a real OpenBao: what is written, read, refused and removed.

mod identity;
mod logs;
mod outages;

use std::sync::Arc;

use credway::clock::Clock;
use credway::config::{self, VaultAuth};
use credway::model::id::ConnectionId;
use credway::model::secret::{ExposeSecret, SecretAddress, SecretFields, SecretSource};
use credway::secrets::vault::VaultStore;
use credway::secrets::{SecretError, SecretStore};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::support::openbao::{Bao, until};

/// What no error and no Debug may ever show.
const CANARY: &str = "canary-3f9c1b";

/// A store under test, with what ends it.
struct Started {
    store: Arc<VaultStore>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

impl Started {
    /// Ends the store as a daemon does, and waits until it has ended.
    async fn end(self) {
        self.shutdown.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl std::ops::Deref for Started {
    type Target = VaultStore;

    fn deref(&self) -> &VaultStore {
        &self.store
    }
}

fn start(settings: &config::Vault) -> Started {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (shutdown, tasks) = (CancellationToken::new(), TaskTracker::new());
    let store = VaultStore::start(settings, Clock::System, shutdown.clone(), &tasks).unwrap();
    Started { store, shutdown, tasks }
}

fn settings(url: &str, mount: &str, auth: VaultAuth) -> config::Vault {
    config::Vault {
        address: url.parse().unwrap(),
        namespace: None,
        mount: mount.to_owned(),
        prefix: "credway".to_owned(),
        ca_file: None,
        lease_paths: Vec::new(),
        auth,
    }
}

fn as_root(bao: &Bao) -> VaultAuth {
    VaultAuth::Token { token: bao.root_token().into() }
}

fn an_address() -> SecretAddress {
    let connection = ConnectionId::generate();
    SecretAddress {
        tenant: "acme".parse().unwrap(),
        project: "main".parse().unwrap(),
        connection,
        source: SecretSource::Stored,
    }
}

fn fields(pairs: &[(&str, &str)]) -> SecretFields {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect()
}

fn exposed(fields: &SecretFields) -> Vec<(&str, &str)> {
    fields.iter().map(|(name, value)| (name.as_str(), value.expose_secret())).collect()
}

/// The text of an error, having looked for the canary in all that it can print.
fn shown<T>(result: Result<T, SecretError>) -> String {
    let Err(error) = result else { panic!("it should have failed") };
    assert!(!format!("{error} {error:?}").contains(CANARY), "the error shows a secret");
    error.to_string()
}

async fn until_ready(store: &VaultStore) {
    until("the store is ready", async || store.check().await.is_ok()).await;
}

#[tokio::test]
async fn a_secret_is_written_read_changed_and_deleted() {
    let bao = Bao::shared().await;
    let store = start(&settings(bao.url(), &bao.fresh_mount().await, as_root(bao)));
    let address = an_address();
    let pair = fields(&[("api_key", CANARY), ("region", "eu ü \"{}\"\n")]);

    assert_eq!(store.write(&address, &pair, 0).await.unwrap(), 1);
    assert_eq!(store.write(&address, &fields(&[("api_key", "second")]), 1).await.unwrap(), 2);
    let read = store.read(&address).await.unwrap();
    assert_eq!((exposed(&read.fields), read.version), (vec![("api_key", "second")], 2));

    store.delete(&address).await.unwrap();
    assert!(matches!(store.read(&address).await, Err(SecretError::Missing { .. })));
    store.delete(&address).await.unwrap();
    assert_eq!(store.write(&address, &pair, 0).await.unwrap(), 1);
    assert_eq!(exposed(&store.read(&address).await.unwrap().fields), exposed(&pair));
}

#[tokio::test]
async fn an_earlier_version_is_read_until_it_is_destroyed_and_the_newest_stays() {
    let bao = Bao::shared().await;
    let store = start(&settings(bao.url(), &bao.fresh_mount().await, as_root(bao)));
    let address = an_address();
    store.destroy_version(&address, 1).await.unwrap();
    for (previous, value) in ["first", "second"].into_iter().enumerate() {
        store.write(&address, &fields(&[("k", value)]), previous as u64).await.unwrap();
    }
    let old = store.read_version(&address, 1).await.unwrap();
    assert_eq!((exposed(&old.fields), old.version), (vec![("k", "first")], 1));
    for version in [1, 1, 2, 7] {
        store.destroy_version(&address, version).await.unwrap();
    }
    assert!(matches!(store.read_version(&address, 1).await, Err(SecretError::Missing { .. })));
    assert_eq!(exposed(&store.read(&address).await.unwrap().fields), [("k", "second")]);
    assert_eq!(store.write(&address, &fields(&[("k", "third")]), 2).await.unwrap(), 3);
}

#[tokio::test]
async fn a_secret_lies_at_its_tenant_project_and_connection() {
    let bao = Bao::shared().await;
    let mount = bao.fresh_mount().await;
    let store = start(&settings(bao.url(), &mount, as_root(bao)));
    let address = an_address();
    store.write(&address, &fields(&[("k", "v")]), 0).await.unwrap();
    let path = format!("{mount}/data/credway/acme/main/connections/{}", address.connection);
    assert_eq!(bao.must("GET", &path, json!(null)).await["data"]["data"], json!({ "k": "v" }));
    assert_eq!(bao.reads_of(&path), 1);
}

#[tokio::test]
async fn c5_a_write_that_follows_another_version_is_a_conflict() {
    let bao = Bao::shared().await;
    let store = start(&settings(bao.url(), &bao.fresh_mount().await, as_root(bao)));
    let (address, secret) = (an_address(), fields(&[("k", CANARY)]));
    store.write(&address, &secret, 0).await.unwrap();
    for previous in [0, 2, 7] {
        let refused = store.write(&address, &secret, previous).await;
        assert!(matches!(&refused, Err(SecretError::Conflict { previous: p, .. }) if *p == previous));
        shown(refused);
    }
    assert_eq!(store.read(&address).await.unwrap().version, 1);
}

#[tokio::test]
async fn c5_a_mount_that_takes_no_write_without_check_and_set_takes_all_of_ours() {
    let bao = Bao::shared().await;
    let mount = bao.fresh_mount().await;
    bao.must("POST", &format!("{mount}/config"), json!({ "cas_required": true })).await;
    let store = start(&settings(bao.url(), &mount, as_root(bao)));
    let address = an_address();
    let path = format!("{mount}/data/credway/{address}");
    let unchecked = json!({ "data": { "k": "v" } });
    assert_eq!(bao.request("POST", &path, unchecked).await.0, 400, "the mount does not insist");

    let secret = fields(&[("k", "v")]);
    assert_eq!(store.write(&address, &secret, 0).await.unwrap(), 1);
    assert_eq!(store.write(&address, &secret, 1).await.unwrap(), 2);
    bao.must("DELETE", &path, json!(null)).await;
    assert_eq!(store.write(&address, &secret, 0).await.unwrap(), 3);
    store.delete(&address).await.unwrap();
    assert_eq!(store.write(&address, &secret, 0).await.unwrap(), 1);
}

#[tokio::test]
async fn of_many_first_writers_one_wins() {
    let bao = Bao::shared().await;
    let store = start(&settings(bao.url(), &bao.fresh_mount().await, as_root(bao)));
    let (address, secret) = (an_address(), fields(&[("k", "v")]));
    let writes = (0..8).map(|_| store.write(&address, &secret, 0));
    let results = futures_util::future::join_all(writes).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    assert!(results.iter().flat_map(|result| result.as_ref().err()).all(|e| matches!(e, SecretError::Conflict { .. })));
}

#[tokio::test]
async fn a_secret_deleted_by_hand_is_missing_and_can_be_written_again() {
    let bao = Bao::shared().await;
    let mount = bao.fresh_mount().await;
    let store = start(&settings(bao.url(), &mount, as_root(bao)));
    let (address, secret) = (an_address(), fields(&[("k", "v")]));
    store.write(&address, &secret, 0).await.unwrap();
    bao.must("DELETE", &format!("{mount}/data/credway/{address}"), json!(null)).await;
    assert!(matches!(store.read(&address).await, Err(SecretError::Missing { .. })));
    assert_eq!(store.write(&address, &secret, 0).await.unwrap(), 2);

    bao.must("POST", &format!("{mount}/destroy/credway/{address}"), json!({ "versions": [2] })).await;
    assert!(matches!(store.read(&address).await, Err(SecretError::Missing { .. })));
    assert_eq!(store.write(&address, &secret, 0).await.unwrap(), 3);
}

#[tokio::test]
async fn what_someone_else_left_there_is_unreadable_and_not_shown() {
    let bao = Bao::shared().await;
    let mount = bao.fresh_mount().await;
    let store = start(&settings(bao.url(), &mount, as_root(bao)));
    let address = an_address();
    let foreign = json!({ "data": { "key": CANARY, "nested": { "token": CANARY } } });
    bao.must("POST", &format!("{mount}/data/credway/{address}"), foreign).await;
    let text = shown(store.read(&address).await);
    assert_eq!(text, format!("the secret at {address} cannot be read: field \"nested\" is not a string"));
}

#[tokio::test]
async fn secrets_in_a_namespace_are_its_own() {
    let bao = Bao::shared().await;
    let namespace = bao.fresh_namespace().await;
    bao.must("POST", &format!("{namespace}/sys/mounts/kv"), json!({ "type": "kv", "options": { "version": "2" } }))
        .await;
    let mut inside = settings(bao.url(), "kv", as_root(bao));
    inside.namespace = Some(namespace.clone());
    let store = start(&inside);
    let address = an_address();
    until_ready(&store).await;
    store.write(&address, &fields(&[("k", "v")]), 0).await.unwrap();
    let path = format!("{namespace}/kv/data/credway/{address}");
    assert_eq!(bao.must("GET", &path, json!(null)).await["data"]["metadata"]["version"], 1);

    inside.namespace = Some("nowhere".to_owned());
    let text = shown(start(&inside).read(&address).await);
    assert_eq!(text, format!("the secret store is unavailable: the namespace does not exist at {}", bao.url()));
}

#[tokio::test]
async fn c5_a_mount_of_version_1_is_refused_until_it_is_upgraded() {
    let bao = Bao::shared().await;
    let mount = crate::support::openbao::fresh_name("old");
    bao.must("POST", &format!("sys/mounts/{mount}"), json!({ "type": "kv", "options": { "version": "1" } })).await;
    let store = start(&settings(bao.url(), &mount, as_root(bao)));
    let (address, secret) = (an_address(), fields(&[("k", CANARY)]));
    let expected = format!(
        "the secret store is unavailable: mount {mount} is KV version 1; credway needs version 2: `bao kv enable-versioning {mount}`"
    );
    assert_eq!(shown(store.read(&address).await), expected);
    assert_eq!(shown(store.write(&address, &secret, 0).await), expected);
    assert_eq!(shown(store.delete(&address).await), expected);
    assert_eq!(shown(store.check().await), expected);

    bao.must("POST", &format!("sys/mounts/{mount}/tune"), json!({ "options": { "version": "2" } })).await;
    until_ready(&store).await;
    until("the upgrade is over", async || store.write(&address, &secret, 0).await.is_ok()).await;
}

#[tokio::test]
async fn a_mount_that_is_not_there_is_named() {
    let bao = Bao::shared().await;
    let store = start(&settings(bao.url(), "nowhere", as_root(bao)));
    let text = shown(store.read(&an_address()).await);
    assert!(text.contains("mount nowhere cannot be seen by our token: it does not exist"), "{text}");
}
