//! Credentials that OpenBao issues for a real PostgreSQL: one set for all, kept alive, replaced before its end, given back.

use std::collections::BTreeSet;
use std::time::Duration;

use credway::clock::Clock;
use credway::config::{self, VaultAuth};
use credway::grpc::proto::ResolveCredentialsRequest;
use credway::limits;
use credway::model::caller::Scope;
use credway::model::id::ConnectionId;
use credway::model::secret::{ExposeSecret, SecretAddress, SecretDocument, SecretSource};
use credway::secrets::SecretStore;
use credway::secrets::vault::VaultStore;
use futures_util::future::join_all;
use serde_json::json;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection, postgres::PgConnectOptions};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Response;

use crate::support::answers::{asking, metric, refused, value};
use crate::support::cast::{World, in_openbao};
use crate::support::daemon::{self, lent, on_servers};
use crate::support::openbao::{Bao, fresh_name, until};
use crate::support::postgres::{LEASED, Postgres};
use crate::support::program;

/// A database whose logins OpenBao issues.
pub(crate) struct Database {
    url: String,
    /// `db1/creds/credway-reporting`.
    path: String,
}

impl Database {
    /// Its logins live for `ttl`, and no longer than `max_ttl` however often they are renewed.
    pub(crate) async fn issued_by(bao: &Bao, ttl: &str, max_ttl: &str) -> Self {
        let url = Postgres::fresh_database().await;
        let mut owner = PgConnection::connect(&url).await.unwrap();
        let group = format!(
            "DO $$ BEGIN CREATE ROLE {LEASED}; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$"
        );
        sqlx::raw_sql(AssertSqlSafe(group)).execute(&mut owner).await.unwrap();
        let mount = fresh_name("db");
        bao.must("POST", &format!("sys/mounts/{mount}"), json!({ "type": "database" })).await;
        let config = json!({
            "plugin_name": "postgresql-database-plugin",
            "connection_url": format!("{}?sslmode=disable", url.replace("credway@", "{{username}}:{{password}}@")),
            "username": "credway",
            "password": "unused",
            "allowed_roles": "*",
        });
        bao.must("POST", &format!("{mount}/config/pg"), config).await;
        let creation = format!(
            "CREATE ROLE \"{{{{name}}}}\" LOGIN PASSWORD '{{{{password}}}}' VALID UNTIL '{{{{expiration}}}}' IN ROLE {LEASED}"
        );
        let role =
            json!({ "db_name": "pg", "creation_statements": [creation], "default_ttl": ttl, "max_ttl": max_ttl });
        bao.must("POST", &format!("{mount}/roles/credway-reporting"), role).await;
        Self { url, path: format!("{mount}/creds/credway-reporting") }
    }

    /// A token that may do what `deploy/vault-policy.hcl` says, and no more.
    async fn shipped_token(&self, bao: &Bao, mount: &str) -> String {
        let policy = include_str!("../../deploy/vault-policy.hcl");
        let policy = policy
            .replace("\"secret/", &format!("\"{mount}/"))
            .replace("mounts/secret\"", &format!("mounts/{mount}\""));
        let (database, _) = self.path.split_once('/').unwrap();
        let policy = policy.replace("database/creds/", &format!("{database}/creds/"));
        let name = fresh_name("policy");
        bao.must("PUT", &format!("sys/policies/acl/{name}"), json!({ "policy": policy })).await;
        let asked = json!({ "policies": [name], "no_default_policy": true });
        let created = bao.must("POST", "auth/token/create", asked).await;
        created["auth"]["client_token"].as_str().unwrap().to_owned()
    }

    fn address(&self) -> SecretAddress {
        SecretAddress {
            tenant: "acme".parse().unwrap(),
            project: "reports".parse().unwrap(),
            connection: ConnectionId::generate(),
            source: SecretSource::Leased { path: self.path.parse().unwrap() },
        }
    }

    /// Whether these credentials open the database.
    async fn opens(&self, user: &str, password: &str) -> bool {
        let options: PgConnectOptions = self.url.parse().unwrap();
        let Ok(mut connection) = options.username(user).password(password).connect().await else { return false };
        let who: String = sqlx::query_scalar("SELECT current_user::text").fetch_one(&mut connection).await.unwrap();
        who == user
    }

    /// Whether PostgreSQL knows the role.
    pub(crate) async fn has(&self, user: &str) -> bool {
        let mut owner = PgConnection::connect(&self.url).await.unwrap();
        let found = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)").bind(user);
        found.fetch_one(&mut owner).await.unwrap()
    }

    pub(crate) fn issues(&self, bao: &Bao) -> usize {
        bao.reads_of(&self.path)
    }

    /// A project whose instance `db` is wired to a login of this database.
    pub(crate) fn manifest(&self) -> String {
        format!(
            "
tenant: acme
projects:
- project: reports
  servers:
  - service: db
    url: https://mcp.example.com/db
    config: {{HOST: {{required: true}}, USER: {{required: true}}, PASSWORD: {{required: true, secret: true}}}}
  connections: [{{name: reporting, template: vault-database, lease_path: {}}}]
  instances:
  - name: db
    server: db
    active: p
    profiles:
    - name: p
      values: {{HOST: db.internal}}
      wiring:
        USER: {{connection: reporting, credential: username}}
        PASSWORD: {{connection: reporting, credential: password}}
  tokens: [{{name: tests, role: project_viewer, scopes: ['mcp:execute'], file: token}}]
",
            self.path
        )
    }
}

/// A store under test, with what ends it.
struct Started {
    store: std::sync::Arc<VaultStore>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

impl Started {
    async fn by(bao: &Bao, token: &str) -> Self {
        Self::on(bao, &bao.fresh_mount().await, token)
    }

    fn on(bao: &Bao, mount: &str, token: &str) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (shutdown, tasks) = (CancellationToken::new(), TaskTracker::new());
        let settings = config::Vault {
            address: bao.url().parse().unwrap(),
            namespace: None,
            mount: mount.to_owned(),
            prefix: "credway".to_owned(),
            ca_file: None,
            lease_paths: Vec::new(),
            auth: VaultAuth::Token { token: token.into() },
        };
        let store = VaultStore::start(&settings, Clock::System, shutdown.clone(), &tasks).unwrap();
        Self { store, shutdown, tasks }
    }

    async fn read(&self, address: &SecretAddress) -> SecretDocument {
        self.store.read(address).await.unwrap()
    }

    async fn end(self) {
        self.shutdown.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

fn login(document: &SecretDocument) -> (&str, &str) {
    (document.fields["username"].expose_secret(), document.fields["password"].expose_secret())
}

#[tokio::test]
async fn a_resolve_gives_a_working_login_that_all_callers_share() {
    let bao = Bao::shared().await;
    let database = Database::issued_by(bao, "1h", "24h").await;
    let world = World::of(&database.manifest(), &in_openbao(bao).await).await;
    let sidecar = world.sidecar(Clock::System).await;
    let client = sidecar.client(&world.token(&[Scope::McpExecute]).await).await;
    let calls = (0..20).map(|_| {
        let mut client = client.clone();
        async move { client.resolve_credentials(asking("db")).await.unwrap().into_inner() }
    });
    let answers = join_all(calls).await;
    let text = |key| value(&answers[0], key).trim_matches('"').to_owned();
    assert_eq!(text("HOST"), "db.internal");
    let (user, password) = (text("USER"), text("PASSWORD"));
    assert!(database.opens(&user, &password).await);
    assert!(!database.opens(&user, "another").await, "any password opens it");
    let users: BTreeSet<String> = answers.iter().map(|answer| value(answer, "USER")).collect();
    assert_eq!((users.len(), database.issues(bao)), (1, 1));
    let expires_at = answers[0].expires_at.as_ref().unwrap().seconds - Clock::System.now().as_second();
    assert!((3500..=3600).contains(&expires_at), "it ends in {expires_at} s");
    sidecar.stop().await;
    assert!(!database.has(&user).await, "it is still there after the end");
}

#[tokio::test]
async fn a_login_is_given_back_when_another_process_disables_or_deletes_its_connection() {
    let bao = Bao::shared().await;
    let database = Database::issued_by(bao, "1h", "24h").await;
    let world = World::of(&database.manifest(), &in_openbao(bao).await).await;
    let sidecar = world.sidecar(Clock::System).await;
    let client = sidecar.client(&world.token(&[Scope::McpExecute]).await).await;
    let ask = async || client.clone().resolve_credentials(asking("db")).await.map(Response::into_inner);
    let user = async || value(&ask().await.unwrap(), "USER").trim_matches('"').to_owned();

    let first = user().await;
    // Other changes are none of its business.
    world.apply(&database.manifest().replace("db.internal", "db2.internal")).await;
    sidecar.caught_up().await;
    assert_eq!(user().await, first);
    world.control.connection_disable(&world.workspace, "reporting").await.unwrap();
    until("the login of the disabled connection is gone", async || !database.has(&first).await).await;
    assert_eq!(refused(ask().await), "CONNECTION_DISABLED");

    world.control.connection_enable(&world.workspace, "reporting").await.unwrap();
    sidecar.caught_up().await;
    let second = user().await;
    assert!(database.has(&second).await && second != first);
    world.control.connection_delete(&world.workspace, "reporting", None, true).await.unwrap();
    until("the login of the deleted connection is gone", async || !database.has(&second).await).await;
    assert_eq!(refused(ask().await), "CONNECTION_MISSING");
    assert_eq!(database.issues(bao), 2);
    sidecar.stop().await;
}

#[tokio::test]
async fn an_answer_is_not_repeated_once_it_has_less_life_left_than_was_asked_for() {
    let bao = Bao::shared().await;
    let database = Database::issued_by(bao, "1h", "24h").await;
    let world = World::of(&database.manifest(), &in_openbao(bao).await).await;
    let sidecar = world.sidecar(Clock::System).await;
    let client = sidecar.client(&world.token(&[Scope::McpExecute]).await).await;
    // Until it has heard of the token, answers are made anew.
    sidecar.caught_up().await;
    for (min_token_ttl, looks) in [(limits::MIN_TOKEN_TTL_MAX, 3.0), (limits::MIN_TOKEN_TTL_DEFAULT, 0.0)] {
        let request =
            || ResolveCredentialsRequest { min_token_ttl: Some(min_token_ttl.try_into().unwrap()), ..asking("db") };
        client.clone().resolve_credentials(request()).await.unwrap();
        let before = metric(&sidecar, "credway_secret_cache_hits_total").await;
        for _ in 0..3 {
            let answer = client.clone().resolve_credentials(request()).await.unwrap().into_inner();
            assert!(answer.refresh_after.unwrap().seconds <= answer.expires_at.unwrap().seconds);
        }
        let looked = metric(&sidecar, "credway_secret_cache_hits_total").await - before;
        assert_eq!(looked, looks, "looks at what is held, with {min_token_ttl:?} asked for");
    }
    assert_eq!(database.issues(bao), 1);
    sidecar.stop().await;
}

#[tokio::test]
async fn a_lease_is_renewed_and_its_credentials_stay_the_same() {
    let bao = Bao::shared().await;
    let database = Database::issued_by(bao, "3s", "1h").await;
    let (store, address) = (Started::by(bao, bao.root_token()).await, database.address());
    let first = store.read(&address).await;
    until("the lease lasts longer", async || {
        store.read(&address).await.expires_at.unwrap() > first.expires_at.unwrap() + Duration::from_secs(1)
    })
    .await;
    let now = store.read(&address).await;
    assert_eq!((login(&now), now.version), (login(&first), 1));
    assert_eq!(database.issues(bao), 1);
    store.end().await;
}

#[tokio::test]
async fn a_lease_that_lasts_no_longer_is_replaced_before_its_end() {
    let bao = Bao::shared().await;
    let database = Database::issued_by(bao, "2s", "2s").await;
    let (store, address) = (Started::by(bao, bao.root_token()).await, database.address());
    let first = store.read(&address).await;
    let mut next = first.clone();
    until("other credentials are given", async || {
        next = store.read(&address).await;
        let (user, password) = login(&next);
        let opens = database.opens(user, password).await;
        // On a busy machine opening may outlast what was left of them.
        assert!(opens || Clock::System.now() > next.expires_at.unwrap(), "what was given does not open the database");
        next.version == 2
    })
    .await;
    until("the old ones have ended", async || !database.has(login(&first).0).await).await;
    assert!(database.has(login(&next).0).await);
    store.end().await;
}

#[tokio::test]
async fn c4_credentials_are_given_back_when_their_connection_goes_and_at_the_end() {
    let bao = Bao::shared().await;
    let database = Database::issued_by(bao, "1h", "24h").await;
    let mount = bao.fresh_mount().await;
    let token = database.shipped_token(bao, &mount).await;
    let (store, gone, kept) = (Started::on(bao, &mount, &token), database.address(), database.address());
    let (first, second) = (store.read(&gone).await, store.read(&kept).await);
    assert_ne!(login(&first), login(&second));
    store.store.release(gone.connection).await;
    until("the login is gone", async || !database.has(login(&first).0).await).await;
    assert!(database.has(login(&second).0).await);
    let again = store.read(&gone).await;
    assert_ne!(login(&again), login(&first));
    store.end().await;
    for document in [&second, &again] {
        assert!(!database.has(login(document).0).await);
    }
}

#[tokio::test]
async fn c4_a_renewal_that_a_policy_denies_makes_one_login_for_each_life() {
    let bao = Bao::shared().await;
    let database = Database::issued_by(bao, "2s", "1h").await;
    let policy = fresh_name("policy");
    let rules = format!(
        r#"path "{}" {{ capabilities = ["read"] }}
           path "+/data/credway/*" {{ capabilities = ["read"] }}
           path "sys/leases/renew" {{ capabilities = ["deny"] }}"#,
        database.path
    );
    bao.must("PUT", &format!("sys/policies/acl/{policy}"), json!({ "policy": rules })).await;
    let created = bao.must("POST", "auth/token/create", json!({ "policies": [policy] })).await;
    let token = created["auth"]["client_token"].as_str().unwrap();
    let (store, address) = (Started::by(bao, token).await, database.address());
    let begun = Clock::System.moment();
    let first = store.read(&address).await;
    let mut next = first.clone();
    until("the second login is given", async || {
        next = store.read(&address).await;
        next.version == 2
    })
    .await;
    let lived = Clock::System.moment().since(begun);
    assert!(lived >= Duration::from_millis(1600), "replaced after {lived:?} of 2 s");
    let (user, password) = login(&next);
    assert!(database.opens(user, password).await);
    assert_eq!(database.issues(bao), 2);
    store.end().await;
}

#[tokio::test]
async fn c4_a_vault_that_hangs_through_the_end_of_a_lease_makes_one_login_when_it_is_back() {
    let bao = Bao::own().await;
    let database = Database::issued_by(&bao, "2s", "1h").await;
    let (store, address) = (Started::by(&bao, bao.root_token()).await, database.address());
    let first = store.read(&address).await;
    bao.pause();
    until("the lease has ended", async || Clock::System.now() > first.expires_at.unwrap()).await;
    bao.resume();
    let mut next = first.clone();
    until("other credentials are given", async || {
        next = store.read(&address).await;
        next.version == 2
    })
    .await;
    let (user, password) = login(&next);
    assert!(database.opens(user, password).await);
    assert_eq!(database.issues(&bao), 2);
    store.end().await;
}

#[tokio::test]
async fn c4_a_daemon_that_is_told_to_end_gives_back_what_it_leased() {
    let (bao, home) = (Bao::shared().await, daemon::Home::new());
    let database = Database::issued_by(bao, "1h", "24h").await;
    let mut settings = on_servers(&home, &Postgres::fresh_database().await, bao).await;
    settings.push(("telemetry.log_level", "trace".to_owned()));
    home.config(&lent(&settings));
    home.write("manifest.yaml", database.manifest());
    home.apply().await.ok();
    let mut daemon = home.start().await;
    let mut client = daemon.client(&home.token()).await;
    let answer = daemon::resolve(&mut client, "db").await.unwrap();
    let [user, password] = ["USER", "PASSWORD"].map(|key| value(&answer, key).trim_matches('"').to_owned());
    assert!(database.has(&user).await);
    let begun = Clock::System.moment();
    assert!(daemon.stop().await.success());
    assert!(!database.has(&user).await, "the login is still there");
    assert!(Clock::System.moment().since(begun) < limits::BACKGROUND_STOP_DEADLINE);
    let log = daemon.log();
    assert!(log.contains("credentials were issued for") && !log.contains(&password), "the log shows the password");
}

#[tokio::test]
async fn a_connection_without_its_role_or_right_says_what_to_do() {
    let bao = Bao::shared().await;
    let database = Database::issued_by(bao, "1h", "24h").await;
    let (store, mut address) = (Started::by(bao, bao.root_token()).await, database.address());
    let leased_from = |path: &str| SecretSource::Leased { path: path.parse().unwrap() };
    for path in [database.path.replace("credway-reporting", "nobody"), "nowhere/creds/reporting".to_owned()] {
        address.source = leased_from(&path);
        let text = store.store.read(&address).await.unwrap_err().to_string();
        assert!(text.contains("issues nothing there (HTTP 4"), "{text}");
        assert!(text.ends_with("check that the mount is enabled and has that role"), "{text}");
    }
    let kv = bao.fresh_mount().await;
    bao.must("POST", &format!("{kv}/data/credway/mine"), json!({ "data": { "key": "canary" } })).await;
    address.source = leased_from(&format!("{kv}/data/credway/mine"));
    let text = store.store.read(&address).await.unwrap_err().to_string();
    assert!(text.contains("what lies there has no lease"), "{text}");
    store.end().await;
}

#[tokio::test]
async fn the_sealed_store_refuses_a_leased_connection_and_says_what_it_takes() {
    let home = program::Home::new();
    let manifest = "
tenant: acme
projects:
- project: p
  connections: [{name: reporting, template: vault-database, lease_path: database/creds/reporting}]
";
    home.write("manifest.yaml", manifest);
    let data = "--data-dir data";
    let said = home.refused(2, &format!("credway apply -f manifest.yaml {data}"));
    assert!(said.contains("projects[0].connections[0].template: its credentials are leased"), "{said}");
    assert!(said.contains("secret_store.kind = \"vault\""), "{said}");
}

#[tokio::test]
async fn a_leased_connection_is_made_shown_changed_and_deleted() {
    let (bao, home) = (Bao::shared().await, daemon::Home::new());
    let settings = on_servers(&home, &Postgres::fresh_database().await, bao).await;
    home.config(&lent(&settings));
    let connection = async |args: &[&str]| {
        let config = home.text("credway.toml");
        let args = [&["connection"], args, &["--config", &config, "--project", "acme/reports"]].concat();
        home.run(&args).await
    };
    let create = ["create", "--template", "vault-database", "--name", "reporting"];
    home.write("manifest.yaml", "{tenant: acme, projects: [{project: reports}]}");
    home.apply().await.ok();
    connection(&create).await.refused(2, &["lease_path", "such as database/creds/reporting"]);
    connection(&[&create[..], &["--lease-path", "database/creds/old"]].concat()).await.ok();
    let declared = "{name: reporting, template: vault-database, lease_path: database/creds/new}";
    home.write(
        "manifest.yaml",
        format!("{{tenant: acme, projects: [{{project: reports, connections: [{declared}]}}]}}"),
    );
    let changed = home.apply().await.ok();
    assert!(changed.contains("lease_path database/creds/old -> database/creds/new"), "{changed}");
    let shown = connection(&["get", "reporting"]).await.ok();
    assert!(shown.contains("password, username (leased from database/creds/new)"), "{shown}");
    connection(&["update", "reporting"]).await.refused(2, &["they are issued from database/creds/new"]);
    connection(&["delete", "reporting"]).await.ok();
    assert_eq!(bao.count(|audited| audited.path.starts_with("database/creds/")), 0, "a command had credentials issued");
}
