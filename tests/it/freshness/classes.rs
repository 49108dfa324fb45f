//! Which verdicts a real OpenBao's outage brings: B6, to each class of secrets its own; B8, by age and not by what the wall
//! clock says.

use std::time::Duration;

use credway::clock::{Clock, ManualClock};
use credway::config::{CachePolicy, Config};
use credway::grpc::proto::Freshness;
use credway::limits;
use credway::model::caller::Scope;
use futures_util::future::join_all;
use jiff::SignedDuration;

use super::openbao::Stage;
use crate::support::answers::{asking, reason};
use crate::support::cast::{World, in_openbao, manual_clock};
use crate::support::openbao::{Bao, until};
use crate::support::postgres::Postgres;
use crate::support::sidecar::{Client, Sidecar};

const SECOND: Duration = Duration::from_secs(1);

/// An instance for each of two templates, and one for both.
const CLASSES: &str = "
tenant: acme
projects:
- project: payments
  servers:
  - {service: one, url: https://mcp.example.com/one, config: {KEY: {required: true, secret: true}}}
  - service: two
    url: https://mcp.example.com/two
    config: {KEY: {required: true, secret: true}, PASSWORD: {required: true, secret: true}}
  connections:
  - {name: key, template: generic-api-key, credentials: {api_key: {value: canary-key}}}
  - {name: login, template: generic-basic, credentials: {username: {value: me}, password: {value: canary-password}}}
  instances:
  - name: key
    server: one
    active: live
    profiles: [{name: live, wiring: {KEY: {connection: key, credential: api_key}}}]
  - name: login
    server: one
    active: live
    profiles: [{name: live, wiring: {KEY: {connection: login, credential: password}}}]
  - name: both
    server: two
    active: live
    profiles:
    - name: live
      wiring: {KEY: {connection: key, credential: api_key}, PASSWORD: {connection: login, credential: password}}
";

/// A daemon, and which instance it is to serve through an outage.
struct Daemon {
    clock: ManualClock,
    client: Client,
    available: &'static str,
    faithful: &'static str,
    _sidecar: Sidecar,
}

impl Daemon {
    async fn start(
        world: &World,
        (policy, template, other): (CachePolicy, &str, CachePolicy),
        [available, faithful]: [&'static str; 2],
    ) -> Self {
        let clock = manual_clock();
        let classes = |config: &mut Config| {
            config.cache.policy = policy;
            config.cache.policies = [(template.to_owned(), other)].into();
            // The store's own deadline is to be seen, and not the call's.
            config.grpc.call_deadline = limits::CALL_DEADLINE_MAX;
        };
        let sidecar = world.sidecar_with(Clock::Manual(clock.clone()), classes).await;
        let client = sidecar.client(&world.token(&[Scope::McpExecute]).await).await;
        sidecar.caught_up().await;
        Self { clock, client, available, faithful, _sidecar: sidecar }
    }

    /// What it says of its instances: the available one, the faithful one, and the one that needs both.
    async fn outcomes(&mut self) -> [String; 3] {
        let mut outcomes = [self.available, self.faithful, "both"].map(str::to_owned);
        for outcome in &mut outcomes {
            *outcome = match self.client.resolve_credentials(asking(outcome)).await {
                Ok(answer) => {
                    let used = answer.into_inner().provenance.unwrap().connections;
                    used.iter().map(|used| word(used.freshness())).max().unwrap().to_owned()
                }
                Err(status) => reason(&status),
            };
        }
        outcomes
    }

    /// Until OpenBao can be asked again, and a time to live later.
    async fn through_an_outage(&mut self) {
        self.clock.advance(limits::SECRET_TTL_DEFAULT / 3);
        assert_eq!(self.outcomes().await, ["cached"; 3], "nobody is to notice yet");
        self.clock.advance(limits::SECRET_TTL_DEFAULT);
        const REFUSED: &str = "SECRET_STORE_UNAVAILABLE";
        for _ in 0..3 {
            assert_eq!(self.outcomes().await, ["stale", REFUSED, REFUSED]);
        }
    }
}

fn word(freshness: Freshness) -> &'static str {
    match freshness {
        Freshness::Fresh => "fresh",
        Freshness::Cached => "cached",
        Freshness::Stale => "stale",
        Freshness::Unspecified => panic!("it does not say"),
    }
}

#[tokio::test]
async fn b6_through_an_outage_one_class_is_served_stale_and_the_other_is_refused_by_the_same_daemon() {
    use CachePolicy::{Availability, Fidelity};
    let bao = Bao::own().await;
    let mut settings = in_openbao(&bao).await;
    settings.push(("database.url", Postgres::fresh_database().await));
    let world = World::of(CLASSES, &settings).await;
    let mut daemons = [
        Daemon::start(&world, (Availability, "generic-basic", Fidelity), ["key", "login"]).await,
        Daemon::start(&world, (Fidelity, "generic-basic", Availability), ["login", "key"]).await,
    ];
    for is_stopped in [false, true] {
        for daemon in &mut daemons {
            // The outage before is over for all; and a time to live later, all are read at the same time.
            for wait in [Duration::ZERO, limits::SECRET_TTL_DEFAULT] {
                daemon.clock.advance(wait);
                until("everything was just read", async || {
                    daemon.clock.advance(SECOND);
                    daemon.outcomes().await.iter().all(|outcome| outcome == "fresh" || outcome == "cached")
                })
                .await;
            }
        }
        if is_stopped {
            bao.pause()
        } else {
            bao.seal().await
        }
        join_all(daemons.iter_mut().map(Daemon::through_an_outage)).await;
        if is_stopped { bao.resume() } else { bao.unseal().await }
    }
}

/// What became of `pay` and of OpenBao, through a good time and an outage, with that jump of the wall clock before each
/// question. What is told of time is told by age.
async fn verdicts(bao: &Bao, jump: SignedDuration) -> Vec<String> {
    const BOUND: Duration = limits::SECRET_MAX_STALE_DEFAULT;
    let mut stage = Stage::start(bao).await;
    let path = stage.path().await;
    let mut verdicts = Vec::new();
    let mut ask = async |wait: Duration| {
        stage.clock.advance(wait);
        stage.clock.jump(jump);
        let verdict = match stage.used().await {
            Ok(used) => {
                let word = word(used.freshness());
                let age = used.staleness.map(|stale| Duration::try_from(stale.age.unwrap()).unwrap());
                format!("{word} {age:?}")
            }
            Err(status) => reason(&status),
        };
        verdicts.push(format!("{verdict} after {} reads", bao.reads_of(&path)));
    };
    // Outside of the time in which chance says whether it is read in the background.
    for wait in [0, 10, 7, 14, 17, 14] {
        ask(wait * SECOND).await;
    }
    bao.seal().await;
    for wait in [17 * SECOND, 14 * SECOND, BOUND - 32 * SECOND, 2 * SECOND] {
        ask(wait).await;
    }
    bao.unseal().await;
    let mut since = Duration::ZERO;
    until("the secret is read again", async || {
        since += SECOND;
        stage.clock.advance(SECOND);
        stage.clock.jump(jump);
        stage.used().await.is_ok()
    })
    .await;
    assert!(since <= limits::SECRET_BACKOFF_MAX + SECOND, "it took {since:?}");
    verdicts
}

#[tokio::test]
async fn b8_an_hour_on_the_wall_clock_changes_no_verdict_on_what_openbao_holds() {
    let bao = Bao::own().await;
    let unmoved = verdicts(&bao, SignedDuration::ZERO).await;
    println!("{unmoved:#?}");
    for hours in [1, -1] {
        assert_eq!(verdicts(&bao, SignedDuration::from_hours(hours)).await, unmoved, "by {hours} hours");
    }
}

#[tokio::test]
async fn b8_a_suspend_counts_as_age() {
    // The clock of ages goes on, and the one that waits are measured by does not, as is the case when a machine sleeps.
    let bao = Bao::own().await;
    let mut stage = Stage::start(&bao).await;
    let path = stage.path().await;
    let reads = bao.reads_of(&path);
    let began = tokio::time::Instant::now();
    for slept in [limits::SECRET_TTL_DEFAULT + SECOND, Duration::from_secs(8 * 3600)] {
        stage.clock.advance(slept);
        assert_eq!(stage.used().await.unwrap().freshness(), Freshness::Fresh, "after {slept:?}");
    }
    assert_eq!(bao.reads_of(&path), reads + 2);
    bao.seal().await;
    stage.clock.advance(limits::SECRET_MAX_STALE_DEFAULT + SECOND);
    assert_eq!(reason(&stage.used().await.unwrap_err()), "SECRET_STORE_UNAVAILABLE");
    assert!(began.elapsed() < limits::SECRET_TTL_DEFAULT, "so much time did pass");
}
