//! D1 and D7: one request for each token, however many daemons want a new one.

use std::time::Duration;

use futures_util::future::join_all;

use super::rig::{MACHINE, Sidecar, Site, provider};
use crate::support::openbao::Bao;
use crate::support::postgres::Postgres;

const DIES: &str = r#"{ kind = "old_dies" }"#;
/// Too little for anybody, so that every caller wants another.
const SHORT: Duration = Duration::from_secs(40);

async fn sidecars(site: &Site<'_>, count: usize) -> Vec<Sidecar> {
    sidecars_with(site, count, &[]).await
}

async fn sidecars_with(site: &Site<'_>, count: usize, change: &[(&'static str, &str)]) -> Vec<Sidecar> {
    join_all((0..count).map(|_| site.sidecar(change))).await
}

/// How often a round is run: a few times, or `CREDWAY_TEST_ROUNDS`. With 1000 the first of these is D1 as it is written, which takes
/// this machine some minutes: by hand, after a change of what a refresh does.
pub(super) fn rounds() -> u64 {
    std::env::var("CREDWAY_TEST_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(10)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_daemons_send_each_refresh_token_once() {
    let (oidc, bao) = (provider().await, Bao::shared().await);
    // As long as it takes to look up an account, the provider would let others in.
    oidc.accounts_take(Duration::from_millis(50)).await;
    let site = Site::new(&oidc, bao, DIES, Some(Postgres::fresh_database().await), 1).await;
    // What the test does to the secret is seen at once.
    let sidecars = sidecars_with(&site, 2, &[("cache.secret_ttl", "0s")]).await;
    for round in 1..=rounds() {
        site.tokens_live(SHORT).await;
        let asked = sidecars.iter().flat_map(|sidecar| (0..8).map(|_| sidecar.token_in_time("c0")));
        let tokens = join_all(asked).await;
        assert!(tokens.iter().all(|token| *token == tokens[0]), "round {round}: some got another one");
        assert!(oidc.is_alive(&tokens[0]).await, "round {round}");
        assert_eq!(site.gate.requests() as u64, round, "round {round}");
        assert_eq!(site.generation(&site.fields().await), Some(round + 1));
    }
    assert!(site.gate.sends().iter().all(|sends| *sends == 1), "{:?}", site.gate.sends());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_daemons_refresh_two_hundred_connections_by_two_hundred_requests() {
    const CONNECTIONS: usize = 200;
    let _machine = MACHINE.write().await;
    let (oidc, bao) = (provider().await, Bao::shared().await);
    let site = Site::new(&oidc, bao, DIES, Some(Postgres::fresh_database().await), CONNECTIONS).await;
    let sidecars = sidecars(&site, 5).await;
    site.tokens_live(SHORT).await;
    let began = tokio::time::Instant::now();
    let asked = sidecars.iter().flat_map(|sidecar| {
        (0..CONNECTIONS).map(move |nth| async move { sidecar.token_in_time(&format!("c{nth}")).await })
    });
    let tokens = join_all(asked).await;
    eprintln!("{CONNECTIONS} connections were refreshed by {} daemons in {:?}", sidecars.len(), began.elapsed());
    let first = &tokens[..CONNECTIONS];
    assert!(tokens.chunks(CONNECTIONS).all(|of_one| of_one == first), "two daemons answer differently");
    assert_eq!(site.gate.requests(), CONNECTIONS);
    assert!(site.gate.sends().iter().all(|sends| *sends == 1));
    for minted in &site.minted {
        assert!(!first.contains(&minted.access_token), "an old token was handed out");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rejected_token_is_refreshed_once_for_all_who_report_it_to_any_daemon() {
    let (oidc, bao) = (provider().await, Bao::shared().await);
    let site = Site::new(&oidc, bao, DIES, Some(Postgres::fresh_database().await), 1).await;
    site.tokens_live(Duration::from_secs(1800)).await;
    let sidecars = sidecars(&site, 3).await;
    let id = site.connections().await.remove(0);
    for sidecar in &sidecars {
        assert_eq!(sidecar.token_in_time("c0").await, site.minted[0].access_token);
    }
    let told = join_all(sidecars.iter().flat_map(|sidecar| (0..10).map(|_| sidecar.report(&id, 1)))).await;
    assert!(told.iter().all(|told| told.retry && told.secret_version == 2), "{told:?}");
    assert_eq!(site.gate.requests(), 1);
    let late = sidecars[0].report(&id, 1).await;
    assert!(late.retry && late.secret_version == 2);
    let again = join_all(sidecars.iter().map(|sidecar| sidecar.report(&id, 2))).await;
    assert!(again.iter().all(|told| !told.retry && told.retry_after.is_some()), "{again:?}");
    assert_eq!(site.gate.requests(), 1);
}

#[tokio::test]
async fn a_report_is_about_the_version_that_it_names() {
    const LIFE: Duration = Duration::from_secs(1800);
    let (oidc, bao) = (provider().await, Bao::shared().await);
    let site = Site::new(&oidc, bao, DIES, None, 1).await;
    site.tokens_live(LIFE).await;
    let sidecar = site.sidecar(&[]).await;
    let id = site.connections().await.remove(0);
    assert_eq!(sidecar.token_in_time("c0").await, site.minted[0].access_token);
    // Another daemon has handed out the second version, of which this one has not heard.
    site.token_is_next(&id, LIFE).await;
    let told = sidecar.report(&id, 2).await;
    assert!(told.retry && told.secret_version == 3, "{told:?}");
    assert_eq!(site.gate.requests(), 1);
}

/// By the change log every daemon hears of a new token within milliseconds; the rest is what this machine does besides.
const HEARD: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_refresh_no_daemon_hands_out_the_old_token_for_longer_than_a_second() {
    const CONNECTIONS: usize = 5;
    let (oidc, bao) = (provider().await, Bao::shared().await);
    let site = Site::new(&oidc, bao, DIES, Some(Postgres::fresh_database().await), CONNECTIONS).await;
    site.tokens_live(Duration::from_secs(1800)).await;
    let sidecars = sidecars(&site, 3).await;
    let mut longest = Duration::ZERO;
    for (nth, id) in site.ids().await.iter().enumerate() {
        let (name, old) = (format!("c{nth}"), &site.minted[nth].access_token);
        let held = join_all(sidecars.iter().map(|sidecar| sidecar.token_in_time(&name))).await;
        assert!(held.iter().all(|token| token == old), "all have it in memory");
        assert!(sidecars[nth % 3].report(id, 1).await.retry);
        let refreshed = tokio::time::Instant::now();
        let heard = sidecars.iter().map(async |sidecar| {
            while sidecar.token_in_time(&name).await == *old {}
            refreshed.elapsed()
        });
        longest = longest.max(join_all(heard).await.into_iter().max().unwrap());
    }
    eprintln!("the last of three daemons heard of a new token after {longest:?}");
    assert!(longest <= HEARD, "{longest:?}");
}
