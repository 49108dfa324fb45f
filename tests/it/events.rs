//! Webhooks: a real receiver is told what happens to connections.

use std::time::Duration;

use credway::clock::{Clock, ManualClock};
use credway::config::{Egress, EgressRule, Webhook};
use credway::events::Events;
use credway::limits;
use credway::metrics::Metrics;
use credway::model::connection::{ConnectionState, Status};
use credway::store::Store;
use serde_json::json;

use crate::support::cast::{ACME, World, manual_clock};
use crate::support::openbao::{ClosedPort, until};
use crate::support::receiver::{Answer, Receiver, webhook};

/// A world at a time that the test moves, who tells of it, and who is told.
struct Scene {
    world: World,
    clock: ManualClock,
    store: Store,
    metrics: Metrics,
    receiver: Receiver,
}

/// Each fact on both databases.
macro_rules! on_both {
    ($($fact:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $fact() { super::$fact(super::Scene::of(crate::support::cast::World::sqlite(super::ACME).await).await).await; })*
        }
        mod postgres {
            $(#[tokio::test]
            async fn $fact() { super::$fact(super::Scene::of(crate::support::cast::World::postgres_and_openbao(super::ACME).await).await).await; })*
        }
    };
}

on_both! {
    what_happens_is_told_in_words_for_people_and_without_a_secret,
    a_receiver_that_fails_twice_is_told_the_same_a_third_time,
    a_receiver_that_is_down_is_given_up_after_three_days,
    a_receiver_that_asks_for_a_pause_gets_it,
    what_becomes_of_refreshes_is_told_once,
    of_two_daemons_one_tells,
    what_a_dead_daemon_had_is_told_by_another,
    a_change_that_is_not_committed_is_not_told,
    each_webhook_is_told_what_it_wants_and_waits_for_no_other,
}

impl Scene {
    /// All that made the world is told.
    async fn of(world: World) -> Self {
        let clock = manual_clock();
        // The world was made a moment ago by the system's clock.
        clock.advance(Duration::from_secs(60));
        let store = Store::lazy(&world.config.database, Clock::Manual(clock.clone())).unwrap();
        let scene = Self { world, clock, store, metrics: Metrics::new(), receiver: Receiver::start().await };
        let made = Receiver::start().await;
        scene.events(&[made.webhook()]).round().await.unwrap();
        assert!(made.taken().iter().all(|(kind, _)| kind == "connection.created"));
        assert_eq!(made.taken().len(), 5);
        scene
    }

    /// A daemon's part that tells these webhooks.
    fn events(&self, webhooks: &[Webhook]) -> Events {
        let egress = Egress { allow: vec![EgressRule::Network("127.0.0.1/32".parse().unwrap())], ..Egress::default() };
        let clock = Clock::Manual(self.clock.clone());
        Events::new(webhooks, &egress, self.store.clone(), clock, self.metrics.clone()).unwrap()
    }

    /// The one that tells the receiver.
    fn teller(&self) -> Events {
        self.events(&[self.receiver.webhook()])
    }

    async fn set(&self, connection: &str, state: ConnectionState, reason: Option<&str>) {
        let id = self.world.connection(connection).await;
        let since = Clock::Manual(self.clock.clone()).now();
        let status = Status { state, reason: reason.map(str::to_owned), since };
        let mut tx = self.store.begin().await.unwrap();
        assert!(tx.connection_set_status(&self.world.workspace.project, id, &status).await.unwrap());
        tx.commit().await.unwrap();
    }

    /// The count of deliveries that ended so.
    fn counted(&self, outcome: &str) -> u32 {
        let (text, metric) =
            (self.metrics.render(), format!("credway_webhook_deliveries_total{{outcome=\"{outcome}\"}} "));
        text.lines().find_map(|line| line.strip_prefix(&metric)).unwrap().parse().unwrap()
    }
}

fn pairs(told: &[(&str, &str)]) -> Vec<(String, String)> {
    told.iter().map(|(kind, name)| ((*kind).to_owned(), (*name).to_owned())).collect()
}

async fn what_happens_is_told_in_words_for_people_and_without_a_secret(scene: Scene) {
    use ConnectionState::{Active, Degraded, Disabled, Reconnect};
    let events = scene.teller();
    for (state, reason) in [
        (Degraded, Some("PROVIDER_UNAVAILABLE")),
        (Reconnect, Some("GRANT_REVOKED")),
        // That somebody turns it off and on again is nobody's concern.
        (Disabled, Some("reconnect")),
        (Reconnect, None),
        (Active, None),
    ] {
        scene.set("production", state, reason).await;
        events.round().await.unwrap();
        scene.clock.advance(Duration::from_secs(1));
    }
    let deleted = scene.world.connection("sandbox").await;
    scene.world.control.connection_delete(&scene.world.workspace, "sandbox", None, true).await.unwrap();
    scene.clock.advance(Duration::from_secs(60));
    events.round().await.unwrap();
    let expected = pairs(&[
        ("connection.degraded", "production"),
        ("connection.reconnect_needed", "production"),
        ("connection.reconnected", "production"),
        ("connection.deleted", "sandbox"),
    ]);
    assert_eq!(scene.receiver.taken(), expected);

    let told = scene.receiver.told();
    let ids: std::collections::BTreeSet<&str> = told.iter().map(|told| told.id.as_str()).collect();
    assert_eq!(ids.len(), told.len(), "each event has an id of its own");
    let workspace = &scene.world.workspace;
    let first = &told[0].body;
    let expected = json!({
        "tenant_id": workspace.tenant.id.to_string(),
        "project_id": workspace.project.id.to_string(),
        "project": "payments",
        "connection_id": scene.world.connection("production").await.to_string(),
        "name": "production",
        "template": "generic-api-key",
        "provider": first["data"]["provider"],
        "service": null,
        "environment": "production",
        "status": "degraded",
        "reason": "PROVIDER_UNAVAILABLE",
        "since": first["timestamp"],
    });
    assert_eq!(first["data"], expected);
    assert_eq!(told[3].body["data"]["connection_id"], deleted.to_string());
    assert!(told.iter().all(|told| !told.body.to_string().contains("canary")));
}

async fn a_receiver_that_fails_twice_is_told_the_same_a_third_time(scene: Scene) {
    let events = scene.teller();
    scene.receiver.answer([Answer::Status(500), Answer::Status(302)]);
    scene.set("production", ConnectionState::Degraded, None).await;
    let mut tries = Vec::new();
    for _ in 0..3 {
        events.round().await.unwrap();
        // Nothing more comes before the pause is over.
        events.round().await.unwrap();
        tries.push(scene.receiver.told().len());
        scene.clock.advance(Duration::from_secs(30));
    }
    events.round().await.unwrap();
    let told = scene.receiver.told();
    assert_eq!((tries, told.len()), (vec![1, 2, 3], 3));
    assert!(told.iter().all(|one| one.id == told[0].id && one.body == told[0].body));
    assert!(told.windows(2).all(|two| two[0].timestamp + 30 == two[1].timestamp), "each is signed when it is sent");
    assert_eq!((scene.counted("failed"), scene.counted("given_up")), (2, 0));
}

async fn a_receiver_that_is_down_is_given_up_after_three_days(scene: Scene) {
    let port = ClosedPort::hold();
    let events = scene.events(&[webhook(port.address())]);
    scene.set("production", ConnectionState::Degraded, None).await;
    let mut hours = 0;
    while scene.counted("given_up") == 0 {
        events.round().await.unwrap();
        scene.clock.advance(Duration::from_secs(3600));
        hours += 1;
        // What is due within the last hour is tried at its end, which is the 73rd round.
        assert!(hours <= 73, "it is told for ever");
    }
    assert!(hours > 66, "it is given up after {hours} hours");
    assert!((18..30).contains(&scene.counted("failed")), "{} tries", scene.counted("failed"));
    // It is not told of it by whoever comes later.
    scene.clock.advance(limits::WEBHOOK_PAUSE_MAX);
    scene.teller().round().await.unwrap();
    assert_eq!(scene.receiver.told().len(), 0);
}

async fn a_receiver_that_asks_for_a_pause_gets_it(scene: Scene) {
    let events = scene.teller();
    scene.receiver.answer([Answer::Busy(600)]);
    scene.set("production", ConnectionState::Degraded, None).await;
    events.round().await.unwrap();
    scene.clock.advance(Duration::from_secs(599));
    events.round().await.unwrap();
    assert_eq!(scene.receiver.told().len(), 1);
    scene.clock.advance(Duration::from_secs(1));
    events.round().await.unwrap();
    assert_eq!(scene.receiver.told().len(), 2);
}

async fn what_becomes_of_refreshes_is_told_once(scene: Scene) {
    let (events, id, project) =
        (scene.teller(), scene.world.connection("production").await, &scene.world.workspace.project);
    let since = Clock::Manual(scene.clock.clone()).now();
    let status = |state, reason: &str| Status { state, reason: Some(reason.to_owned()), since };
    let degraded = status(ConnectionState::Degraded, "PROVIDER_UNAVAILABLE");
    let revoked = status(ConnectionState::Reconnect, "GRANT_REVOKED");
    for trouble in [Some(&degraded), Some(&degraded), None, Some(&revoked), None] {
        let generation = scene.store.connection_tokens(id).await.unwrap().unwrap().generation;
        let mut tx = scene.store.begin().await.unwrap();
        match trouble {
            Some(status) => tx.connection_troubled(project, id, generation, status).await.unwrap(),
            None => tx.connection_refreshed(project, id, generation + 1, None).await.unwrap(),
        };
        tx.commit().await.unwrap();
        scene.clock.advance(Duration::from_secs(1));
        events.round().await.unwrap();
    }
    let told: Vec<String> = scene.receiver.taken().into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(told, ["connection.degraded", "connection.reconnect_needed", "connection.reconnected"]);
}

async fn of_two_daemons_one_tells(scene: Scene) {
    let (one, other) = (scene.teller(), scene.teller());
    for state in [ConnectionState::Degraded, ConnectionState::Reconnect] {
        for connection in ["production", "sandbox", "charge"] {
            scene.set(connection, state, None).await;
        }
    }
    // Slow enough for both to look while a delivery is under way.
    scene.receiver.answer([Answer::Slow(Duration::from_millis(300)); 6]);
    let (a, b) = tokio::join!(one.round(), other.round());
    // SQLite lets one write at a time, and the other waits.
    a.unwrap();
    b.unwrap();
    let told = scene.receiver.told();
    let ids: std::collections::BTreeSet<&str> = told.iter().map(|told| told.id.as_str()).collect();
    assert_eq!((told.len(), ids.len()), (6, 6));
}

async fn what_a_dead_daemon_had_is_told_by_another(scene: Scene) {
    scene.set("production", ConnectionState::Degraded, None).await;
    scene.receiver.answer([Answer::Slow(Duration::from_secs(5))]);
    let dead = scene.teller();
    // It ends once the receiver has it, and before it has written that down.
    tokio::select! {
        _ = dead.round() => panic!("the receiver is slow"),
        () = until("the receiver has it", async || !scene.receiver.told().is_empty()) => {}
    }
    let other = scene.teller();
    other.round().await.unwrap();
    assert_eq!(scene.receiver.told().len(), 1, "the dead one's claim holds");
    scene.clock.advance(limits::WEBHOOK_CLAIM);
    other.round().await.unwrap();
    let told = scene.receiver.told();
    assert_eq!((told.len(), &told[0].id), (2, &told[1].id));
}

async fn a_change_that_is_not_committed_is_not_told(scene: Scene) {
    let id = scene.world.connection("production").await;
    let since = Clock::Manual(scene.clock.clone()).now();
    let status = Status { state: ConnectionState::Reconnect, reason: None, since };
    let mut tx = scene.store.begin().await.unwrap();
    tx.connection_set_status(&scene.world.workspace.project, id, &status).await.unwrap();
    drop(tx);
    scene.set("production", ConnectionState::Active, None).await;
    scene.teller().round().await.unwrap();
    assert_eq!(scene.receiver.told().len(), 0);
}

async fn each_webhook_is_told_what_it_wants_and_waits_for_no_other(scene: Scene) {
    let mut picky = scene.receiver.webhook();
    picky.events = ["connection.deleted".parse().unwrap()].into();
    let all = Receiver::start().await;
    let port = ClosedPort::hold();
    let events = scene.events(&[webhook(port.address()), picky, all.webhook()]);
    scene.set("production", ConnectionState::Degraded, None).await;
    scene.world.control.connection_delete(&scene.world.workspace, "charge", None, true).await.unwrap();
    scene.clock.advance(Duration::from_secs(60));
    events.round().await.unwrap();
    assert_eq!(scene.receiver.taken(), pairs(&[("connection.deleted", "charge")]));
    assert_eq!(all.taken().len(), 2);
}

#[tokio::test]
async fn old_events_are_forgotten_though_nobody_is_told() {
    let scene = Scene::of(World::sqlite(ACME).await).await;
    scene.set("production", ConnectionState::Degraded, None).await;
    scene.events(&[]).round().await.unwrap();
    scene.clock.advance(limits::EVENTS_KEPT);
    scene.events(&[]).round().await.unwrap();
    assert_eq!(scene.store.events_unspread().await.unwrap(), []);
    scene.teller().round().await.unwrap();
    assert_eq!(scene.receiver.told().len(), 0);
}

#[tokio::test]
async fn nothing_is_sent_to_an_address_that_the_settings_do_not_allow() {
    let scene = Scene::of(World::sqlite(ACME).await).await;
    let clock = Clock::Manual(scene.clock.clone());
    let webhooks = [scene.receiver.webhook()];
    let events = Events::new(&webhooks, &Egress::default(), scene.store.clone(), clock, scene.metrics.clone()).unwrap();
    scene.set("production", ConnectionState::Degraded, None).await;
    events.round().await.unwrap();
    assert_eq!((scene.receiver.told().len(), scene.counted("failed")), (0, 1));
}

#[tokio::test]
async fn a_daemon_tells_within_a_moment_and_again_when_it_was_not_taken() {
    let (world, receiver) = (World::postgres_and_openbao(ACME).await, Receiver::start().await);
    let start = async || {
        let change = |config: &mut credway::config::Config| {
            config.webhooks = vec![receiver.webhook()];
            config.egress.allow = vec![EgressRule::Network("127.0.0.1/32".parse().unwrap())];
        };
        world.sidecar_with(Clock::System, change).await
    };
    let (one, other) = (start().await, start().await);
    until("what made the world is told", async || receiver.taken().len() == 5).await;
    receiver.answer([Answer::Status(500)]);
    world.control.connection_delete(&world.workspace, "charge", None, true).await.unwrap();
    // The first pause is some five seconds.
    until("it is told again", async || receiver.taken().len() == 6).await;
    assert_eq!(receiver.told().len(), 7);
    assert_eq!(receiver.taken()[5], ("connection.deleted".to_owned(), "charge".to_owned()));
    assert!(one.stop().await && other.stop().await);
}
