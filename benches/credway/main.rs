//! What credway must reach and what it reaches, as ratios to what stands beside it on the same machine in the same minutes.
//!
//! `cargo bench --bench credway` measures all, `cargo bench --bench credway -- G5` one goal. Without `--bench` (so under
//! `cargo test --benches`) each part runs once and very short: that shows that it works, its figures mean nothing.
//! A missed goal is printed and fails nothing.
//!
//! OpenBao and PostgreSQL take part where the tests find them; `CREDWAY_BENCH_BAO` names another `bao` binary. A server that
//! runs already cannot: both sides must have one and the same CPU. An AWS Secrets Manager Agent can, as its process is named
//! too: `CREDWAY_BENCH_AGENT`, `CREDWAY_BENCH_AGENT_TOKEN`, `CREDWAY_BENCH_AGENT_PID`. `CREDWAY_BENCH_SCALE=1000000` adds that many
//! instances to G8; filling them takes long. The provider whose tokens are refreshed in G9 is this binary too, started again.

mod agent;
mod binary;
mod daemon;
mod echo;
mod http1;
mod inside;
mod kv;
mod lists;
mod load;
mod memory;
mod peers;
mod process;
mod provider;
mod refreshing;
mod report;
mod rest;
mod rounds;
mod scale;
mod site;
mod start;
mod stats;
mod strace;
mod wire;

#[path = "../../tests/it/support/postgres.rs"]
#[expect(dead_code, reason = "tests need more of it")]
#[expect(clippy::unwrap_used, reason = "it was written for tests")]
mod postgres;

use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;

use echo::Kind;
use inside::Amount;
use kv::Bao;
use load::Calls;
use process::{Pinned, Side};
use refreshing::{Beside, Servers};
use report::{Report, Target};
use rest::Rest;
use rounds::Pace;
use site::Site;
use wire::Wire;

/// Counts for G5, per thread; and bytes for G6, where that is switched on. What it costs the echoes that run in this binary is
/// below half a percent.
#[global_allocator]
static ALLOCATOR: alloc_counter::AllocCounter<live_bytes::LiveBytes<mimalloc::MiMalloc>> =
    alloc_counter::AllocCounter(live_bytes::LiveBytes(mimalloc::MiMalloc));

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
    memory: memory::Amount,
    /// Instances, the fewest first. `CREDWAY_BENCH_SCALE` adds another number: filling a million takes long.
    scales: &'static [usize],
    scaled: Amount,
    /// Times that each page is asked for, fewer than a token may ask at once.
    listed: usize,
    beside: Beside,
    rest: Rest,
}

const MEASURE: Plan = Plan {
    instances: 10_000,
    pace: Pace { window: Duration::from_secs(1), rounds: 9 },
    bursts: 500,
    embedded: Amount { rounds: 9, resolves: 400 },
    served: Amount { rounds: 9, resolves: 100 },
    warm: Amount { rounds: 9, resolves: 500 },
    starts: 15,
    memory: memory::Amount { held: 100_000, asked: 1_000_000 },
    scales: &[10, 1000, 100_000],
    scaled: Amount { rounds: 9, resolves: 100 },
    listed: 20,
    beside: Beside { warm: 1000, refreshes_per_second: 100, cold_per_second: 1000 },
    rest: Rest { settle: Duration::from_secs(200), window: Duration::from_secs(30) },
};

const TRY: Plan = Plan {
    instances: 100,
    pace: Pace { window: Duration::from_millis(20), rounds: 1 },
    bursts: 5,
    embedded: Amount { rounds: 1, resolves: 10 },
    served: Amount { rounds: 1, resolves: 10 },
    warm: Amount { rounds: 1, resolves: 20 },
    starts: 1,
    memory: memory::Amount { held: 200, asked: 2000 },
    scales: &[5, 50],
    scaled: Amount { rounds: 1, resolves: 5 },
    listed: 2,
    beside: Beside { warm: 20, refreshes_per_second: 100, cold_per_second: 1000 },
    rest: Rest { settle: Duration::ZERO, window: Duration::from_secs(1) },
};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(counted) = memory::role(&arguments) {
        return counted;
    }
    if let Some(served) = echo::role(&arguments).or_else(|| provider::role(&arguments)) {
        return served;
    }
    let _ = rustls::crypto::ring::default_provider().install_default();
    let is_for_real = arguments.iter().any(|a| a == "--bench") && !arguments.iter().any(|a| a == "--test");
    let filter = arguments.iter().find(|argument| !argument.starts_with("--")).map_or("", String::as_str);
    let mut plan = if is_for_real { MEASURE } else { TRY };
    // So many that a profiler sees G5 and not what comes before it.
    if let Ok(rounds) = std::env::var("CREDWAY_BENCH_WARM_ROUNDS") {
        plan.warm.rounds = rounds.parse()?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(run(&plan, filter))?;
    println!("{}", machine());
    println!("{report}");
    Ok(())
}

/// Measures every goal, or the one that `filter` names: `G1`, or a part of it such as `G1b`.
async fn run(plan: &Plan, filter: &str) -> Result<Report> {
    let dir = tempfile::Builder::new().prefix("credway-bench-").tempdir()?;
    let named = filter.trim_end_matches(|last: char| last.is_ascii_lowercase());
    let is_asked = |goal: &str| named.is_empty() || goal == named;
    let mut report = Report::default();
    if ["G1", "G2", "G3", "G4", "G5", "G6", "G7"].into_iter().any(is_asked) {
        embedded(plan, &dir, is_asked, &mut report).await?;
    }
    if is_asked("G8") {
        let sites = scaled(plan, dir.path(), None).await?;
        scale::measure(&sites, plan.scaled, plan.pace, &mut report).await?;
        lists::measure(&sites, plan.listed, &mut report).await?;
    }
    if is_asked("G9") {
        refreshing::measure(plan.beside, plan.pace, dir.path(), None, &mut report).await?;
    }
    if ["G4", "G7", "G8", "G9", "G10"].into_iter().any(is_asked) {
        on_servers(plan, &dir, is_asked, &mut report).await?;
    }
    if is_asked("G11") {
        binary::measure(&mut report)?;
    }
    Ok(report)
}

/// What is measured of one embedded site.
async fn embedded(plan: &Plan, dir: &TempDir, is_asked: impl Fn(&str) -> bool, report: &mut Report) -> Result<()> {
    let site = Site::embedded(dir.path().join("embedded"), plan.instances).await?;
    if is_asked("G5") {
        inside::warm(&site, plan.warm, report).await?;
    }
    if is_asked("G4") {
        inside::cold(&site, plan.embedded, report).await?;
    }
    if is_asked("G7") {
        start::measure(&site, plan.starts, Target::AtMost(50.0), report).await?;
    }
    if is_asked("G6") {
        memory::idle(&site, report).await?;
        memory::measure(plan.memory, dir.path(), report)?;
    }
    if is_asked("G1") || is_asked("G2") || is_asked("G3") {
        warm_over_the_wire(plan, &site, dir, is_asked, report).await?;
    }
    Ok(())
}

/// G1, G2 and G3: one daemon and its peers, all alive for the whole of it.
async fn warm_over_the_wire(
    plan: &Plan,
    site: &Site,
    dir: &TempDir,
    is_asked: impl Fn(&str) -> bool,
    report: &mut Report,
) -> Result<()> {
    // Started on the one CPU that they are held to: the daemon has a thread for each core it sees, and two that share a core
    // wait for each other's turns (up to 8 ms, by `perf sched`), which the echo's one thread never does.
    let daemon = on_one_cpu(|| daemon::start(site))?;
    let (answer, calls) = calls(site, &daemon).await?;
    if is_asked("G1") {
        let echo_default = on_one_cpu(|| echo::start(Kind::Default, &answer, dir.path()))?;
        let echo_tuned = on_one_cpu(|| echo::start(Kind::Tuned, &answer, dir.path()))?;
        let wire =
            Wire { daemon: &daemon, echo_default: &echo_default, echo_tuned: &echo_tuned, calls: Rc::clone(&calls) };
        wire.compare(plan.pace, report).await?;
        wire.count_writes(plan.bursts, report).await?;
    }
    if is_asked("G2") {
        agent::compare(&daemon, site, &calls, plan.pace, report).await?;
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
    // Awaited beside this runtime: the daemon drains until the connections to it say that they are closed.
    tokio::task::spawn_blocking(move || daemon.server.stop()).await?
}

/// Starts a server that sees the servers' CPU alone.
fn on_one_cpu(start: impl FnOnce() -> Result<Side>) -> Result<Side> {
    let _pinned = Pinned::to(wire::SERVER_CPU)?;
    start()
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

/// G4, G7, G8, G9 and G10 on PostgreSQL and OpenBao.
async fn on_servers(plan: &Plan, dir: &TempDir, is_asked: impl Fn(&str) -> bool, report: &mut Report) -> Result<()> {
    let Some(binary) = kv::binary().filter(|_| peers::has_postgres()) else {
        let reason = "it takes both: `tests/run install`, or name them in CREDWAY_TEST_PG_BIN and CREDWAY_BENCH_BAO";
        for (goal, what) in [
            ("G4", "a cold resolve"),
            ("G7", "exec to first resolve"),
            ("G8", "a resolve among many instances"),
            ("G9", "a warm resolve beside refreshes and cold ones"),
            ("G10", "a daemon at rest"),
        ] {
            if is_asked(goal) {
                report.skipped(goal, format!("{what}, PostgreSQL + OpenBao"), reason);
            }
        }
        return Ok(());
    };
    let bao = Bao::start(&binary, dir.path()).await?;
    let postgres = postgres::Postgres::own().await;
    if is_asked("G4") || is_asked("G7") {
        let stores = peers::stores(&bao.address, &postgres.database().await);
        let site = Site::served(dir.path().join("served"), &stores, inside::cold_instances(plan.served)).await?;
        if is_asked("G4") {
            inside::cold(&site, plan.served, report).await?;
        }
        if is_asked("G7") {
            start::measure(&site, plan.starts, Target::AtMost(300.0), report).await?;
        }
    }
    if is_asked("G8") {
        let sites = scaled(plan, dir.path(), Some((&bao, &postgres))).await?;
        scale::measure(&sites, plan.scaled, plan.pace, report).await?;
        lists::measure(&sites, plan.listed, report).await?;
    }
    if is_asked("G9") {
        let servers = Some(Servers { bao: &bao, postgres: &postgres });
        refreshing::measure(plan.beside, plan.pace, dir.path(), servers, report).await?;
    }
    if is_asked("G10") {
        rest::measure(&bao, &postgres, dir.path().join("rest"), plan.rest, report).await?;
    }
    Ok(())
}

/// A site for each scale, on SQLite or on these servers.
async fn scaled(plan: &Plan, dir: &Path, servers: Option<(&Bao, &postgres::Postgres)>) -> Result<Vec<Site>> {
    let more = std::env::var("CREDWAY_BENCH_SCALE").ok().map(|scale| scale.parse()).transpose();
    let more: Option<usize> = more.context("CREDWAY_BENCH_SCALE is a number of instances")?;
    let mut sites = Vec::new();
    for scale in plan.scales.iter().copied().chain(more) {
        let stores = match servers {
            Some((bao, postgres)) => Some(peers::stores(&bao.address, &postgres.database().await)),
            None => None,
        };
        let kind = if stores.is_some() { "served" } else { "embedded" };
        let dir = dir.join(format!("{kind}-{scale}"));
        sites.push(Site::sampled(dir, stores.as_deref(), scale, scale::ASKED).await?);
    }
    Ok(sites)
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
