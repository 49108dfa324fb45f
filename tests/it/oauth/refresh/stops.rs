//! D3: a daemon is stopped at each step of a refresh, as its host may be, and goes on after 5 or 30 s; with
//! `CREDWAY_TEST_STOP=120` after that too, which is in the suite by the clock of a test (`refresh::tests::stops`).

use std::time::Duration;

use futures_util::future::{join, join_all};
use rustix::process::Signal;
use tokio::sync::OnceCell;
use tokio::time::{Instant, sleep};

use super::rig::MACHINE;
use super::stage::{Came, NO_GRACE, PROFILES, Profile, ROW, SLACK, STEPS, Servers, Stage, Step};

/// The lease of a daemon that is stopped keeps the others off for so long.
const LEASE: u64 = 20;
/// And without a grace what may be spent is left alone for so long.
const HOLD_OFF: u64 = 60;

/// What came of one stop.
struct Row {
    profile: &'static str,
    stop: u64,
    step: &'static str,
    sends: usize,
    came: Came,
    agree: bool,
}

/// What is to come of it.
struct Expected {
    sends: usize,
    is_lost: bool,
    within: u64,
    /// The provider got the token from both in the end, and took that for a theft.
    is_revoked_later: bool,
}

/// After how long a stopped daemon's refresh is taken over, as it may have been carried out.
fn taken_over(profile: &str) -> u64 {
    if profile == NO_GRACE.name { HOLD_OFF } else { LEASE }
}

/// For how long a token works on that was spent; `None` for one that is never spent.
fn works_for(profile: &str) -> Option<u64> {
    match profile {
        "none" => None,
        "grace" => Some(30),
        _ => Some(0),
    }
}

/// What reliability, 5.3 and 5.4, allow. Whoever is back before anybody took over ends what it began.
fn expected(profile: &str, step: &str, stop: u64) -> Expected {
    let once = |within: u64| Expected { sends: 1, is_lost: false, within, is_revoked_later: false };
    let is_over = stop > taken_over(profile);
    match step {
        "after the commit" | "before the row" | "before the lease" => once(0),
        // Nothing is in doubt.
        "after the lease" | "before the intent" => once(stop.min(LEASE)),
        _ if !is_over => once(stop),
        "after the intent" => once(taken_over(profile)),
        _ => Expected {
            sends: 2,
            // 5.6: the one chance that was left is the one that the provider punishes.
            is_lost: profile == NO_GRACE.name && step != "before the first byte",
            within: taken_over(profile),
            // Z of 5.3: the request that was stopped on its way comes in after the one that took its place, and too late for a grace.
            is_revoked_later: step == "before the first byte"
                && works_for(profile).is_some_and(|grace| stop > taken_over(profile) + grace),
        },
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_stopped_at_any_step_ends_what_it_began_or_finds_it_done() {
    let _machine = MACHINE.read().await;
    let servers = Servers::start().await;
    let more = std::env::var("CREDWAY_TEST_STOP").ok().map(|seconds| seconds.parse().unwrap());
    let mut rows = Vec::new();
    for spans in [vec![5, 30], more.into_iter().collect()] {
        let sets = spans.into_iter().flat_map(|span| {
            let [no_grace, grace, none] = PROFILES;
            // The row comes when the provider has no part in it any more.
            let sets = [(no_grace, &STEPS[..]), (grace, &STEPS[..]), (none, &STEPS[..]), (NO_GRACE, &ROW[..])];
            sets.map(|set| stop(&servers, set, span))
        });
        rows.extend(join_all(sets).await.into_iter().flatten());
    }
    let mut table = format!(
        "{:10} {:>5} {:22} {:>5}  {:10} {:>6}  {:>6}\n",
        "rotation", "for", "stopped", "sends", "came", "after", "at most"
    );
    for Row { profile, stop, step, sends, came, .. } in &rows {
        let bound = expected(profile, step, *stop).within + 5;
        table += &format!(
            "{profile:10} {stop:>3} s {step:22} {sends:>5}  {:10} {:>4} s  {bound:>5} s\n",
            came.last, came.after
        );
    }
    eprintln!("{table}");
    for Row { profile, stop, step, sends, came, agree } in &rows {
        let expected = expected(profile, step, *stop);
        let what = format!("{profile}, {step} for {stop} s: {}\n{table}", came.last);
        assert_eq!(came.last, if expected.is_lost { "LOST" } else { "recovered" }, "{what}");
        assert_eq!(*sends, expected.sends, "{what}");
        assert!(came.after <= expected.within + 5 + SLACK, "{what}");
        assert_eq!(came.gaps, 0, "somebody was refused while the old token was good: {what}");
        assert_eq!(*agree, !expected.is_revoked_later, "whether both daemons hand out one token that works: {what}");
    }
}

async fn stop(servers: &Servers, (profile, steps): (Profile, &'static [Step]), span: u64) -> Vec<Row> {
    let stage = Stage::set(servers, &profile, steps).await;
    stage.victim.daemon.pause();
    let began = Instant::now();
    stage.let_answers_come();
    let back = OnceCell::new();
    let going_on = async {
        sleep(Duration::from_secs(span)).await;
        stage.let_requests_go().await;
        stage.victim.daemon.signal(Signal::CONT);
        back.set(stage.victim.client.clone()).unwrap();
    };
    let outcomes = join_all((0..steps.len()).map(|nth| stage.outcome(nth, began, &back)));
    let ((), outcomes) = join(going_on, outcomes).await;
    let mut rows = Vec::new();
    for (nth, (step, came)) in steps.iter().zip(outcomes).enumerate() {
        let agree = came.is_lost || stage.agree(nth, back.get().unwrap()).await;
        let (profile, step) = (profile.name, step.name);
        rows.push(Row { profile, stop: span, step, sends: stage.sends(nth), came, agree });
    }
    assert!(stage.sent_no_others(), "{}: {:?}", profile.name, stage.site.gate.sends());
    rows
}
