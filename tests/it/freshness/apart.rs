//! B7: secrets that are alike in all but one thing are never taken for each other, over a real PostgreSQL and OpenBao.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use credway::clock::Clock;
use credway::config::{CachePolicy, Config, SecretStore, Vault};
use credway::control::TokenSpec;
use credway::grpc::proto::ResolveCredentialsRequest;
use credway::limits;
use credway::model::caller::{Role, Scope};
use credway::model::id::ProjectId;
use futures_util::future::join_all;
use serde_json::json;

use crate::dynamic::Database;
use crate::support::answers::{asking, refused, value};
use crate::support::cast::{ACME, World, in_openbao, manual_clock};
use crate::support::openbao::{Bao, until};
use crate::support::postgres::Postgres;
use crate::support::sidecar::{Client, Sidecar};

const PROJECTS: [(&str, &str); 3] = [("acme", "payments"), ("acme", "billing"), ("rival", "payments")];
const CONNECTIONS: [&str; 2] = ["production", "sandbox"];

/// Projects that differ in nothing but their names and the values of their secrets. Servers are their tenant's.
fn alike() -> String {
    let mut yaml = String::new();
    for (tenant, project) in PROJECTS {
        let key = |connection: &str| format!("{{api_key: {{value: {tenant}-{project}-{connection}-1}}}}");
        let (production, sandbox) = (key("production"), key("sandbox"));
        let url = format!("https://mcp.example.com/{project}");
        write!(
            yaml,
            "---
tenant: {tenant}
projects:
- project: {project}
  servers: [{{service: {project}, url: {url}, config: {{API_KEY: {{required: true, secret: true}}}}}}]
  connections:
  - {{name: production, template: generic-api-key, credentials: {production}}}
  - {{name: sandbox, template: generic-api-key, credentials: {sandbox}}}
  instances:
  - name: pay
    server: {project}
    active: live
    profiles: [{{name: live, wiring: {{API_KEY: {{connection: production, credential: api_key}}}}}}]
  workflows:
  - workflow: sandbox
    overrides: [{{instance: pay, connection: sandbox}}]
"
        )
        .unwrap();
    }
    yaml
}

fn vault(config: &Config) -> &Vault {
    let SecretStore::Vault(vault) = &config.secret_store else { panic!("not in OpenBao") };
    vault
}

/// What is too old is not served, however long a busy machine takes to read it anew.
fn patient(config: &mut Config) {
    config.cache.policy = CachePolicy::Fidelity;
    config.grpc.call_deadline = limits::CALL_DEADLINE_MAX;
}

/// Callers of one daemon, each with all that it may ask, and with what is to come: `acme-payments-production`.
struct Callers(Vec<(Client, ResolveCredentialsRequest, String)>);

impl Callers {
    /// A token for each project, and one for all of a tenant's, which names them.
    async fn of(world: &World, sidecar: &Sidecar) -> Self {
        let (mut callers, mut wide_tokens) = (Vec::new(), BTreeMap::new());
        for place in PROJECTS {
            if !wide_tokens.contains_key(place.0) {
                wide_tokens.insert(place.0, token(world, place, |_| None).await);
            }
        }
        for (tenant, project) in PROJECTS {
            let narrow = token(world, (tenant, project), Some).await;
            sidecar.caught_up().await;
            let wide = format!("Bearer {}", wide_tokens[tenant]);
            let wide = sidecar.client_with(&[("authorization", &wide), ("x-project-id", project)]).await;
            for client in [sidecar.client(&narrow).await, wide] {
                for connection in CONNECTIONS {
                    let workflow_id = if connection == "sandbox" { connection } else { "" }.to_owned();
                    let asked = ResolveCredentialsRequest { workflow_id, ..asking("pay") };
                    callers.push((client.clone(), asked, format!("{tenant}-{project}-{connection}")));
                }
            }
        }
        Self(callers)
    }

    /// All ask at once, and each gets its own, at the version that it is known to have.
    async fn get_their_own(&self, versions: &BTreeMap<String, u64>) {
        let asked = self.0.iter().map(|(client, asked, secret)| {
            let (mut client, version) = (client.clone(), versions[secret]);
            async move {
                let answer = client.resolve_credentials(asked.clone()).await.unwrap().into_inner();
                assert_eq!(value(&answer, "API_KEY"), format!("\"{secret}-{version}\""));
                assert_eq!(answer.provenance.unwrap().connections[0].secret_version, version);
            }
        });
        join_all(asked).await;
    }
}

async fn token(
    world: &World,
    (tenant, project): (&str, &str),
    of: impl FnOnce(ProjectId) -> Option<ProjectId>,
) -> String {
    let workspace = world.project(tenant, project).await;
    let scopes = [Scope::McpExecute].into_iter().collect();
    let name = crate::support::openbao::fresh_name("token");
    let spec = TokenSpec { project: of(workspace.project.id), name, role: Role::Viewer, scopes, expires_at: None };
    world.control.token_create(&workspace.tenant, spec, None).await.unwrap().1.expose().to_owned()
}

/// Where each secret lies in OpenBao, as `alike` calls it.
async fn places(world: &World) -> BTreeMap<String, String> {
    let mut places = BTreeMap::new();
    for (tenant, project) in PROJECTS {
        let workspace = world.project(tenant, project).await;
        for name in CONNECTIONS {
            let connection = world.control.connection_get(&workspace, name).await.unwrap().id;
            let Vault { mount, prefix, .. } = vault(&world.config);
            let place = format!("{mount}/data/{prefix}/{tenant}/{project}/connections/{connection}");
            places.insert(format!("{tenant}-{project}-{name}"), place);
        }
    }
    places
}

#[tokio::test]
async fn b7_tenants_projects_and_connections_of_the_same_names_get_each_its_own_secret_and_version() {
    let (bao, world) = (Bao::shared().await, World::postgres_and_openbao(&alike()).await);
    let (clock, places) = (manual_clock(), places(&world).await);
    let roomy = world.sidecar_with(Clock::Manual(clock.clone()), patient).await;
    let no_room = |config: &mut Config| {
        patient(config);
        config.cache.entries_max = 3;
    };
    // The secrets push each other out.
    let cramped = world.sidecar_with(Clock::Manual(clock.clone()), no_room).await;
    let callers = [Callers::of(&world, &roomy).await, Callers::of(&world, &cramped).await];
    let mut versions: BTreeMap<String, u64> = places.keys().map(|secret| (secret.clone(), 1)).collect();
    for round in 0..4 {
        // Cold or past the time to live at first, then from memory, then in the background, then what that brought.
        for wait in [0, 0, 25, 0] {
            clock.advance(Duration::from_secs(wait));
            for callers in &callers {
                callers.get_their_own(&versions).await;
            }
        }
        // No two of them have as many versions.
        for (n, (secret, version)) in versions.iter_mut().enumerate() {
            for _ in 0..usize::from(round == 0) * n + 1 {
                *version += 1;
                let written = json!({ "data": { "api_key": format!("{secret}-{version}") } });
                bao.must("POST", &places[secret], written).await;
            }
        }
        clock.advance(limits::SECRET_TTL_DEFAULT);
    }
}

#[tokio::test]
async fn b7_the_same_path_in_another_mount_prefix_or_namespace_is_another_secret() {
    let (bao, world) = (Bao::shared().await, World::postgres_and_openbao(ACME).await);
    let (vault, address) = (vault(&world.config).clone(), world.address("production").await);
    let (mount, namespace) = (bao.fresh_mount().await, bao.fresh_namespace().await);
    let mounting = json!({ "type": "kv", "options": { "version": "2" } });
    bao.must("POST", &format!("{namespace}/sys/mounts/{}", vault.mount), mounting).await;
    let places = [
        vault.clone(),
        Vault { mount, ..vault.clone() },
        Vault { prefix: "other".to_owned(), ..vault.clone() },
        Vault { namespace: Some(namespace), ..vault.clone() },
    ];
    let (clock, mut daemons) = (manual_clock(), Vec::new());
    let token = world.token(&[Scope::McpExecute]).await;
    for place in &places {
        let there = |config: &mut Config| {
            patient(config);
            config.secret_store = SecretStore::Vault(Box::new(place.clone()));
        };
        let sidecar = world.sidecar_with(Clock::Manual(clock.clone()), there).await;
        daemons.push((sidecar.client(&token).await, sidecar));
    }
    for round in 0..3 {
        let key = |n: usize| format!("canary-{round}-in-place-{n}");
        for (n, Vault { namespace, mount, prefix, .. }) in places.iter().enumerate() {
            let namespace = namespace.as_ref().map(|name| format!("{name}/")).unwrap_or_default();
            let (path, written) = (format!("{namespace}{mount}/data/{prefix}/{address}"), json!({ "api_key": key(n) }));
            // A mount of version 2 is set up after the answer.
            until("it is written", async || bao.request("POST", &path, json!({ "data": written })).await.0 == 200)
                .await;
        }
        for _ in 0..3 {
            let asked = daemons.iter_mut().map(|(client, _)| client.resolve_credentials(asking("pay")));
            for (n, answer) in join_all(asked).await.into_iter().enumerate() {
                assert_eq!(value(answer.unwrap().get_ref(), "API_KEY"), format!("{:?}", key(n)));
            }
        }
        clock.advance(limits::SECRET_TTL_DEFAULT + Duration::from_secs(1));
    }
}

#[tokio::test]
async fn b7_a_connection_that_is_leased_from_another_path_gets_no_login_of_the_path_before() {
    let bao = Bao::own().await;
    let (one, two) = (Database::issued_by(&bao, "1h", "2h").await, Database::issued_by(&bao, "1h", "2h").await);
    let mut settings = in_openbao(&bao).await;
    settings.push(("database.url", Postgres::fresh_database().await));
    let world = World::of(&one.manifest(), &settings).await;
    let sidecar = world.sidecar(Clock::System).await;
    let mut client = sidecar.client(&world.token(&[Scope::McpExecute]).await).await;
    let mut login = async || {
        let answer = client.resolve_credentials(asking("db")).await?.into_inner();
        Ok(value(&answer, "USER"))
    };
    let first = login().await.unwrap();
    bao.seal().await;
    world.apply(&two.manifest()).await;
    sidecar.caught_up().await;
    for _ in 0..3 {
        assert_eq!(refused(login().await), "SECRET_STORE_UNAVAILABLE", "though nothing is known of the new path");
    }
    bao.unseal().await;
    let mut second = None;
    until("the new path gives a login", async || {
        second = login().await.ok();
        second.is_some()
    })
    .await;
    assert_ne!(second.unwrap(), first);
    assert_eq!((one.issues(&bao), two.issues(&bao)), (1, 1));
}
