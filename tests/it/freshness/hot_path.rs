//! What callers wait for, and what they never do: everything behind the daemon is stopped, or there is too much to remember.

use std::fmt::Write as _;
use std::time::Duration;

use credway::clock::{Clock, ManualClock};
use credway::grpc::proto::{Freshness, ResolveCredentialsRequest};
use credway::limits;
use credway::model::caller::Scope;
use futures_util::future::join_all;
use tonic::Code;

use crate::support::answers::{asking, metric, value};
use crate::support::cast::{ACME, World, in_openbao, manual_clock};
use crate::support::openbao::{Bao, until};
use crate::support::postgres::Postgres;
use crate::support::process::issuing;
use crate::support::raw::RawCall;
use crate::support::sidecar::{Client, Sidecar};

/// A daemon on servers of its own.
struct Stage {
    postgres: Postgres,
    bao: Bao,
    world: World,
    clock: ManualClock,
    sidecar: Sidecar,
}

impl Stage {
    async fn start() -> Self {
        let (postgres, bao) = tokio::join!(Postgres::own(), Bao::own());
        let mut settings = in_openbao(&bao).await;
        settings.push(("database.url", postgres.database().await));
        let (world, clock) = (World::of(ACME, &settings).await, manual_clock());
        let sidecar = world.sidecar(Clock::Manual(clock.clone())).await;
        sidecar.caught_up().await;
        Self { postgres, bao, world, clock, sidecar }
    }

    async fn client(&self) -> Client {
        self.sidecar.client(&self.world.token(&[Scope::McpExecute]).await).await
    }

    fn stop_servers(&self) {
        self.postgres.pause();
        self.bao.pause();
    }

    fn resume_servers(&self) {
        self.postgres.resume();
        self.bao.resume();
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.resume_servers();
    }
}

/// The time within which 99 of 100 of so many calls are answered, and the longest.
async fn times(client: &mut Client, calls: usize) -> (Duration, Duration) {
    let mut times = Vec::with_capacity(calls);
    for _ in 0..calls {
        let before = tokio::time::Instant::now();
        client.resolve_credentials(asking("pay")).await.unwrap();
        times.push(before.elapsed());
    }
    times.sort();
    (times[calls * 99 / 100], times[calls - 1])
}

#[tokio::test]
async fn a6_warm_calls_never_wait_for_servers_that_are_stopped() {
    /// Half of the patience for a slow store, which is the least that anybody waits who waits at all.
    const NO_WAIT: Duration = Duration::from_millis(250);
    let stage = Stage::start().await;
    let mut client = stage.client().await;
    times(&mut client, 100).await;
    let (p99_before, _) = times(&mut client, 1000).await;
    stage.stop_servers();
    // Every secret is in its soft window now: each answer is good for a second, and then asks the cache behind it.
    stage.clock.advance(Duration::from_secs(25));
    let (mut p99, mut longest) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..4 {
        let during = times(&mut client, 500).await;
        (p99, longest) = (p99.max(during.0), longest.max(during.1));
        stage.clock.advance(limits::SECRET_RECHECK);
    }
    println!("p99 {p99_before:?} before, {p99:?} with both servers stopped; the longest call took {longest:?}");
    assert!(longest < NO_WAIT, "a call took {longest:?}");
}

#[tokio::test]
async fn a6_a_verified_caller_who_was_away_is_let_in_while_the_database_is_stopped() {
    let stage = Stage::start().await;
    let mut client = stage.client().await;
    client.resolve_credentials(asking("pay")).await.unwrap();
    let known = metric(&stage.sidecar, "credway_token_cache_hits_total").await;
    // Warm answers ask nobody who it is; longer than a verdict is trusted without being told of changes.
    let away = tokio::time::Instant::now();
    until("the caller was away for a while", async || away.elapsed() > limits::TOKEN_CACHE_TTL.mul_f32(1.5)).await;
    stage.stop_servers();
    stage.clock.advance(Duration::from_secs(25));
    client.resolve_credentials(asking("pay")).await.unwrap();
    assert_eq!(metric(&stage.sidecar, "credway_token_cache_hits_total").await, known + 1.0);
}

/// Whether the daemon asked nobody who the caller is, as it does of those whose answer it holds.
async fn is_from_memory(sidecar: &Sidecar, client: &mut Client, asked: ResolveCredentialsRequest) -> bool {
    let asked_for = async || {
        let counted = ["credway_token_cache_hits_total", "credway_token_cache_misses_total"];
        metric(sidecar, counted[0]).await + metric(sidecar, counted[1]).await
    };
    let before = asked_for().await;
    client.resolve_credentials(asked).await.unwrap();
    asked_for().await == before
}

#[tokio::test]
async fn an_answer_stays_in_memory_while_what_it_was_not_made_of_changes() {
    let world = World::sqlite(ACME).await;
    let sidecar = world.sidecar(Clock::System).await;
    let token = world.token(&[Scope::McpExecute]).await;
    let mut client = sidecar.client(&token).await;
    let rehearsed = || ResolveCredentialsRequest { workflow_id: "rehearsal".into(), ..asking("pay") };
    for asked in [asking("pay"), rehearsed()] {
        until("it is held", async || is_from_memory(&sidecar, &mut client, asked.clone()).await).await;
    }
    world.rotate("sandbox", &[("api_key", "canary-rotated")]).await;
    world.token(&[Scope::McpExecute]).await;
    sidecar.caught_up().await;
    for _ in 0..2 {
        assert!(is_from_memory(&sidecar, &mut client, asking("pay")).await, "it does not use the sandbox");
    }
    let answer = client.resolve_credentials(rehearsed()).await.unwrap().into_inner();
    assert_eq!(value(&answer, "API_KEY"), "\"canary-rotated\"");
    // What was found unchanged so often still changes.
    world.rotate("production", &[("api_key", "canary-rotated-too")]).await;
    sidecar.caught_up().await;
    let answer = client.resolve_credentials(asking("pay")).await.unwrap().into_inner();
    assert_eq!(value(&answer, "API_KEY"), "\"canary-rotated-too\"");
}

/// How late a call is answered that was to be answered within `deadline`.
async fn lateness(
    sidecar: &Sidecar,
    token: &str,
    asked: &ResolveCredentialsRequest,
    timeout: Option<&str>,
    deadline: Duration,
) -> Duration {
    let call = RawCall::to(sidecar, timeout, token, Some(asked)).await;
    let before = tokio::time::Instant::now();
    let (code, _) = call.refusal().await;
    let elapsed = before.elapsed();
    assert!(matches!(Code::from(code), Code::DeadlineExceeded | Code::Unavailable), "{asked:?}: {code}");
    elapsed.saturating_sub(deadline)
}

#[tokio::test]
async fn a7_every_call_ends_within_its_deadline_even_if_everything_is_stopped() {
    const SLACK: Duration = Duration::from_millis(50);
    /// A machine that is busy with other tests measures itself; in one of so many rounds it measures us.
    const ROUNDS: usize = 5;
    let deadlines = [
        (Some("50m"), Duration::from_millis(50)),
        (Some("250m"), Duration::from_millis(250)),
        (Some("1S"), Duration::from_secs(1)),
        (None, limits::CALL_DEADLINE_DEFAULT),
    ];
    let stage = Stage::start().await;
    let mut late = Vec::new();
    for round in 0..ROUNDS {
        // Nothing is kept of the round before.
        stage.clock.advance(limits::SECRET_MAX_STALE_DEFAULT);
        // Who waits for OpenBao, who waits for the wiring, and who waits for being known.
        let (known, unknown) =
            (stage.world.token(&[Scope::McpExecute]).await, stage.world.token(&[Scope::McpExecute]).await);
        stage.sidecar.caught_up().await;
        let mut client = stage.sidecar.client(&known).await;
        client.issue_run_token(issuing("pay", "", "")).await.unwrap();
        let mut cold = asking("pay");
        cold.workflow_id = format!("round-{round}");
        stage.stop_servers();
        let stuck = [(&known, asking("pay")), (&known, cold), (&unknown, asking("pay"))];
        let calls = stuck.iter().flat_map(|(token, asked)| {
            deadlines.iter().map(|(timeout, deadline)| lateness(&stage.sidecar, token, asked, *timeout, *deadline))
        });
        let latest = join_all(calls).await.into_iter().max().unwrap();
        stage.resume_servers();
        stage.sidecar.caught_up().await;
        late.push(latest);
        if latest < SLACK {
            println!("the latest of 12 calls ended {latest:?} after its deadline");
            return;
        }
    }
    panic!("calls ended {late:?} after their deadlines");
}

/// A project of `count` instances, each with a connection of its own.
pub(super) fn many(count: usize) -> String {
    let mut yaml = "tenant: acme\nprojects:\n- project: payments\n  servers:\n  - service: pay\n    \
        url: https://mcp.example.com/pay\n    config: {API_KEY: {required: true, secret: true}}\n  connections:\n"
        .to_owned();
    for n in 0..count {
        let credentials = format!("{{api_key: {{value: canary-key-{n}}}}}");
        writeln!(yaml, "  - {{name: c{n}, template: generic-api-key, credentials: {credentials}}}").unwrap();
    }
    yaml.push_str("  instances:\n");
    for n in 0..count {
        let wiring = format!("{{API_KEY: {{connection: c{n}, credential: api_key}}}}");
        let profile = format!("{{name: live, wiring: {wiring}}}");
        writeln!(yaml, "  - {{name: i{n}, server: pay, active: live, profiles: [{profile}]}}").unwrap();
    }
    yaml
}

#[tokio::test]
async fn a9_memory_is_bounded_by_entries_and_by_bytes_and_a_hot_secret_stays() {
    const INSTANCES: usize = 400;
    const ENTRIES: u64 = 64;
    const BYTES: u64 = 48 * 1024;
    let world = World::sqlite(&many(INSTANCES)).await;
    for (entries, bytes) in [(ENTRIES, limits::SECRET_CACHE_BYTES), (limits::SECRET_CACHE_ENTRIES, BYTES)] {
        let bounded = |config: &mut credway::config::Config| {
            (config.cache.entries_max, config.cache.bytes_max) = (entries, bytes)
        };
        // While no time passes: an answer that grows old is made anew, and whether its secret is still held then is another bound.
        let sidecar = world.sidecar_with(Clock::Manual(manual_clock()), bounded).await;
        let mut client = sidecar.client(&world.token(&[Scope::McpExecute]).await).await;
        // What was read before it heard of the token would be read again.
        sidecar.caught_up().await;
        let mut reads_of_hot = Vec::new();
        for n in 0..2 * INSTANCES {
            client.resolve_credentials(asking(&format!("i{}", 1 + n % (INSTANCES - 1)))).await.unwrap();
            let hot = client.resolve_credentials(asking("i0")).await.unwrap().into_inner();
            if hot.provenance.unwrap().connections[0].freshness() == Freshness::Fresh {
                reads_of_hot.push(n);
            }
        }
        assert_eq!(reads_of_hot, [0], "the hot secret was pushed out");
        let gauges = [
            "credway_secret_cache_entries",
            "credway_secret_cache_bytes",
            "credway_answer_cache_entries",
            "credway_answer_cache_bytes",
        ];
        until("the gauges were told", async || metric(&sidecar, gauges[2]).await > 0.0).await;
        let mut held = [0.0; 4];
        for (value, gauge) in held.iter_mut().zip(gauges) {
            *value = metric(&sidecar, gauge).await;
        }
        println!("of {INSTANCES} within {entries} entries and {bytes} bytes are held: {held:?}");
        let [secrets, secret_bytes, answers, answer_bytes] = held;
        assert!(secrets > 0.0 && secrets <= entries as f64 && answers <= entries as f64, "{held:?}");
        assert!(secret_bytes <= bytes as f64 && answer_bytes <= bytes as f64, "{held:?}");
        assert!(secrets < INSTANCES as f64 && answers < INSTANCES as f64, "{held:?}: the bound was not reached");
    }
}
