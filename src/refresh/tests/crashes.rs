//! D2, in one process: a daemon is killed at each boundary of the steps, for each way in which providers rotate; another one
//! finds what it left. The same with real processes is in tests/it/oauth.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::rig::{DUE, LIFE, Rig, attempt, until};
use crate::limits;
use crate::refresh::Refresher;

/// The calls of an attempt, in their order.
pub(super) const STEPS: [&str; 5] = ["read", "connect", "intent", "request", "commit"];

#[tokio::test]
async fn a_daemon_killed_at_any_step_costs_no_grant_but_where_nothing_could_be_kept() {
    let mut table = String::new();
    for template in ["none", "stays", "grace", "dies", "dies-with-access"] {
        for (nth, step) in STEPS.iter().enumerate() {
            for is_carried_out in [false, true] {
                let row = kill(template, nth + 1, is_carried_out).await;
                let when = if is_carried_out { "after" } else { "before" };
                table += &format!("{template:17} {when:6} {step:8} {row}\n");
            }
        }
    }
    insta::assert_snapshot!(table);
}

/// Kills one daemon, and lets another one and its own successor go on. Answers how often a token was sent at most, how it ended,
/// and after how many seconds.
async fn kill(template: &str, step: usize, is_carried_out: bool) -> String {
    let rig = Rig::new().await;
    let address = rig.connect(template).await;
    let other = rig.daemon("other").await;
    rig.clock.advance(if template == "dies-with-access" { LIFE - limits::REFRESH_RESERVE } else { DUE });
    // Whatever it does ends with its runtime.
    let process = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    rig.secrets.killer.kill_at(step, is_carried_out);
    let ((spool, means), address_of_victim) = (rig.means("victim"), address.clone());
    process.spawn(async move {
        let victim = Refresher::start(&spool, means).await.unwrap();
        attempt(&victim, &address_of_victim).await
    });
    until(&format!("{template}, {step}, {is_carried_out}: it is killed"), async || {
        rig.secrets.killer.is_done.load(Ordering::SeqCst)
    })
    .await;
    process.shutdown_background();
    rig.secrets.killer.spare();

    let mut waited = 0;
    loop {
        attempt(&other, &address).await;
        let status = rig.status(&address).await;
        let is_back = rig.state(&address).await.generation == 2 && rig.row(&address).await.generation == 2;
        if is_back || status.starts_with("reconnect") {
            let ended = if is_back { "recovered".to_owned() } else { format!("LOST ({status})") };
            return format!("sends {} {ended} after {waited} s", rig.idp.most_sends());
        }
        assert!(waited < 2 * LIFE.as_secs(), "{template} at {step}: nothing came of it");
        rig.clock.advance(Duration::from_secs(1));
        waited += 1;
        if waited == 5 {
            // Its successor, with the same disk.
            let successor = rig.daemon("victim").await;
            until("it has looked through its spool", async || successor.spooled() == 0).await;
        }
    }
}
