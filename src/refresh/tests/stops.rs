//! D3, in one process and by a clock that is moved by hand: a daemon is stopped at each boundary of the steps for 5, 30 and
//! 120 s, and goes on. The same with real processes is in tests/it/oauth.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::crashes::STEPS;
use super::rig::{LIFE, Rig, attempt, until};

/// What the token has left: after 70 s it is handed out to nobody any more, so that a probe falls into the longest stop.
const LEFT: Duration = Duration::from_secs(130);

#[tokio::test]
async fn a_daemon_stopped_at_any_step_ends_what_it_began_or_finds_it_done() {
    let mut table = String::new();
    for template in ["none", "grace", "dies", "dies-with-access"] {
        for (nth, step) in STEPS.iter().enumerate() {
            for is_carried_out in [false, true] {
                for span in [5, 30, 120] {
                    let row = stop(template, nth + 1, is_carried_out, span).await;
                    let when = if is_carried_out { "after" } else { "before" };
                    table += &format!("{template:17} {when:6} {step:8} {span:>3} s  {row}\n");
                }
            }
        }
    }
    insta::assert_snapshot!(table);
}

/// Stops one daemon for `span` seconds, and lets another one go on. Answers how often a token was sent at most, how it ended, after
/// how many seconds, and whether the provider ended the grant after that.
async fn stop(template: &str, step: usize, is_carried_out: bool, span: u64) -> String {
    let rig = Rig::new().await;
    let address = rig.connect(template).await;
    let (victim, other) = (rig.daemon("victim").await, rig.daemon("other").await);
    rig.clock.advance(LIFE - LEFT);
    rig.secrets.killer.kill_at(step, is_carried_out);
    let stopped = tokio::spawn({
        let (victim, address) = (victim.clone(), address.clone());
        async move { attempt(&victim, &address).await }
    });
    until("it is stopped", async || rig.secrets.killer.is_done.load(Ordering::SeqCst)).await;
    rig.secrets.killer.spare();

    let (mut stopped, mut ended) = (Some(stopped), None);
    for waited in (0..2 * LIFE.as_secs()).step_by(5) {
        if waited == span {
            rig.secrets.killer.go_on();
            stopped.take().unwrap().await.unwrap();
        }
        attempt(&other, &address).await;
        if waited >= span {
            attempt(&victim, &address).await;
        }
        let status = rig.status(&address).await;
        let is_back = rig.state(&address).await.generation >= 2 && rig.row(&address).await.generation >= 2;
        if ended.is_none() && (is_back || status.starts_with("reconnect")) {
            let how = if is_back { "recovered".to_owned() } else { format!("LOST ({status})") };
            ended = Some((waited, how));
        }
        if let (Some((after, how)), true) = (&ended, waited >= span) {
            let later = if how == "recovered" && rig.idp.is_dead(&address) { ", revoked later" } else { "" };
            return format!("sends {} {how} after {after} s{later}", rig.idp.most_sends());
        }
        rig.clock.advance(Duration::from_secs(5));
    }
    panic!("{template} at {step}: nothing came of it");
}
