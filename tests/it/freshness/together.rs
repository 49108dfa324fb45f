//! What belongs together comes together, however fast it changes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use credway::clock::Clock;
use credway::grpc::proto::batch_result::Outcome;
use credway::grpc::proto::{BatchResolveCredentialsRequest, BatchStep, ResolveCredentialsResponse};
use credway::model::caller::Scope;
use futures_util::future::join_all;

use crate::support::answers::{asking, value};
use crate::support::cast::World;
use crate::support::sidecar::Client;

const READERS: usize = 4;

/// As many as the contract's million would take minutes in a debug build.
const READS: usize = 100_000;

const STEPS: usize = 100;

/// The `n`-th state: two values of the profile, the connection that the workflow puts in place, and both fields of the secrets
/// of both connections. All are of one number.
fn state(n: usize) -> String {
    let chosen = ["one", "two"][n % 2];
    let connection = |name: &str| {
        let credentials = format!("{{username: {{value: {name}-{n}}}, password: {{value: {name}-{n}}}}}");
        format!("  - {{name: {name}, template: generic-basic, credentials: {credentials}}}\n")
    };
    format!(
        "tenant: acme
projects:
- project: payments
  servers:
  - service: pay
    url: https://mcp.example.com/pay
    config: {{LEFT: {{type: string}}, RIGHT: {{type: string}}, USER: {{required: true}}, PASSWORD: {{required: true, secret: true}}}}
  connections:
{}{}  instances:
  - name: pair
    server: pay
    active: live
    profiles:
    - name: live
      values: {{LEFT: \"{n}\", RIGHT: \"{n}\"}}
      wiring:
        USER: {{connection: one, credential: username}}
        PASSWORD: {{connection: one, credential: password}}
  workflows:
  - workflow: flip
    overrides: [{{instance: pair, connection: {chosen}}}]
",
        connection("one"),
        connection("two"),
    )
}

/// What one reader has learned: it may not be contradicted later.
#[derive(Default)]
struct Learned {
    /// The number that each version of the profile holds.
    profiles: HashMap<u64, usize>,
    /// The name and number that each version of each connection's secret holds.
    secrets: HashMap<(String, u64), String>,
    last_profile: u64,
}

impl Learned {
    fn check(&mut self, answer: &ResolveCredentialsResponse) {
        let text = |key: &str| value(answer, key).trim_matches('"').to_owned();
        let (left, right, user, password) = (text("LEFT"), text("RIGHT"), text("USER"), text("PASSWORD"));
        assert_eq!(left, right, "two states of a profile in one answer");
        assert_eq!(user, password, "two versions of a secret in one answer");
        let provenance = answer.provenance.as_ref().unwrap();
        let (n, used) = (left.parse::<usize>().unwrap(), &provenance.connections[0]);
        assert_eq!(used.name, ["one", "two"][n % 2], "profile and override of two states, at {n}");
        assert_eq!(user.split_once('-').unwrap().0, used.name, "the secret of another connection");
        let known = *self.profiles.entry(provenance.profile_version).or_insert(n);
        assert_eq!(known, n, "two states of profile version {}", provenance.profile_version);
        let version = (used.name.clone(), used.secret_version);
        let known = self.secrets.entry(version).or_insert_with(|| user.clone());
        assert_eq!(*known, user, "two values of one version of the secret of {}", used.name);
        assert!(provenance.profile_version >= self.last_profile, "version {} came back", provenance.profile_version);
    }
}

/// Reads one by one and by the batch, until all have read enough.
async fn read(mut client: Client, reads: &AtomicUsize) -> usize {
    let mut learned = Learned::default();
    let mut single = asking("pair");
    single.workflow_id = "flip".into();
    let step = BatchStep { instance_id: "pair".into(), ..Default::default() };
    let batch =
        BatchResolveCredentialsRequest { workflow_id: "flip".into(), steps: vec![step; STEPS], ..Default::default() };
    while reads.load(Ordering::Relaxed) < READS {
        let mut newest = learned.last_profile;
        for _ in 0..STEPS / 10 {
            let answer = client.resolve_credentials(single.clone()).await.unwrap().into_inner();
            learned.check(&answer);
            learned.last_profile = answer.provenance.unwrap().profile_version;
        }
        // The steps of a batch are resolved side by side: none is older than what was known before it.
        for result in client.batch_resolve_credentials(batch.clone()).await.unwrap().into_inner().results {
            let Some(Outcome::Resolution(answer)) = result.outcome else { panic!("{result:?}") };
            learned.check(&answer);
            newest = newest.max(answer.provenance.unwrap().profile_version);
        }
        learned.last_profile = learned.last_profile.max(newest);
        reads.fetch_add(STEPS + STEPS / 10, Ordering::Relaxed);
    }
    learned.profiles.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a8_no_answer_mixes_two_states_however_fast_they_change() {
    let world = World::postgres_and_openbao(&state(0)).await;
    let sidecar = world.sidecar(Clock::System).await;
    let client = sidecar.client(&world.token(&[Scope::McpExecute]).await).await;
    let (reads, flips) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let flipping = async {
        for n in 1.. {
            world.apply(&state(n)).await;
            flips.store(n, Ordering::Relaxed);
        }
    };
    let readers = join_all((0..READERS).map(|_| read(client.clone(), &reads)));
    let seen = tokio::select! {
        () = flipping => unreachable!("it flips for ever"),
        seen = readers => seen,
    };
    let (reads, flips) = (reads.into_inner(), flips.into_inner());
    println!("{reads} answers of {READERS} readers over {flips} flips, of which they saw {seen:?}; none was mixed");
    assert!(flips > 10 && seen.iter().all(|states| *states > 5), "{flips} flips, of which {seen:?} were seen");
}
