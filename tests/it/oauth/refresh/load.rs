//! Two hundred connections whose tokens fall due one after the other, while executors of five daemons resolve them all the time.
//!
//! A minute of it would tell no more: in the suite all fall due within half a minute, so twice as fast. `CREDWAY_TEST_DUE_SECONDS=60`
//! is the whole minute.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use credway::clock::Clock;
use credway::grpc::proto::{Freshness, ResolveCredentialsResponse};
use credway::limits;
use futures_util::future::join_all;
use jiff::{SignedDuration, Timestamp};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::rig::{Sidecar, Site, provider};
use crate::support::daemon::{Client, Refused, refused, resolve};
use crate::support::gate::Fate;
use crate::support::openbao::{Bao, until, until_by};
use crate::support::postgres::Postgres;

const CONNECTIONS: usize = 200;
const SIDECARS: usize = 5;

/// Of one daemon. Each asks for a share of the connections in turn: 250 resolves a second in all, which two cores can carry.
const EXECUTORS: usize = 2;
const PAUSE: Duration = Duration::from_millis(40);

/// Until the first is due. That it is, is noticed when its secret is read anew, as all are within 24 s (`cache.secret_ttl`).
const QUIET: Duration = Duration::from_secs(15);

/// How long each answer of the provider takes: whoever waited for one shows.
const SLOW: Duration = Duration::from_secs(3);

/// One resolve.
struct Sample {
    asked: Instant,
    took: Duration,
    came: Result<Token, Refused>,
}

struct Token {
    is_from_memory: bool,
    /// What was left of its life when it was asked for.
    left: SignedDuration,
}

impl Sample {
    fn is_from_memory(&self) -> bool {
        self.came.as_ref().is_ok_and(|token| token.is_from_memory)
    }
}

/// Executors that ask until they are told to stop.
struct Load {
    executors: JoinSet<Vec<Sample>>,
    answers: Arc<AtomicUsize>,
    stop: CancellationToken,
}

impl Load {
    fn begin(sidecars: &[Sidecar]) -> Self {
        let (answers, stop) = (Arc::new(AtomicUsize::new(0)), CancellationToken::new());
        let mut executors = JoinSet::new();
        for sidecar in sidecars {
            for share in 0..EXECUTORS {
                let (client, answers, stop) = (sidecar.client.clone(), Arc::clone(&answers), stop.clone());
                executors.spawn(execute(client, share, answers, stop));
            }
        }
        Self { executors, answers, stop }
    }

    /// Returns once every daemon was asked for every connection another time.
    async fn round(&self) {
        let round = self.answers.load(Ordering::Relaxed) + SIDECARS * CONNECTIONS;
        let is_round = async || self.answers.load(Ordering::Relaxed) >= round;
        until_by(Duration::from_secs(60), "everything was resolved once more", is_round).await;
    }

    async fn end(self) -> Vec<Sample> {
        self.stop.cancel();
        self.executors.join_all().await.into_iter().flatten().collect()
    }
}

async fn execute(mut client: Client, share: usize, answers: Arc<AtomicUsize>, stop: CancellationToken) -> Vec<Sample> {
    let instances: Vec<String> = (share..CONNECTIONS).step_by(EXECUTORS).map(|nth| format!("c{nth}")).collect();
    let (mut ticks, mut samples) = (interval(PAUSE), Vec::new());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for instance in instances.iter().cycle() {
        ticks.tick().await;
        if stop.is_cancelled() {
            break;
        }
        let (asked, asked_at) = (Instant::now(), Clock::System.now());
        let answer = resolve(&mut client, instance).await;
        let took = asked.elapsed();
        let came = answer.map_err(|status| refused(&status)).map(|answer| token(answer, asked_at));
        samples.push(Sample { asked, took, came });
        answers.fetch_add(1, Ordering::Relaxed);
    }
    samples
}

fn token(answer: ResolveCredentialsResponse, asked_at: Timestamp) -> Token {
    let end = answer.expires_at.expect("a token that ends");
    let used = answer.provenance.expect("where it is from").connections.remove(0);
    let left = Timestamp::new(end.seconds, end.nanos).unwrap().duration_since(asked_at);
    Token { is_from_memory: used.freshness() == Freshness::Cached, left }
}

/// How long they took.
fn figures<'a>(samples: impl Iterator<Item = &'a Sample>) -> String {
    let mut times: Vec<Duration> = samples.map(|sample| sample.took).collect();
    times.sort();
    let Some(last) = times.len().checked_sub(1) else { return "none".to_owned() };
    let part = |part: usize| times[last * part / 100];
    format!("{:>6}: p50 {:.1?}, p99 {:.1?}, slowest {:.1?}", times.len(), part(50), part(99), times[last])
}

fn due_within() -> Duration {
    let told = std::env::var("CREDWAY_TEST_DUE_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(told.unwrap_or(30))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn executors_notice_nothing_of_two_hundred_tokens_that_are_refreshed_under_load() {
    let (oidc, bao, span) = (provider().await, Bao::shared().await, due_within());
    let database = Some(Postgres::fresh_database().await);
    let site = Site::new(&oidc, bao, r#"{ kind = "old_dies" }"#, database, CONNECTIONS).await;
    let sidecars = join_all((0..SIDECARS).map(|_| site.sidecar(&[]))).await;
    site.tokens_live(Duration::from_secs(3600)).await;
    site.gate.let_be(Fate::Late(SLOW));
    join_all(sidecars.iter().map(warmed)).await;
    let load = Load::begin(&sidecars);
    load.round().await;

    let quiet = Instant::now();
    site.tokens_fall_due(QUIET, span).await;
    until_by(QUIET + limits::SECRET_TTL_DEFAULT * 2, "the first token is due", async || site.gate.requests() > 0).await;
    let busy = Instant::now();
    assert!(busy - quiet >= QUIET, "a token was refreshed before it was due");
    let are_asked_for = async || site.gate.requests() >= CONNECTIONS;
    until_by(span + limits::SECRET_TTL_DEFAULT * 2, "every token was asked for", are_asked_for).await;
    for id in site.connections().await {
        let is_there = async || site.generation(&site.fields_of(&id).await) == Some(2);
        until("every token is stored", is_there).await;
    }
    let took = busy.elapsed();
    load.round().await;
    let samples = load.end().await;

    let (before, after): (Vec<_>, Vec<_>) =
        samples.iter().filter(|sample| sample.asked >= quiet).partition(|sample| sample.asked < busy);
    let tokens = after.iter().filter_map(|sample| sample.came.as_ref().ok());
    let least = tokens.map(|token| token.left).min().unwrap();
    eprintln!(
        "{CONNECTIONS} tokens refreshed by {SIDECARS} daemons in {took:.1?}, the provider taking {SLOW:?} for each"
    );
    for (when, samples) in [("quiet", &before), ("refreshing", &after)] {
        for (from, is_from_memory) in [("from memory", true), ("read anew", false)] {
            let those = samples.iter().copied().filter(|sample| sample.is_from_memory() == is_from_memory);
            eprintln!("  {when:10} {from:11} {}", figures(those));
        }
    }
    eprintln!("  the shortest life of a token that was handed out meanwhile: {} s", least.as_secs());

    assert_eq!(site.gate.requests(), CONNECTIONS);
    assert!(site.gate.sends().iter().all(|sends| *sends == 1), "{:?}", site.gate.sends());
    let measured = [before, after].concat();
    let refused: Vec<_> = measured.iter().filter_map(|sample| sample.came.as_ref().err()).collect();
    assert!(refused.is_empty(), "{} were refused: {:?}", refused.len(), refused[0]);
    let slowest = measured.iter().map(|sample| sample.took).max().unwrap();
    assert!(slowest < SLOW, "a resolve waited for the provider: {slowest:?}");
    assert!(least >= SignedDuration::try_from(limits::MIN_TOKEN_TTL_DEFAULT).unwrap());
    all_answer_the_same(&site, &sidecars).await;
}

/// Asks once for every connection.
async fn warmed(sidecar: &Sidecar) {
    for nth in 0..CONNECTIONS {
        sidecar.token_in_time(&format!("c{nth}")).await;
    }
}

/// And nobody one of the first tokens.
async fn all_answer_the_same(site: &Site<'_>, sidecars: &[Sidecar]) {
    for (nth, minted) in site.minted.iter().enumerate() {
        let instance = format!("c{nth}");
        let tokens = join_all(sidecars.iter().map(|sidecar| sidecar.token_in_time(&instance))).await;
        assert!(tokens.iter().all(|token| *token == tokens[0] && *token != minted.access_token), "{instance}");
    }
}
