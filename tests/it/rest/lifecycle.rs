//! The life of a connection over REST: what is known of its credential, who uses it, rotation, deletion and return.

use std::sync::Arc;
use std::time::Duration;

use credway::clock::{Clock, ManualClock};
use credway::config::{Config, SecretStore};
use credway::control::Control;
use credway::limits;
use credway::model::caller::{Role, Scope};
use credway::secrets::SecretError;
use credway::templates::Catalogue;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::Api;
use crate::support::answers::{asking, refused, value};
use crate::support::cast::{ACME, World, manual_clock};
use crate::support::gate::{Fate, Gate};
use crate::support::openbao::{Bao, until};

/// An API at a time that the test moves, with a token of a contributor.
struct Scene {
    api: Api,
    clock: ManualClock,
    token: String,
}

/// Each fact on both pairs of stores.
macro_rules! on_both_pairs {
    ($($fact:ident),* $(,)?) => {
        mod embedded {
            $(#[tokio::test]
            async fn $fact() { super::$fact(super::Scene::of(crate::support::cast::World::sqlite(super::ACME).await).await).await; })*
        }
        mod on_servers {
            $(#[tokio::test]
            async fn $fact() { super::$fact(super::Scene::of(crate::support::cast::World::postgres_and_openbao(super::ACME).await).await).await; })*
        }
    };
}

on_both_pairs! {
    a_credential_is_known_by_names_times_and_fingerprints,
    whom_a_credential_was_told_is_shown_by_version,
    a_rotation_keeps_the_old_version_until_it_is_finished,
    an_aborted_rotation_leaves_what_was_before,
    a_rotation_whose_time_is_over_is_finished,
    a_deleted_connection_comes_back_with_its_credential,
    a_deleted_connection_is_destroyed_when_its_time_is_over,
}

impl Scene {
    async fn of(world: World) -> Self {
        // In microseconds, as databases keep it.
        let start = Clock::Manual(manual_clock()).now().as_microsecond();
        let clock = ManualClock::at(Timestamp::from_microsecond(start).unwrap());
        let api = Api::at(world, Clock::Manual(clock.clone())).await;
        let token = api.token(Role::Contributor).await;
        Self { api, clock, token }
    }

    /// The path of something about a connection.
    async fn path(&self, connection: &str, rest: &str) -> String {
        format!("/v1/connections/{}{rest}", self.api.world.connection(connection).await)
    }

    async fn get(&self, path: &str) -> Value {
        self.api.ask(&self.token, "GET", path, None).await.ok()
    }

    async fn post(&self, path: &str, body: &Value) -> super::Answer {
        self.api.ask(&self.token, "POST", path, Some(body)).await
    }

    /// The key that the instance gets now, or why it gets none.
    async fn key(&self) -> Result<String, String> {
        let executor = self.api.world.token(&[Scope::McpExecute]).await;
        self.api.sidecar.caught_up().await;
        let mut client = self.api.sidecar.client(&executor).await;
        match client.resolve_credentials(asking("pay")).await {
            Ok(answer) => Ok(value(answer.get_ref(), "API_KEY")),
            Err(status) => Err(refused::<()>(Err(status))),
        }
    }

    /// The operations, at the time of the scene.
    fn control(&self) -> Control {
        let World { store, secrets, .. } = &self.api.world;
        Control::new(store.clone(), Arc::clone(secrets), Catalogue::built_in(), Clock::Manual(self.clock.clone()))
    }

    /// What each field's fingerprint is, of the connection whose credentials are at `path`.
    async fn fingerprints(&self, path: &str) -> Vec<(String, String, String)> {
        let told = self.get(path).await;
        let text = |field: &Value, key: &str| field[key].as_str().unwrap_or_else(|| panic!("{told}")).to_owned();
        let fields = told["credentials"].as_array().unwrap().iter();
        fields.map(|field| (text(field, "name"), text(field, "set_at"), text(field, "fingerprint"))).collect()
    }

    /// What was done to connections and by whom, newest first.
    async fn acts(&self) -> Vec<(String, String)> {
        let admin = self.api.token(Role::Admin).await;
        let lines = self.api.ask(&admin, "GET", "/v1/audit", None).await.ok();
        let word = |line: &Value, key: &str| line[key].as_str().unwrap().to_owned();
        let about_connections = lines["items"].as_array().unwrap().iter().filter(|line| line["entity"] == "connection");
        about_connections.map(|line| (word(line, "act"), word(line, "actor"))).collect()
    }
}

async fn a_credential_is_known_by_names_times_and_fingerprints(scene: Scene) {
    // As the manifest gave it.
    let production = scene.fingerprints(&scene.path("production", "/credentials").await).await;
    let other = scene.fingerprints(&scene.path("sandbox", "/credentials").await).await;
    assert!(production[0].0 == "api_key" && production[0].2.starts_with("fp:") && production[0].2.len() == 11);
    assert_ne!(production[0].2, other[0].2);

    let fields =
        json!({ "host": "db-1", "port": "3306", "database": "d", "user": "u", "password": "canary-production-key" });
    let new = json!({ "display_name": "Db", "provider": "mysql", "credentials": fields });
    scene.post("/v1/connections", &new).await.ok();
    let path = scene.path("Db", "/credentials").await;
    let before = scene.fingerprints(&path).await;
    let of = |known: &[(String, String, String)], name: &str| {
        let field = known.iter().find(|(field, ..)| field == name).unwrap();
        (field.1.clone(), field.2.clone())
    };
    assert_eq!(of(&before, "password").1, production[0].2, "equal values of a project are seen to be equal");
    scene.clock.advance(Duration::from_secs(60));
    let change = json!({ "credentials": { "user": "v", "password": "canary-production-key" } });
    scene.api.ask(&scene.token, "PATCH", &scene.path("Db", "").await, Some(&change)).await.ok();
    let after = scene.fingerprints(&path).await;
    assert_eq!((before.len(), of(&before, "password")), (after.len(), of(&after, "password")));
    let (user, now) = (of(&after, "user"), Clock::Manual(scene.clock.clone()).now());
    assert!(user.0 == now.to_string() && user.1 != of(&before, "user").1, "{user:?} {before:?}");
    assert!(!scene.get(&path).await.to_string().contains("canary"));
    assert_eq!(scene.acts().await[0].0, "read");
    scene.api.sidecar.stop().await;
}

async fn whom_a_credential_was_told_is_shown_by_version(scene: Scene) {
    let path = scene.path("production", "/usage").await;
    let usage = scene.get(&path).await;
    assert_eq!((&usage["profiles"][0]["profile"], &usage["profiles"][0]["active"]), (&json!("live"), &json!(true)));
    assert_eq!(usage["resolved"], json!([]));
    let head = scene.api.world.store.change_head().await.unwrap();
    let asked_at = Clock::Manual(scene.clock.clone()).now().to_string();
    scene.key().await.unwrap();
    until("the use is written down", async || scene.get(&path).await["resolved"] != json!([])).await;
    let instance = scene.api.world.instance("pay").await.to_string();
    let told = json!([{ "instance_id": instance, "secret_version": 1, "last_at": asked_at }]);
    assert_eq!(scene.get(&path).await["resolved"], told);
    // One more, for the token that asked.
    assert_eq!(scene.api.world.store.change_head().await.unwrap(), head + 1, "a measurement is no change");

    let overridden = scene.get(&scene.path("charge", "/usage").await).await;
    assert_eq!(overridden["workflows"], json!(["rehearsal"]));
    // What is not written down when the daemon ends is written then.
    scene.clock.advance(Duration::from_secs(60));
    scene.key().await.unwrap();
    let Scene { api, clock, .. } = scene;
    let connection = api.world.connection("production").await;
    assert!(api.sidecar.stop().await);
    let uses = api.world.store.uses_of(connection).await.unwrap();
    assert_eq!((uses.len(), uses[0].last_at.to_string()), (1, Clock::Manual(clock).now().to_string()));
}

async fn a_rotation_keeps_the_old_version_until_it_is_finished(scene: Scene) {
    assert_eq!(scene.key().await.unwrap(), "\"canary-production-key\"");
    let usage = scene.path("production", "/usage").await;
    until("the use is written down", async || scene.get(&usage).await["resolved"] != json!([])).await;
    let rotate = scene.path("production", "/rotate").await;
    let new = json!({ "credentials": { "api_key": "canary-second-key" }, "keep_old_for_seconds": 3600 });
    let bearer = format!("Bearer {}", scene.token);
    let headers = [("authorization", bearer.as_str()), ("idempotency-key", "rotate-1")];
    let begun = scene.api.send("POST", &rotate, &headers, Some(&new)).await.ok();
    let now = Clock::Manual(scene.clock.clone()).now();
    assert_eq!((&begun["old_version"], &begun["new_version"]), (&json!(1), &json!(2)));
    assert_eq!(begun["ends_at"], (now + Duration::from_secs(3600)).to_string());
    assert_eq!(begun["last_use_of_old_version"], now.to_string());
    assert_eq!(scene.api.send("POST", &rotate, &headers, Some(&new)).await.ok(), begun);
    assert_eq!(scene.get(&scene.path("production", "").await).await["rotation"], begun);
    assert_eq!(scene.key().await.unwrap(), "\"canary-second-key\"");

    scene.post(&rotate, &new).await.problem(409, "ROTATION_RUNNING");
    let path = scene.path("production", "").await;
    let patch = json!({ "credentials": { "api_key": "third" } });
    scene.api.ask(&scene.token, "PATCH", &path, Some(&patch)).await.problem(409, "ROTATION_RUNNING");
    let address = scene.api.world.address("production").await;
    assert_eq!(scene.api.world.secrets.read_version(&address, 1).await.unwrap().version, 1);
    let finish = scene.path("production", "/rotate/finish").await;
    let finished = scene.api.ask(&scene.token, "POST", &finish, None).await;
    assert_eq!(finished.etag(), scene.api.ask(&scene.token, "GET", &path, None).await.etag());
    assert!(finished.ok().get("rotation").is_none());
    let gone = scene.api.world.secrets.read_version(&address, 1).await;
    assert!(matches!(gone, Err(SecretError::Missing { .. })), "{gone:?}");
    assert_eq!(scene.key().await.unwrap(), "\"canary-second-key\"");
    scene.api.ask(&scene.token, "POST", &finish, None).await.problem(409, "NO_ROTATION");
    scene.api.sidecar.stop().await;
}

async fn an_aborted_rotation_leaves_what_was_before(scene: Scene) {
    let credentials = scene.path("production", "/credentials").await;
    let before = scene.fingerprints(&credentials).await;
    let rotate = scene.path("production", "/rotate").await;
    for (body, pointer) in [
        (json!({ "credentials": {} }), "/credentials"),
        (json!({ "credentials": { "api_key": " " } }), "/credentials/api_key"),
        (json!({ "credentials": { "api_key": "x" }, "keep_old_for_seconds": 0 }), "/keep_old_for_seconds"),
        (json!({ "credentials": { "api_key": "x" }, "keep_old_for_seconds": 99_999_999 }), "/keep_old_for_seconds"),
    ] {
        let problem = scene.post(&rotate, &body).await.problem(422, "INVALID_REQUEST");
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{problem}");
    }
    scene.post(&rotate, &json!({ "credentials": { "api_key": "canary-wrong-key" } })).await.ok();
    assert_eq!(scene.key().await.unwrap(), "\"canary-wrong-key\"");
    assert_ne!(scene.fingerprints(&credentials).await[0].2, before[0].2);
    scene.api.ask(&scene.token, "POST", &format!("{rotate}/abort"), None).await.ok();
    assert_eq!(scene.key().await.unwrap(), "\"canary-production-key\"");
    assert_eq!(scene.fingerprints(&credentials).await[0].2, before[0].2);
    assert!(scene.acts().await.iter().any(|(act, _)| act == "abort"));
    scene.api.ask(&scene.token, "POST", &format!("{rotate}/abort"), None).await.problem(409, "NO_ROTATION");
    // And another one can begin.
    assert_eq!(scene.post(&rotate, &json!({ "credentials": { "api_key": "next" } })).await.ok()["old_version"], 3);
    scene.api.sidecar.stop().await;
}

async fn a_rotation_whose_time_is_over_is_finished(scene: Scene) {
    let (rotate, path) = (scene.path("production", "/rotate").await, scene.path("production", "").await);
    let new = json!({ "credentials": { "api_key": "canary-second-key" }, "keep_old_for_seconds": 600 });
    scene.post(&rotate, &new).await.ok();
    let address = scene.api.world.address("production").await;
    scene.control().lifecycle_round().await.unwrap();
    assert!(scene.api.world.secrets.read_version(&address, 1).await.is_ok());
    scene.clock.advance(Duration::from_secs(600));
    scene.control().lifecycle_round().await.unwrap();
    assert!(scene.api.world.secrets.read_version(&address, 1).await.is_err());
    assert!(scene.get(&path).await.get("rotation").is_none());
    assert_eq!(scene.acts().await[0], ("finish".to_owned(), "credway".to_owned()));
    assert_eq!(scene.acts().await[1].0, "rotate");
    assert_eq!(scene.key().await.unwrap(), "\"canary-second-key\"");
    scene.api.sidecar.stop().await;
}

async fn a_deleted_connection_comes_back_with_its_credential(scene: Scene) {
    let admin = scene.api.token(Role::Admin).await;
    let (path, id) = (scene.path("production", "").await, scene.api.world.connection("production").await.to_string());
    let before = scene.get(&path).await;
    assert_eq!(scene.api.ask(&admin, "DELETE", &format!("{path}?force=true"), None).await.status, 204);
    assert_eq!(scene.key().await.unwrap_err(), "CONNECTION_MISSING");
    let listed = scene.get("/v1/connections/deleted").await["items"].clone();
    let until = Clock::Manual(scene.clock.clone()).now() + limits::CONNECTION_RESTORABLE;
    assert_eq!((&listed[0]["id"], &listed[0]["restorable_until"]), (&json!(id), &json!(until.to_string())));

    // Somebody else takes its name meanwhile.
    let new = json!({ "display_name": "production", "provider": "resend", "credentials": { "api_key": "k" } });
    scene.post("/v1/connections", &new).await.ok();
    let restore = format!("{path}/restore");
    scene.api.ask(&scene.token, "POST", &restore, None).await.problem(409, "ALREADY_EXISTS");
    let other = scene.path("production", "").await;
    scene.api.ask(&scene.token, "PATCH", &other, Some(&json!({ "display_name": "mine" }))).await.ok();
    let restored = scene.api.ask(&scene.token, "POST", &restore, None).await.ok();
    assert!(restored["version"].as_u64() > before["version"].as_u64());
    for key in ["id", "name", "template", "environment", "status", "status_since", "credential_keys"] {
        assert_eq!(restored[key], before[key], "{key}");
    }
    assert_eq!(scene.key().await.unwrap(), "\"canary-production-key\"");
    assert_eq!(scene.acts().await[0].0, "restore");
    scene.api.ask(&scene.token, "POST", &restore, None).await.problem(404, "NOT_FOUND");
    assert_eq!(scene.get("/v1/connections/deleted").await["items"], json!([]));
    scene.api.sidecar.stop().await;
}

async fn a_deleted_connection_is_destroyed_when_its_time_is_over(scene: Scene) {
    let (path, address) = (scene.path("sandbox", "").await, scene.api.world.address("sandbox").await);
    let admin = scene.api.token(Role::Admin).await;
    // While it is rotated, too.
    let kept = limits::ROTATION_KEPT_MAX.as_secs();
    let new = json!({ "credentials": { "api_key": "second" }, "keep_old_for_seconds": kept });
    scene.post(&format!("{path}/rotate"), &new).await.ok();
    assert_eq!(scene.api.ask(&admin, "DELETE", &format!("{path}?force=true"), None).await.status, 204);
    scene.clock.advance(limits::CONNECTION_RESTORABLE - Duration::from_secs(1));
    scene.control().lifecycle_round().await.unwrap();
    assert!(scene.api.world.secrets.read(&address).await.is_ok());
    scene.clock.advance(Duration::from_secs(1));
    // Nobody restores what is about to be destroyed.
    scene.api.ask(&scene.token, "POST", &format!("{path}/restore"), None).await.problem(404, "NOT_FOUND");
    scene.control().lifecycle_round().await.unwrap();
    for version in [1, 2] {
        let gone = scene.api.world.secrets.read_version(&address, version).await;
        assert!(matches!(gone, Err(SecretError::Missing { .. })), "{gone:?}");
    }
    let (store, id) = (&scene.api.world.store, address.connection);
    let rotation = store.rotation_get(scene.api.world.workspace.project.id, id).await.unwrap();
    assert_eq!((store.fields_of(id).await.unwrap().len(), rotation), (0, None));
    scene.api.sidecar.stop().await;
}

#[tokio::test]
async fn a_daemon_ends_what_is_due_by_itself() {
    let scene = Scene::of(World::sqlite(ACME).await).await;
    let rotate = scene.path("production", "/rotate").await;
    scene.post(&rotate, &json!({ "credentials": { "api_key": "second" }, "keep_old_for_seconds": 60 })).await.ok();
    let address = scene.api.world.address("production").await;
    scene.clock.advance(Duration::from_secs(60));
    let late = scene.api.world.sidecar(Clock::Manual(scene.clock.clone())).await;
    until("the old version is destroyed", async || scene.api.world.secrets.read_version(&address, 1).await.is_err())
        .await;
    late.stop().await;
}

#[tokio::test]
async fn a_new_host_needs_the_password_again_in_a_rotation_too() {
    let scene = Scene::of(World::sqlite(ACME).await).await;
    let fields = json!({ "host": "db-1", "database": "d", "user": "u", "password": "p" });
    let new = json!({ "display_name": "Db", "provider": "mysql", "credentials": fields });
    scene.post("/v1/connections", &new).await.ok();
    let rotate = scene.path("Db", "/rotate").await;
    let moved = scene.post(&rotate, &json!({ "credentials": { "host": "db-2" } })).await;
    assert_eq!(moved.problem(422, "INVALID_REQUEST")["errors"][0]["pointer"], "/credentials/password");
    assert!(scene.get(&scene.path("Db", "").await).await.get("rotation").is_none());
    scene.post(&rotate, &json!({ "credentials": { "host": "db-2", "password": "p" } })).await.ok();
}

#[tokio::test]
async fn of_two_who_rotate_at_once_one_does() {
    let scene = Scene::of(World::postgres_and_openbao(ACME).await).await;
    let rotate = scene.path("production", "/rotate").await;
    let (one, two) = (json!({ "credentials": { "api_key": "one" } }), json!({ "credentials": { "api_key": "two" } }));
    let both = tokio::join!(scene.post(&rotate, &one), scene.post(&rotate, &two));
    let won = [&both.0, &both.1].iter().filter(|answer| answer.status == 200).count();
    assert!(won == 1 && [both.0.status, both.1.status].iter().any(|status| *status == 409), "{both:?}");
    let shown = scene.get(&scene.path("production", "").await).await;
    assert_eq!(shown["rotation"]["new_version"], 2, "{shown}");
}

#[tokio::test]
async fn a_manifest_does_not_write_over_a_rotation() {
    let scene = Scene::of(World::sqlite(ACME).await).await;
    let rotate = scene.path("production", "/rotate").await;
    scene.post(&rotate, &json!({ "credentials": { "api_key": "second" } })).await.ok();
    let manifest = credway::control::manifest::Manifest::parse(ACME).unwrap();
    let applied = scene.api.world.try_apply(&manifest).await.unwrap_err();
    assert_eq!(applied.code(), "ROTATION_RUNNING");
    scene.api.ask(&scene.token, "POST", &format!("{rotate}/abort"), None).await.ok();
    assert!(scene.api.world.try_apply(&manifest).await.unwrap().changes.is_empty());
}

/// Between the secret and its row nothing stops: a client that went away finds the rotation begun.
#[tokio::test]
async fn a_rotation_is_begun_to_its_end_though_its_client_goes_away() {
    let bao = Bao::shared().await;
    let world = World::openbao(bao, ACME).await;
    let gate = Gate::before(bao.url(), world.connection("production").await).await;
    gate.open();
    let behind_gate = |config: &mut Config| {
        let SecretStore::Vault(vault) = &mut config.secret_store else { panic!("not in OpenBao") };
        vault.address = gate.url.clone();
    };
    let api = Api::changed(world, Clock::System, behind_gate).await;
    let (token, id) = (api.token(Role::Contributor).await, api.world.connection("production").await);
    let path = format!("/v1/connections/{id}");
    // The read passes; the answer to the write waits.
    gate.next([Fate::Pass, Fate::HoldAnswer]);
    let new = json!({ "credentials": { "api_key": "canary-second-key" } });
    let request = api.http.post(format!("http://{}{path}/rotate", api.address)).bearer_auth(&token).json(&new);
    let client = tokio::spawn(request.send());
    gate.until_held(1).await;
    client.abort();
    assert!(client.await.is_err());
    gate.release();
    until("the rotation runs", async || api.ask(&token, "GET", &path, None).await.ok().get("rotation").is_some()).await;
    api.ask(&token, "POST", &format!("{path}/rotate/abort"), None).await.ok();
    api.sidecar.stop().await;
}
