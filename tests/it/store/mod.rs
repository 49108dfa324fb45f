//! The store's contract: each of its methods, on SQLite and on PostgreSQL.

mod changes;
mod leases;
mod outages;
mod records;
mod servers;
mod wiring;

use std::collections::{BTreeMap, BTreeSet};

use credway::clock::Clock;
use credway::config;
use credway::model::connection::{Connection, ConnectionState, Status};
use credway::model::id::{ConnectionId, InstanceId, ProfileId, ProjectId, ServerId, TenantId};
use credway::model::profile::{ConfigProfile, Wire};
use credway::model::schema::{ConfigField, ConfigValue, ValueType};
use credway::model::secret::{SecretSource, SecretString};
use credway::model::server::McpServer;
use credway::store::{InstanceRecord, ProjectRecord, Store, TenantRecord, Tx};
use jiff::Timestamp;
use tempfile::TempDir;

use crate::support::postgres::Postgres;

/// A fresh database of one kind.
pub(crate) struct Fresh {
    pub(crate) store: Store,
    pub(crate) database: config::Database,
    /// Where the SQLite file lies.
    pub(crate) directory: TempDir,
}

impl Fresh {
    pub(crate) async fn sqlite() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let database = config::Database::Sqlite { path: directory.path().join("data/credway.db") };
        Self { store: Store::open(&database, Clock::System).await.unwrap(), database, directory }
    }

    pub(crate) async fn postgres() -> Self {
        let database = postgres(&Postgres::fresh_database().await);
        let store = Store::open(&database, Clock::System).await.unwrap();
        Self { store, database, directory: tempfile::tempdir().unwrap() }
    }

    /// Another process's view of the same database.
    pub(crate) async fn reopened(&self) -> Store {
        Store::open(&self.database, Clock::System).await.unwrap()
    }
}

pub(crate) fn postgres(url: &str) -> config::Database {
    config::Database::Postgres { url: SecretString::from(url.to_owned()) }
}

/// Each fact becomes two tests, one for each database.
macro_rules! on_both {
    ($($(#[$attribute:meta])* $fact:ident),* $(,)?) => {
        mod on_sqlite {
            $($(#[$attribute])* #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $fact() { super::$fact($crate::store::Fresh::sqlite().await).await; })*
        }
        mod on_postgres {
            $($(#[$attribute])* #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $fact() { super::$fact($crate::store::Fresh::postgres().await).await; })*
        }
    };
}

pub(crate) use on_both;

/// One tenant with one project that has one instance of one server, with one profile wired to one connection.
pub(crate) struct Cast {
    pub(crate) tenant: TenantRecord,
    pub(crate) project: ProjectRecord,
    pub(crate) server: McpServer,
    pub(crate) instance: InstanceRecord,
    pub(crate) profile: ConfigProfile,
    pub(crate) connection: Connection,
}

impl Cast {
    /// Brings them to the stage.
    pub(crate) async fn enter(store: &Store, name: &str) -> Self {
        let tenant = a_tenant(name);
        let project = a_project(&tenant, "main");
        let server = a_server(&tenant, &format!("https://mcp.example.com/{name}"));
        let connection = a_connection("Production");
        let profile = a_profile("default", &[("api_key", &connection, "token")]);
        let instance = an_instance("echo", &server, Some(profile.id));
        let mut tx = store.begin().await.unwrap();
        tx.tenant_insert(&tenant).await.unwrap();
        tx.project_insert(&project).await.unwrap();
        tx.server_put(tenant.id, &server).await.unwrap();
        tx.connection_insert(&project, &connection).await.unwrap();
        tx.instance_insert(&project, &instance).await.unwrap();
        tx.profile_insert(&project, instance.id, &profile).await.unwrap();
        tx.commit().await.unwrap();
        Self { tenant, project, server, instance, profile, connection }
    }
}

pub(crate) fn a_tenant(slug: &str) -> TenantRecord {
    TenantRecord { id: TenantId::generate(), slug: slug.parse().unwrap(), name: format!("Tenant {slug}") }
}

pub(crate) fn a_project(tenant: &TenantRecord, slug: &str) -> ProjectRecord {
    let name = format!("Project {slug}");
    ProjectRecord { id: ProjectId::generate(), tenant: tenant.id, slug: slug.parse().unwrap(), name }
}

pub(crate) fn a_server(tenant: &TenantRecord, url: &str) -> McpServer {
    let field = ConfigField {
        kind: ValueType::String,
        display_name: Some("API key".into()),
        required: true,
        default: Some(ConfigValue::String("naïve \"quoted\" ☂".into())),
        secret: true,
    };
    McpServer {
        id: ServerId::generate(),
        tenant: Some(tenant.id),
        service: "echo".parse().unwrap(),
        name: "Echo".into(),
        canonical_url: url.parse().unwrap(),
        config_schema: BTreeMap::from([("api_key".to_owned(), field)]),
        required_scopes: vec!["read".into(), "write".into()],
    }
}

pub(crate) fn a_connection(name: &str) -> Connection {
    Connection {
        id: ConnectionId::generate(),
        name: name.into(),
        template: "generic-token".into(),
        provider: "echo".into(),
        service: Some("orders".into()),
        account_label: Some("ops@example.com".into()),
        fields: BTreeSet::from(["token".to_owned(), "user".to_owned()]),
        source: SecretSource::Stored,
        environment: Some("production".into()),
        services: None,
        status: Status { state: ConnectionState::Active, reason: None, since: at("2026-11-22T10:00:00.123456Z") },
        version: 1,
    }
}

pub(crate) fn a_profile(name: &str, wires: &[(&str, &Connection, &str)]) -> ConfigProfile {
    let wire = |(key, connection, credential): &(&str, &Connection, &str)| {
        ((*key).to_owned(), Wire { connection: connection.id, credential: (*credential).to_owned() })
    };
    ConfigProfile {
        id: ProfileId::generate(),
        name: name.into(),
        values: BTreeMap::from([
            ("region".to_owned(), ConfigValue::String("eu".into())),
            ("limit".to_owned(), ConfigValue::Number(serde_json::Number::from_f64(2.5).unwrap())),
            ("verbose".to_owned(), ConfigValue::Boolean(true)),
        ]),
        source_spec: wires.iter().map(wire).collect(),
        version: 1,
    }
}

pub(crate) fn an_instance(name: &str, server: &McpServer, active: Option<ProfileId>) -> InstanceRecord {
    InstanceRecord {
        id: InstanceId::generate(),
        name: name.parse().unwrap(),
        server: server.id,
        active_profile: active,
    }
}

pub(crate) fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// Runs one change in a transaction of its own.
pub(crate) async fn change(store: &Store, act: impl AsyncFnOnce(&mut Tx)) {
    let mut tx = store.begin().await.unwrap();
    act(&mut tx).await;
    tx.commit().await.unwrap();
}
