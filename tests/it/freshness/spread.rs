//! A5: secrets that were read together are not read again together, and few at once. A real OpenBao tells when it was asked.

use std::ops::Range;
use std::time::Duration;

use credway::clock::Clock;
use credway::config::{Config, SecretStore};
use credway::grpc::proto::batch_result::Outcome;
use credway::grpc::proto::{BatchResolveCredentialsRequest, BatchStep, Freshness};
use credway::limits;
use credway::model::caller::Scope;
use tokio::join;
use tokio::time::Instant;

use super::hot_path::many;
use crate::support::answers::metric;
use crate::support::cast::{World, manual_clock};
use crate::support::gate::Gate;
use crate::support::openbao::{Bao, until, until_by};
use crate::support::sidecar::{Client, Sidecar};

const REFRESHES: &str = "credway_secret_cache_refreshes_total";

/// How often the secret store was read, for callers that waited and in the background.
async fn reads(sidecar: &Sidecar) -> [f64; 2] {
    let reads = async |cause: &str| {
        metric(sidecar, &format!("credway_secret_store_reads_total{{cause=\"{cause}\",outcome=\"ok\"}}")).await
    };
    [reads("caller").await, reads("background").await]
}

/// Asks for the secrets of so many instances of `many`, and asserts that each is that fresh.
async fn ask(client: &Client, instances: Range<usize>, freshness: Freshness) {
    let step = |n| BatchStep { instance_id: format!("i{n}"), ..Default::default() };
    let batch = BatchResolveCredentialsRequest { steps: instances.map(step).collect(), ..Default::default() };
    let answer = client.clone().batch_resolve_credentials(batch).await.unwrap();
    for result in answer.into_inner().results {
        let Some(Outcome::Resolution(answer)) = result.outcome else { panic!("{result:?}") };
        assert_eq!(answer.provenance.unwrap().connections[0].freshness(), freshness);
    }
}

/// The vault of a daemon in OpenBao.
fn vault(config: &mut Config) -> &mut credway::config::Vault {
    let SecretStore::Vault(vault) = &mut config.secret_store else { panic!("not in OpenBao") };
    vault
}

/// How often OpenBao was asked in each second from the first of these on.
fn by_second(times: &[jiff::Timestamp]) -> Vec<usize> {
    let mut seconds = Vec::new();
    for at in times {
        let second = usize::try_from(at.duration_since(times[0]).as_secs()).unwrap();
        seconds.resize(seconds.len().max(second + 1), 0);
        seconds[second] += 1;
    }
    seconds
}

/// When each secret of a mount was read.
fn read_in_mount(bao: &Bao, mount: &str) -> Vec<jiff::Timestamp> {
    let prefix = format!("{mount}/data/");
    let audited = bao.audited();
    let reads = audited.iter().filter(|seen| seen.operation == "read" && seen.path.starts_with(&prefix));
    reads.map(|seen| seen.at).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a5_secrets_read_in_one_second_are_read_again_evenly_by_openbaos_own_log() {
    const SECRETS: usize = 400;
    const TTL: Duration = Duration::from_secs(20);
    /// From three fifths of their life to four.
    const WINDOW_SECONDS: usize = 4;
    /// So few are asked for at once that the places for reads in the background are not what spreads them.
    const AT_ONCE: usize = 10;
    let bao = Bao::shared().await;
    let mut world = World::openbao(bao, &many(SECRETS)).await;
    let mount = vault(&mut world.config).mount.clone();
    // Whoever applied the manifest looked for the key of the project's fingerprints.
    let before = read_in_mount(bao, &mount).len();
    let short = |config: &mut Config| {
        (config.cache.secret_ttl, config.grpc.call_deadline) = (TTL, limits::CALL_DEADLINE_MAX);
    };
    let sidecar = world.sidecar_with(Clock::System, short).await;
    let client = sidecar.client(&world.token(&[Scope::McpExecute]).await).await;
    sidecar.caught_up().await;
    let half = SECRETS / 2;
    join!(ask(&client, 0..half, Freshness::Fresh), ask(&client, half..SECRETS, Freshness::Fresh));
    let loaded = Instant::now();
    until("the first will soon be too old", async || loaded.elapsed() > TTL / 2).await;
    until_by(TTL, "all were read again", async || {
        for n in (0..SECRETS).step_by(AT_ONCE) {
            ask(&client, n..n + AT_ONCE, Freshness::Cached).await;
        }
        reads(&sidecar).await[1] >= SECRETS as f64
    })
    .await;
    assert_eq!(reads(&sidecar).await, [SECRETS as f64; 2], "somebody waited, or something was read twice");

    let times: Vec<_> = read_in_mount(bao, &mount).into_iter().skip(before).collect();
    let (loads, refreshes) = times.split_at(SECRETS);
    let (loading, seconds) = (loads[SECRETS - 1].duration_since(loads[0]), by_second(refreshes));
    println!("{SECRETS} secrets, all read within {loading:.1?}, were read again by second: {seconds:?}");
    assert_eq!(seconds.iter().sum::<usize>(), SECRETS);
    assert!(seconds.iter().all(|reads| *reads <= 2 * SECRETS / WINDOW_SECONDS), "{seconds:?} is not even");
}

#[tokio::test]
async fn a5_openbao_is_asked_by_eight_at_once_however_many_secrets_are_soon_too_old() {
    const SECRETS: usize = 100;
    let (bao, clock) = (Bao::shared().await, manual_clock());
    let mut world = World::openbao(bao, &many(SECRETS)).await;
    let gate = Gate::before(bao.url(), format!("/v1/{}/data/", vault(&mut world.config).mount)).await;
    gate.open();
    let through_gate = |config: &mut Config| vault(config).address = gate.url.clone();
    let sidecar = world.sidecar_with(Clock::Manual(clock.clone()), through_gate).await;
    let client = sidecar.client(&world.token(&[Scope::McpExecute]).await).await;
    sidecar.caught_up().await;
    ask(&client, 0..SECRETS, Freshness::Fresh).await;
    assert_eq!(gate.requests(), SECRETS);

    gate.close();
    clock.advance(Duration::from_secs(25));
    for _ in 0..3 {
        // Nobody waits for them, and those that find no place are not queued.
        ask(&client, 0..SECRETS, Freshness::Cached).await;
        assert_eq!(metric(&sidecar, REFRESHES).await, limits::SECRET_REFRESHES_MAX as f64);
        clock.advance(limits::SECRET_RECHECK);
    }
    until("they have reached OpenBao", async || gate.requests() == SECRETS + limits::SECRET_REFRESHES_MAX).await;

    gate.open();
    until("all were read again", async || {
        ask(&client, 0..SECRETS, Freshness::Cached).await;
        reads(&sidecar).await[1] >= SECRETS as f64
    })
    .await;
    assert_eq!(reads(&sidecar).await, [SECRETS as f64; 2]);
}
