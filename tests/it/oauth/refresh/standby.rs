//! D8: a secret store of three nodes. Its standbys answer reads by what they have heard of, which may be too old.

use std::time::Duration;

use credway::limits;
use futures_util::future::join_all;

use super::once::rounds;
use super::rig::{Sidecar, Site, provider};
use crate::support::gate::{Fate, Gate};
use crate::support::openbao::Bao;
use crate::support::postgres::Postgres;

const CONNECTIONS: usize = 20;

/// The standbys of this machine are seldom behind: what is sent by one that is, the next test shows. Two hundred refreshes; `CREDWAY_TEST_ROUNDS=500` makes ten thousand of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn daemons_at_standbys_send_no_token_that_was_replaced() {
    let (oidc, [active, one, other]) = (provider().await, Bao::cluster().await);
    let url = Some(Postgres::fresh_database().await);
    let site = Site::new(&oidc, &active, r#"{ kind = "old_dies" }"#, url, CONNECTIONS).await;
    let at = async |bao: &Bao| {
        assert_eq!(bao.request("GET", "sys/health", serde_json::Value::Null).await.0, 429, "it is a standby");
        site.sidecar(&[("secret_store.vault.address", bao.url()), ("cache.secret_ttl", "0s")]).await
    };
    let sidecars = [at(&one).await, at(&other).await];
    let mut told: Vec<Vec<String>> = site.minted.iter().map(|minted| vec![minted.access_token.clone()]).collect();
    let mut late = 0;
    for round in 1..=rounds() {
        site.tokens_live(Duration::from_secs(40)).await;
        let asked = sidecars.iter().flat_map(|sidecar| (0..CONNECTIONS).map(move |nth| (sidecar, nth)));
        let newer = join_all(asked.map(|(sidecar, nth)| newer(sidecar, nth, &told[nth]))).await;
        let (at_one, at_other) = newer.split_at(CONNECTIONS);
        for (nth, ((first, waits), (second, more))) in at_one.iter().zip(at_other).enumerate() {
            assert_eq!(first, second, "round {round}: c{nth} is two at once");
            late += waits + more;
            told[nth].push(first.clone());
        }
        assert_eq!(site.gate.requests() as u64, round * CONNECTIONS as u64, "round {round}");
    }
    assert!(site.gate.sends().iter().all(|sends| *sends == 1), "a token was sent twice");
    for tokens in &told {
        assert!(oidc.is_alive(&tokens[tokens.len() - 1]).await, "a grant is lost");
    }
    eprintln!("{} refreshes; standbys told {late} times what was so before", site.gate.requests());
}

#[tokio::test]
async fn a_daemon_at_a_standby_that_is_behind_sends_no_token_that_was_replaced() {
    let (oidc, bao) = (provider().await, Bao::shared().await);
    let site = Site::new(&oidc, bao, r#"{ kind = "old_dies" }"#, Some(Postgres::fresh_database().await), 1).await;
    site.tokens_live(Duration::from_secs(40)).await;
    let id = site.connections().await.remove(0);
    let standby = Gate::before(bao.url(), format!("GET {}{id}", site.secrets())).await;
    standby.open();
    let behind = standby.url.to_string();
    let at_standby = [("secret_store.vault.address", behind.trim_end_matches('/')), ("grpc.call_deadline", "3s")];
    let (quick, late) = (site.sidecar(&[]).await, site.sidecar(&at_standby).await);
    let before = site.answer(&id).await;
    let newer = quick.token_in_time("c0").await;
    standby.let_be(Fate::Answer(before.leak()));
    assert!(late.token("c0").await.is_err(), "it was told of nothing that could be handed out");
    // Before each write of an intent it has looked, and found the token that was replaced.
    assert!(standby.requests() >= limits::REFRESH_TRIES, "{}", standby.requests());
    assert_eq!(site.gate.requests(), 1);
    standby.open();
    assert_eq!(late.token_in_time("c0").await, newer);
    assert_eq!(site.gate.requests(), 1);
    assert!(oidc.is_alive(&newer).await);
}

/// The token that comes after the `old` ones, and how often one of those was told yet.
async fn newer(sidecar: &Sidecar, nth: usize, old: &[String]) -> (String, usize) {
    let began = tokio::time::Instant::now();
    let mut late = 0;
    loop {
        let token = sidecar.token_in_time(&format!("c{nth}")).await;
        if !old.contains(&token) {
            return (token, late);
        }
        late += 1;
        assert!(began.elapsed() < Duration::from_secs(60), "c{nth} stays as it was");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
