//! kill -9 at any moment of a write, and of the daemon.

use std::time::Duration;

use credway::grpc::proto::batch_result::Outcome;
use credway::grpc::proto::config_entry::Value as Typed;
use credway::grpc::proto::{BatchResolveCredentialsRequest, BatchStep};

use crate::support::chance::Chance;
use crate::support::daemon::{Client, Home, key_of, lent, on_servers};
use crate::support::openbao::Bao;
use crate::support::postgres::Postgres;

/// How often `apply` is killed. Each round costs two runs of it.
const ROUNDS: u64 = 15;

/// Connections that every round changes, beside the one that it adds.
const CHANGED: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

/// The manifest of a generation: every key is new, and one more connection than before it.
fn declare(home: &Home, generation: u64) {
    let added: Vec<String> = (0..=generation).map(|g| format!("added-{g}")).collect();
    let names = CHANGED.into_iter().chain(added.iter().map(String::as_str));
    let keys: Vec<(&str, String)> = names.map(|name| (name, format!("key-{generation}"))).collect();
    home.manifest(&keys.iter().map(|(name, key)| (*name, key.as_str())).collect::<Vec<_>>());
}

/// The generation of each instance's key, as one batch answers; `None` for an instance that does not exist.
async fn generations(client: &mut Client, up_to: u64) -> Vec<(String, Option<u64>)> {
    let added = (0..=up_to).map(|generation| format!("added-{generation}"));
    let names = CHANGED.map(str::to_owned).into_iter().chain(added);
    let steps = names.map(|name| BatchStep { step: name.clone(), instance_id: name, server_url: String::new() });
    let request = BatchResolveCredentialsRequest { steps: steps.collect(), ..Default::default() };
    let answer = client.batch_resolve_credentials(request).await.unwrap().into_inner();
    let generation = |outcome: Outcome| match outcome {
        Outcome::Refusal(refusal) if refusal.reason == "INSTANCE_NOT_FOUND" => None,
        Outcome::Refusal(refusal) => panic!("{}: {}", refusal.reason, refusal.message),
        Outcome::Resolution(resolution) => match resolution.config.first().and_then(|entry| entry.value.as_ref()) {
            Some(Typed::StringValue(text)) => Some(text.strip_prefix("key-").unwrap().parse().unwrap()),
            _ => panic!("there is no key"),
        },
    };
    answer.results.into_iter().map(|result| (result.step, generation(result.outcome.unwrap()))).collect()
}

/// Applies the manifest, and says how long that took.
async fn timed_apply(home: &Home) -> Duration {
    let began = tokio::time::Instant::now();
    home.apply().await.ok();
    began.elapsed()
}

/// Kills `apply` at random moments. `settings` name the stores; a daemon that caches nothing looks at what is there.
async fn apply_survives_kills(home: &Home, settings: &[(&str, &str)]) {
    home.config(&[settings, &[("cache.secret_ttl", "0s")]].concat());
    declare(home, 0);
    home.apply().await.ok();
    let daemon = home.start().await;
    let mut client = daemon.client(&home.token()).await;
    declare(home, 1);
    let mut usual = timed_apply(home).await;

    let (mut chance, mut acknowledged, mut killed, mut torn) = (Chance::new(), 1, 0, 0);
    for generation in 2..2 + ROUNDS {
        declare(home, generation);
        // It takes a while to start, and longer with each generation. Dropped in its middle, the command is killed.
        let patience = usual / 3 + chance.part_of(usual);
        match tokio::time::timeout(patience, home.apply()).await {
            Ok(ran) => {
                ran.ok();
                acknowledged = generation;
            }
            Err(_) => killed += 1,
        }
        let found = generations(&mut client, generation).await;
        let written = found.iter().filter(|(_, found)| *found == Some(generation)).count();
        torn += usize::from((1..found.len()).contains(&written));
        for (name, found) in found {
            let is_promised = name.strip_prefix("added-").is_none_or(|g| g.parse::<u64>().unwrap() <= acknowledged);
            let is_right = match found {
                None => !is_promised,
                Some(found) => (acknowledged..=generation).contains(&found),
            };
            assert!(is_right, "{name} is of {found:?}; {acknowledged} was acknowledged, {generation} was killed");
        }
        // Half of the time one killed run meets what another has left.
        if generation % 2 == 0 {
            usual = timed_apply(home).await;
            acknowledged = generation;
            let found = generations(&mut client, generation).await;
            assert!(found.iter().all(|(_, found)| *found == Some(generation)), "after {generation}: {found:?}");
        }
    }
    eprintln!("{killed} of {ROUNDS} runs were killed, {torn} amid their writes; a whole one takes {usual:?}");
    assert!(killed > 0, "no run was killed in its middle");
}

#[tokio::test]
async fn f6_an_apply_that_is_killed_loses_nothing_in_sqlite_and_the_sealed_store() {
    apply_survives_kills(&Home::new(), &[]).await;
}

#[tokio::test]
async fn f6_an_apply_that_is_killed_loses_nothing_in_postgres_and_openbao() {
    let home = Home::new();
    let settings = on_servers(&home, &Postgres::fresh_database().await, Bao::shared().await).await;
    apply_survives_kills(&home, &lent(&settings)).await;
}

#[tokio::test]
async fn a_rotation_of_the_master_key_that_is_killed_loses_nothing() {
    let home = Home::new();
    home.config(&[("cache.secret_ttl", "0s")]);
    declare(&home, 20);
    home.apply().await.ok();
    let daemon = home.start().await;
    let mut client = daemon.client(&home.token()).await;
    let config = home.text("credway.toml");
    let rotate = ["key", "rotate", "--config", config.as_str()];
    let began = tokio::time::Instant::now();
    home.run(&rotate).await.ok();
    let usual = began.elapsed();
    let mut chance = Chance::new();
    for round in 0..ROUNDS {
        let patience = usual / 3 + chance.part_of(usual);
        if let Ok(ran) = tokio::time::timeout(patience, home.run(&rotate)).await {
            ran.ok();
        }
        let found = generations(&mut client, 20).await;
        assert!(found.iter().all(|(_, found)| *found == Some(20)), "after round {round}: {found:?}");
    }
    drop(daemon);
    let daemon = home.start().await;
    assert_eq!(key_of(&mut daemon.client(&home.token()).await, "a").await.unwrap(), "key-20");
}

#[tokio::test]
async fn f6_a_daemon_that_is_killed_starts_again_at_once_where_it_was() {
    let home = Home::new();
    home.config(&[]);
    home.manifest(&[("a", "key-a")]);
    home.apply().await.ok();
    for _ in 0..3 {
        let mut daemon = home.start().await;
        let mut client = daemon.client(&home.token()).await;
        assert_eq!(key_of(&mut client, "a").await.unwrap(), "key-a");
        daemon.kill();
        assert!(home.path("credway.sock").exists(), "nothing is left to start over");
    }
}
