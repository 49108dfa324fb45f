//! D2: a daemon is killed at each step of a refresh, with real processes, OpenBao and `oidc-provider`. It is started again, as
//! by its supervisor, and another one is there all the time.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep, timeout};

use super::rig::{Site, provider, seconds};
use crate::support::gate::{Fate, Gate};
use crate::support::oidc::Oidc;
use crate::support::openbao::Bao;

/// A step, what becomes of the daemon's writes and of its request until it is killed, and whether the provider carried it out
/// without anybody having its answer.
const STEPS: [(&str, &[Fate], &[Fate], bool); 7] = [
    ("before the intent", &[Fate::HoldRequest], &[], false),
    ("after the intent", &[Fate::HoldAnswer], &[], false),
    ("before the first byte", &[Fate::Pass], &[Fate::HoldRequest], false),
    ("after the last byte", &[Fate::Pass], &[Fate::HoldSent], true),
    ("answer not read", &[Fate::Pass], &[Fate::HoldAnswer], true),
    ("before the commit", &[Fate::Pass, Fate::HoldRequest], &[], false),
    ("after the commit", &[Fate::Pass, Fate::HoldAnswer], &[], false),
];

/// What came of one kill.
struct Row {
    rotation: &'static str,
    step: &'static str,
    sends: usize,
    came: String,
    after: u64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_killed_at_any_step_costs_no_grant_but_where_nothing_could_be_kept() {
    let bao = Bao::shared().await;
    let (rotating, lasting) = (provider().await, provider().await);
    lasting.rotates(false).await;
    let mut rows = Vec::new();
    for (oidc, rotation, toml) in
        [(&rotating, "no grace", r#"{ kind = "old_dies" }"#), (&lasting, "none", r#"{ kind = "none" }"#)]
    {
        let kills = STEPS.map(|step| kill(oidc, bao, (rotation, toml), step));
        rows.extend(join_all(kills).await);
    }
    let mut table = format!("{:10} {:23} {:>5}  {:28} {:>5}\n", "rotation", "killed", "sends", "came of it", "after");
    for Row { rotation, step, sends, came, after } in &rows {
        table += &format!("{rotation:10} {step:23} {sends:>5}  {came:28} {after:>3} s\n");
    }
    eprintln!("{table}");
    for row in &rows {
        let is_lost = STEPS.iter().any(|(step, _, _, is_lost)| *step == row.step && *is_lost);
        let expected = if is_lost && row.rotation == "no grace" { "LOST" } else { "recovered" };
        assert!(row.came.starts_with(expected), "{} {}: {}\n{table}", row.rotation, row.step, row.came);
        assert!(row.sends <= 2, "{table}");
        let hold_off = if row.rotation == "no grace" { 60 } else { 15 };
        assert!(row.after <= hold_off + 5 + SLACK, "{} {}\n{table}", row.rotation, row.step);
    }
}

/// This machine starts fourteen pairs of daemons meanwhile.
const SLACK: u64 = 10;

async fn kill(
    oidc: &Oidc,
    bao: &Bao,
    (rotation, toml): (&'static str, &str),
    (step, writes, requests, _): (&'static str, &[Fate], &[Fate], bool),
) -> Row {
    let site = Site::new(oidc, bao, toml, None, 1).await;
    let bao_gate = Gate::before(bao.url(), site.writes()).await;
    bao_gate.open();
    let behind = bao_gate.url.to_string();
    let other = site.sidecar(&[]).await;
    let mut victim = site.sidecar(&[("secret_store.vault.address", behind.trim_end_matches('/'))]).await;
    site.tokens_live(Duration::from_secs(40)).await;
    bao_gate.next(writes.iter().copied());
    site.gate.next(requests.iter().copied());

    let asking = tokio::spawn({
        let client = victim.client.clone();
        async move { drop(crate::support::daemon::key_of(&mut client.clone(), "c0").await) }
    });
    let holding = if requests.is_empty() { &bao_gate } else { &site.gate };
    holding.until_held(1).await;
    if requests == [Fate::HoldSent] {
        crate::support::openbao::until("the token is spent", async || {
            rotation == "none" || !oidc.is_alive(&site.minted[0].refresh_token).await
        })
        .await;
    }
    victim.daemon.kill();
    let began = Instant::now();
    asking.abort();
    bao_gate.cut();
    site.gate.cut();
    victim.daemon = victim.home.start().await;
    victim.client = victim.daemon.client(&site.token()).await;

    let (mut came, mut last) = (None, None);
    let _ = timeout(Duration::from_secs(120), async {
        while came.is_none() {
            for sidecar in [&victim, &other] {
                came = came.take().or(match sidecar.token("c0").await {
                    Ok(token) if token != site.minted[0].access_token && oidc.is_alive(&token).await => {
                        Some("recovered".to_owned())
                    }
                    Err(refused) if refused.reason == "RECONNECT_REQUIRED" => {
                        Some("LOST, told to reconnect".to_owned())
                    }
                    other => {
                        last = Some(other);
                        None
                    }
                });
            }
            sleep(Duration::from_millis(250)).await;
        }
    })
    .await;
    let after = seconds(began);
    let sends = site.gate.sends().into_iter().max().unwrap_or(0);
    Row { rotation, step, sends, came: came.unwrap_or_else(|| format!("nothing: {last:?}")), after }
}
