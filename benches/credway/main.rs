//! What credway must reach and what it reaches, as ratios to what stands beside it on the same machine in the same minutes.
//!
//! `cargo bench --bench credway` measures all, `cargo bench --bench credway -- G5` one goal. Without `--bench` (so under
//! `cargo test --benches`) each part runs once and very short: that shows that it works, its figures mean nothing.
//! A missed goal is printed and fails nothing.
//!
//! OpenBao and PostgreSQL take part where the tests find them; `CREDWAY_BENCH_BAO` names another `bao` binary. A server that
//! runs already cannot: both sides must have one and the same CPU.

mod daemon;
mod echo;
mod inside;
mod kv;
mod load;
mod peers;
mod process;
mod report;
mod rounds;
mod site;
mod start;
mod stats;
mod strace;
mod wire;

#[path = "../../tests/it/support/postgres.rs"]
#[expect(dead_code, reason = "tests need more of it")]
#[expect(clippy::unwrap_used, reason = "it was written for tests")]
mod postgres;

use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;

use echo::Kind;
use inside::Amount;
use kv::Bao;
use load::Calls;
use process::Side;
use report::{Report, Target};
use rounds::Pace;
use site::Site;
use wire::Wire;

/// Counts for G5, per thread. What it costs the echoes that run in this binary is below half a percent.
#[global_allocator]
static ALLOCATOR: alloc_counter::AllocCounter<mimalloc::MiMalloc> = alloc_counter::AllocCounter(mimalloc::MiMalloc);

/// How thorough a run is.
struct Plan {
    /// Of the embedded site, over which the warm resolves rotate.
    instances: usize,
    pace: Pace,
    bursts: usize,
    embedded: Amount,
    served: Amount,
    warm: Amount,
    starts: usize,
}

const MEASURE: Plan = Plan {
    instances: 10_000,
    pace: Pace { window: Duration::from_secs(1), rounds: 9 },
    bursts: 500,
    embedded: Amount { rounds: 9, resolves: 400 },
    served: Amount { rounds: 9, resolves: 100 },
    warm: Amount { rounds: 9, resolves: 500 },
    starts: 15,
};

const TRY: Plan = Plan {
    instances: 100,
    pace: Pace { window: Duration::from_millis(20), rounds: 1 },
    bursts: 5,
    embedded: Amount { rounds: 1, resolves: 10 },
    served: Amount { rounds: 1, resolves: 10 },
    warm: Amount { rounds: 1, resolves: 20 },
    starts: 1,
};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(served) = echo::role(&arguments) {
        return served;
    }
    let _ = rustls::crypto::ring::default_provider().install_default();
    let is_for_real = arguments.iter().any(|a| a == "--bench") && !arguments.iter().any(|a| a == "--test");
    let filter = arguments.iter().find(|argument| !argument.starts_with("--")).map_or("", String::as_str);
    let plan = if is_for_real { MEASURE } else { TRY };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(run(&plan, filter))?;
    println!("{}", machine());
    println!("{report}");
    Ok(())
}

/// Measures every goal whose name begins with `filter`.
async fn run(plan: &Plan, filter: &str) -> Result<Report> {
    let dir = tempfile::Builder::new().prefix("credway-bench-").tempdir()?;
    let is_asked = |goal: &str| goal.starts_with(filter) || filter.starts_with(goal);
    let mut report = Report::default();
    let embedded = Site::embedded(dir.path().join("embedded"), plan.instances).await?;
    if is_asked("G5") {
        inside::warm(&embedded, plan.warm, &mut report).await?;
    }
    if is_asked("G4") {
        inside::cold(&embedded, plan.embedded, &mut report).await?;
    }
    if is_asked("G7") {
        start::measure(&embedded, plan.starts, Target::AtMost(50.0), &mut report).await?;
    }
    if is_asked("G1") || is_asked("G3") {
        warm_over_the_wire(plan, &embedded, &dir, is_asked, &mut report).await?;
    }
    if is_asked("G4") || is_asked("G7") {
        on_servers(plan, &dir, is_asked, &mut report).await?;
    }
    Ok(report)
}

/// G1 and G3: one daemon and its peers, all alive for the whole of it.
async fn warm_over_the_wire(
    plan: &Plan,
    site: &Site,
    dir: &TempDir,
    is_asked: impl Fn(&str) -> bool,
    report: &mut Report,
) -> Result<()> {
    let daemon = daemon::start(site)?;
    let (answer, calls) = calls(site, &daemon).await?;
    if is_asked("G1") {
        let echo_default = echo::start(Kind::Default, &answer, dir.path())?;
        let echo_tuned = echo::start(Kind::Tuned, &answer, dir.path())?;
        let wire =
            Wire { daemon: &daemon, echo_default: &echo_default, echo_tuned: &echo_tuned, calls: Rc::clone(&calls) };
        wire.compare(plan.pace, report).await?;
        wire.count_writes(plan.bursts, report).await?;
    }
    if is_asked("G3") {
        match kv::binary() {
            Some(binary) => {
                let bao = Bao::start(&binary, dir.path()).await?;
                peers::compare(&daemon, &calls, &bao, plan.pace, report).await?;
            }
            None => {
                let reason = "no OpenBao here: `tests/run install`, or name it in CREDWAY_BENCH_BAO";
                report.skipped("G3", "requests / OpenBao KV v2 read", reason);
            }
        }
        peers::skip_others(report);
    }
    daemon.server.stop()
}

/// A warm answer, and calls for every instance, whose answers are as long as it. Times in them may be a little shorter.
async fn calls(site: &Site, daemon: &Side) -> Result<(bytes::Bytes, Rc<Calls>)> {
    const TIMES_BYTES: usize = 8;
    let requests: Vec<Vec<u8>> = site.steps.iter().map(daemon::request).collect();
    let first = requests.first().context("a site without instances")?;
    let token = site.token.expose();
    load::answer_of(&daemon.tcp, first, token).await?;
    let answer = load::answer_of(&daemon.tcp, first, token).await?;
    eprintln!("a warm answer is {} bytes long", answer.len());
    let framed = answer.len() + load::MESSAGE_HEAD_BYTES;
    let calls = Calls::new(&requests, token, framed - TIMES_BYTES..=framed + TIMES_BYTES)?;
    Ok((answer, Rc::new(calls)))
}

/// G4 and G7 on PostgreSQL and OpenBao.
async fn on_servers(plan: &Plan, dir: &TempDir, is_asked: impl Fn(&str) -> bool, report: &mut Report) -> Result<()> {
    let Some(binary) = kv::binary().filter(|_| peers::has_postgres()) else {
        let reason = "it takes both: `tests/run install`, or name them in CREDWAY_TEST_PG_BIN and CREDWAY_BENCH_BAO";
        report.skipped("G4", "a cold resolve, PostgreSQL + OpenBao", reason);
        report.skipped("G7", "exec to first resolve, PostgreSQL + OpenBao", reason);
        return Ok(());
    };
    let bao = Bao::start(&binary, dir.path()).await?;
    let postgres = postgres::Postgres::own().await;
    let stores = peers::stores(&bao, &postgres.database().await);
    let site = Site::served(dir.path().join("served"), &stores, inside::cold_instances(plan.served)).await?;
    if is_asked("G4") {
        inside::cold(&site, plan.served, report).await?;
    }
    if is_asked("G7") {
        start::measure(&site, plan.starts, Target::AtMost(300.0), report).await?;
    }
    Ok(())
}

/// What it ran on.
fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = read("/proc/sys/kernel/osrelease");
    let profile = if cfg!(debug_assertions) { "debug build: these figures mean nothing" } else { "release build" };
    format!("{cpus} x {}, Linux {}, {profile}", model.trim_start_matches([' ', '\t', ':']), kernel.trim())
}
