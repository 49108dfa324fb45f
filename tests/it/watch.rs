//! `WatchCredentials`: the state now, then each change, for as long as the caller may have it and the daemon runs.

use std::time::Duration;

use credway::clock::Clock;
use credway::config::Config;
use credway::control::Reach;
use credway::grpc::proto::watch_credentials_response::Outcome;
use credway::grpc::proto::{WatchCredentialsRequest, WatchCredentialsResponse};
use credway::limits;
use credway::model::caller::Scope;
use futures_util::future::join_all;
use tonic::transport::Endpoint;
use tonic::{Code, Status, Streaming};

use crate::support::answers::{metric, reason, refused, value};
use crate::support::cast::{ACME, World, manual_clock};
use crate::support::openbao::until;
use crate::support::sidecar::{Client, Sidecar};

/// Longer than anything here takes; a test that reaches it hangs.
const PATIENCE: Duration = Duration::from_secs(8);

type Watch = Streaming<WatchCredentialsResponse>;

/// A daemon that reads a secret whenever it is asked for it.
fn without_cache(config: &mut Config) {
    config.cache.secret_ttl = Duration::ZERO;
}

fn watching(instance: &str) -> WatchCredentialsRequest {
    WatchCredentialsRequest { instance_id: instance.to_owned(), ..Default::default() }
}

async fn watch(client: &mut Client, request: WatchCredentialsRequest) -> Watch {
    client.watch_credentials(request).await.unwrap().into_inner()
}

/// What a watch tells next: a state, its end, or why it was ended.
async fn told(watch: &mut Watch) -> Result<Option<WatchCredentialsResponse>, Status> {
    tokio::time::timeout(PATIENCE, watch.message()).await.expect("the watch tells nothing")
}

/// Version and `API_KEY` of the next state, or its version and the reason of the refusal.
async fn state(watch: &mut Watch) -> (String, String) {
    let told = told(watch).await.unwrap().expect("the watch has ended");
    let outcome = match told.outcome.unwrap() {
        Outcome::Resolution(resolution) => value(&resolution, "API_KEY").trim_matches('"').to_owned(),
        Outcome::Refusal(refusal) => refusal.reason,
    };
    (told.version, outcome)
}

/// A world, a daemon that keeps no secrets, and a client that may resolve.
async fn running() -> (World, Sidecar, Client) {
    let world = World::sqlite(ACME).await;
    let sidecar = world.sidecar_with(Clock::System, without_cache).await;
    let client = sidecar.client(&world.token(&[Scope::McpExecute]).await).await;
    (world, sidecar, client)
}

#[tokio::test]
async fn a_watch_tells_the_state_now_and_again_when_the_secret_was_rotated() {
    for world in [World::sqlite(ACME).await, World::postgres_and_openbao(ACME).await] {
        follows_a_rotation(world).await;
    }
}

async fn follows_a_rotation(world: World) {
    let sidecar = world.sidecar_with(Clock::System, without_cache).await;
    let mut client = sidecar.client(&world.token(&[Scope::McpExecute]).await).await;
    let mut watch = watch(&mut client, watching("pay")).await;
    let (first, key) = state(&mut watch).await;
    assert_eq!(key, "canary-production-key");
    world.rotate("production", &[("api_key", "canary-rotated-key")]).await;
    let (second, key) = state(&mut watch).await;
    assert_eq!(key, "canary-rotated-key");
    assert!(first != second && first.len() == 32 && !second.contains("canary"), "{first} {second}");
}

#[tokio::test]
async fn a_refusal_is_a_state_and_so_is_the_recovery_from_it() {
    let (world, _sidecar, mut client) = running().await;
    let mut watch = watch(&mut client, watching("pay")).await;
    let (working, _) = state(&mut watch).await;
    world.control.connection_disable(&world.workspace, "production").await.unwrap();
    let (refused, reason) = state(&mut watch).await;
    assert_eq!(reason, "CONNECTION_DISABLED");
    world.control.connection_enable(&world.workspace, "production").await.unwrap();
    let (recovered, key) = state(&mut watch).await;
    assert_eq!(key, "canary-production-key");
    assert!(refused != working && refused != recovered);
}

#[tokio::test]
async fn a_step_that_is_wired_otherwise_is_told_and_others_are_not() {
    let (world, _sidecar, mut client) = running().await;
    let step = WatchCredentialsRequest { workflow_id: "rehearsal".into(), step: "charge".into(), ..watching("pay") };
    let (mut step, mut plain) = (watch(&mut client, step).await, watch(&mut client, watching("pay")).await);
    assert_eq!(state(&mut step).await.1, "canary-charge-key");
    assert_eq!(state(&mut plain).await.1, "canary-production-key");
    world.apply(&ACME.replace("connection: charge, step: charge", "connection: sandbox, step: charge")).await;
    assert_eq!(state(&mut step).await.1, "canary-sandbox-key");
    world.rotate("production", &[("api_key", "canary-rotated-key")]).await;
    assert_eq!(state(&mut plain).await.1, "canary-rotated-key", "the step's rewiring was told to the profile's watch");
}

#[tokio::test]
async fn who_comes_back_with_the_version_it_saw_is_told_of_the_next_one_only_by_whichever_daemon() {
    let (world, sidecar, mut client) = running().await;
    let (version, _) = state(&mut watch(&mut client, watching("pay")).await).await;
    sidecar.stop().await;
    let other = world.sidecar_with(Clock::System, without_cache).await;
    let mut client = other.client(&world.token(&[Scope::McpExecute]).await).await;
    let (same, _) = state(&mut watch(&mut client, watching("pay")).await).await;
    assert_eq!(same, version);

    let seen = WatchCredentialsRequest { seen_version: version, ..watching("pay") };
    let mut again = watch(&mut client, seen).await;
    world.rotate("production", &[("api_key", "canary-rotated-key")]).await;
    assert_eq!(state(&mut again).await.1, "canary-rotated-key", "the state that it had seen was told again");
}

#[tokio::test]
async fn a_reader_that_is_slow_misses_states_and_never_the_last() {
    let (world, sidecar, mut client) = running().await;
    let token = world.token(&[Scope::McpExecute]).await;
    // One that may be sent less than a state until it reads.
    let socket = format!("unix://{}", sidecar.addresses().socket.as_ref().unwrap().display());
    let narrow = Endpoint::from_shared(socket).unwrap().initial_stream_window_size(100).connect().await.unwrap();
    let bearer = format!("Bearer {token}");
    let mut slow = credway::grpc::proto::credential_service_client::CredentialServiceClient::with_interceptor(
        narrow,
        move |mut request: tonic::Request<()>| {
            request.metadata_mut().insert("authorization", bearer.parse().unwrap());
            Ok(request)
        },
    );
    let mut slow = slow.watch_credentials(watching("pay")).await.unwrap().into_inner();
    let mut quick = watch(&mut client, watching("pay")).await;
    state(&mut quick).await;
    let keys: Vec<String> = (1..=4).map(|nth| format!("canary-key-{nth}")).collect();
    for key in &keys {
        world.rotate("production", &[("api_key", key)]).await;
        assert_eq!(&state(&mut quick).await.1, key);
    }
    let mut seen = Vec::new();
    while seen.last() != keys.last() {
        seen.push(state(&mut slow).await.1);
    }
    assert!(seen.len() < 5, "a queue was kept for it: {seen:?}");
}

#[tokio::test]
async fn watches_end_well_when_the_daemon_drains() {
    let (_world, sidecar, mut client) = running().await;
    let mut watches = Vec::new();
    for instance in ["pay", "nothing"] {
        let mut opened = watch(&mut client, watching(instance)).await;
        state(&mut opened).await;
        watches.push(opened);
    }
    let stopping = tokio::spawn(sidecar.stop());
    for mut watch in watches {
        assert!(told(&mut watch).await.unwrap().is_none());
    }
    assert!(tokio::time::timeout(PATIENCE, stopping).await.unwrap().unwrap(), "the watches were cut");
}

#[tokio::test]
async fn a_watch_ends_when_its_token_is_revoked() {
    let (clock, world) = (manual_clock(), World::sqlite(ACME).await);
    let sidecar = world.sidecar_with(Clock::Manual(clock.clone()), without_cache).await;
    let token = world.token(&[Scope::McpExecute]).await;
    let mut watch = watch(&mut sidecar.client(&token).await, watching("pay")).await;
    state(&mut watch).await;
    world.control.token_revoke(&world.workspace, Reach::Tenant, &token[..12]).await.unwrap();
    clock.advance(limits::TOKEN_CACHE_TTL);
    let ended = told(&mut watch).await.unwrap_err();
    assert_eq!((ended.code(), reason(&ended).as_str()), (Code::Unauthenticated, "UNAUTHENTICATED"));
}

#[tokio::test]
async fn what_cannot_be_watched_is_refused_at_once() {
    let (world, sidecar, mut client) = running().await;
    assert_eq!(refused(client.watch_credentials(watching("")).await), "INVALID_REQUEST");
    let mut reader = sidecar.client(&world.token(&[Scope::McpRead]).await).await;
    assert_eq!(refused(reader.watch_credentials(watching("pay")).await), "PERMISSION_DENIED");
    let mut stranger = sidecar.client("pat_nonsense").await;
    assert_eq!(refused(stranger.watch_credentials(watching("pay")).await), "UNAUTHENTICATED");
}

#[tokio::test]
async fn a_daemon_holds_so_many_watches_and_no_more_until_one_of_them_ends() {
    let (world, sidecar, mut client) = running().await;
    let token = world.token(&[Scope::McpExecute]).await;
    let mut second = sidecar.client(&token).await;
    let opening = (0..limits::WATCHES_MAX).map(|nth| {
        let mut client = if nth % 2 == 0 { client.clone() } else { second.clone() };
        async move { watch(&mut client, watching("nothing")).await }
    });
    let mut watches = join_all(opening).await;
    assert_eq!(metric(&sidecar, "credway_watches").await, limits::WATCHES_MAX as f64);
    let over = client.watch_credentials(watching("pay")).await.unwrap_err();
    assert_eq!((over.code(), reason(&over).as_str()), (Code::ResourceExhausted, "OVERLOADED"));
    watches.pop();
    until("there is a place again", async || second.watch_credentials(watching("pay")).await.is_ok()).await;
}
