//! D2: a daemon is killed at each step of a refresh, with real processes, PostgreSQL, OpenBao and `oidc-provider`. It is started
//! again, as by its supervisor, and another one is there all the time.

use futures_util::future::{join, join_all};
use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::rig::MACHINE;
use super::stage::{Came, NO_GRACE, PROFILES, Profile, ROW, SLACK, STEPS, Servers, Stage, Step};

/// How often the token may be sent, whether the grant is lost, and after how many seconds at most that is settled.
type Expected = (usize, bool, u64);

/// The lease of a daemon that died keeps the others off for so long.
const LEASE: u64 = 20;
/// And without a grace what may be spent is left alone for so long.
const HOLD_OFF: u64 = 60;

/// What reliability, 5.3 and 5.4, allow at each step: without grace, with grace, and where nothing rotates.
const EXPECTED: [(&str, [Expected; 3]); 10] = [
    ("before the lease", [(1, false, 0); 3]),
    ("after the lease", [(1, false, LEASE); 3]),
    ("before the intent", [(1, false, LEASE); 3]),
    // It looks as if it had been sent.
    ("after the intent", [(1, false, HOLD_OFF), (1, false, LEASE), (1, false, LEASE)]),
    // 5.4 (c), (b) and (a): once more where it is the last chance, within the grace, or does no harm.
    ("before the first byte", [(2, false, HOLD_OFF), (2, false, LEASE), (2, false, LEASE)]),
    // The provider took it, and what it gave for it is nowhere.
    ("after the last byte", [(2, true, HOLD_OFF), (2, false, LEASE), (2, false, LEASE)]),
    ("before the spool", [(2, true, HOLD_OFF), (2, false, LEASE), (2, false, LEASE)]),
    // What does not rotate is not spooled.
    ("before the commit", [(1, false, 0), (1, false, 0), (2, false, LEASE)]),
    ("after the commit", [(1, false, 0); 3]),
    ("before the row", [(1, false, 0); 3]),
];

/// What came of one kill.
struct Row {
    profile: &'static str,
    step: &'static str,
    sends: usize,
    came: Came,
    agree: bool,
    expected: Expected,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_killed_at_any_step_costs_no_grant_but_where_nothing_could_be_kept() {
    let _machine = MACHINE.read().await;
    let servers = Servers::start().await;
    let [no_grace, grace, none] = PROFILES;
    // The row comes when the provider has no part in it any more.
    let sets = [(0, no_grace, &STEPS[..]), (1, grace, &STEPS[..]), (2, none, &STEPS[..]), (0, NO_GRACE, &ROW[..])];
    let rows: Vec<Row> = join_all(sets.map(|set| kill(&servers, set))).await.into_iter().flatten().collect();
    let mut table =
        format!("{:10} {:22} {:>5}  {:10} {:>6}  {:>6}\n", "rotation", "killed", "sends", "came", "after", "at most");
    for Row { profile, step, sends, came, expected, .. } in &rows {
        let bound = expected.2 + 5;
        table += &format!("{profile:10} {step:22} {sends:>5}  {:10} {:>4} s  {bound:>5} s\n", came.last, came.after);
    }
    eprintln!("{table}");
    for Row { profile, step, sends, came, agree, expected: (sends_expected, is_lost, within) } in &rows {
        let what = format!("{profile}, {step}: {}\n{table}", came.last);
        assert_eq!(came.last, if *is_lost { "LOST" } else { "recovered" }, "{what}");
        assert_eq!(sends, sends_expected, "{what}");
        assert!(came.after <= within + 5 + SLACK, "{what}");
        assert_eq!(came.gaps, 0, "somebody was refused while the old token was good: {what}");
        assert!(*agree, "the daemons hand out different tokens: {what}");
    }
}

async fn kill(servers: &Servers, (nth_of_expected, profile, steps): (usize, Profile, &'static [Step])) -> Vec<Row> {
    let mut stage = Stage::set(servers, &profile, steps).await;
    stage.victim.daemon.kill();
    let began = Instant::now();
    stage.cut().await;
    let back = OnceCell::new();
    let starting = async {
        let daemon = stage.victim.home.start().await;
        back.set(daemon.client(&stage.site.token()).await).unwrap();
        daemon
    };
    let outcomes = join_all((0..steps.len()).map(|nth| stage.outcome(nth, began, &back)));
    let (_daemon, outcomes) = join(starting, outcomes).await;
    let mut rows = Vec::new();
    for (nth, (step, came)) in steps.iter().zip(outcomes).enumerate() {
        let agree = came.is_lost || stage.agree(nth, back.get().unwrap()).await;
        let (_, expected) = EXPECTED.iter().find(|(name, _)| *name == step.name).unwrap();
        let expected = expected[nth_of_expected];
        let (profile, step) = (profile.name, step.name);
        rows.push(Row { profile, step, sends: stage.sends(nth), came, agree, expected });
    }
    assert!(stage.sent_no_others(), "{}: {:?}", profile.name, stage.site.gate.sends());
    rows
}
