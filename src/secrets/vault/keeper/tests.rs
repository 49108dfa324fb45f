//! The keeper stepped by hand against a server that fails in every way: how often it asks, and that it heals.

use std::sync::{Mutex, PoisonError};

use axum::extract::State;
use axum::http::{StatusCode, Uri};
use secrecy::SecretString;

use super::*;
use crate::clock::ManualClock;

#[test]
fn a_token_is_renewed_while_that_is_worth_it() {
    let seconds = |s| Some(Duration::from_secs(s));
    let grant = |ttl, renewable| Grant { token: SecretString::from("t"), ttl, renewable };
    let table = [
        (None, false, None, false, Plan::Keep),
        (None, true, None, true, Plan::Keep),
        (seconds(60), true, seconds(60), false, Plan::Renew),
        (seconds(30), true, seconds(60), false, Plan::Renew),
        (seconds(29), true, seconds(60), false, Plan::LogIn),
        (seconds(29), true, seconds(60), true, Plan::Renew),
        (seconds(60), false, seconds(60), false, Plan::LogIn),
    ];
    for (ttl, renewable, first_ttl, is_given, expected) in table {
        let planned = plan(&grant(ttl, renewable), first_ttl, is_given);
        assert_eq!(planned, expected, "{ttl:?}, renewable: {renewable}, first {first_ttl:?}, given: {is_given}");
    }
}

#[tokio::test]
async fn c1_no_failure_of_vault_makes_more_than_ten_requests_in_a_minute_and_all_heal() {
    for (name, failure) in FAILURES {
        let mut rig = Rig::new(failure).await;
        rig.run(Duration::from_secs(600)).await;
        assert!(rig.made().len() > 10, "{name}: it gave up");
        for from in rig.made() {
            let within = |at: &&Moment| **at >= from && at.since(from) < Duration::from_secs(60);
            let count = rig.made().iter().filter(within).count();
            assert!(count <= 10, "{name}: {count} requests in 60 s");
        }
        rig.set(works);
        rig.run(Duration::from_secs(120)).await;
        assert!(matches!(&*rig.standing.borrow(), Standing::Held(_)), "{name}: it did not heal");
    }
}

/// In paused time a request that gets no answer takes its deadline at once. Counted by the minute; that no other span of 60 s
/// holds more is shown of the pace itself. It pauses for 36 s at most: some minutes hold one try only, and five of them eight.
#[tokio::test(start_paused = true)]
async fn c1_a_vault_that_hangs_or_is_gone_is_asked_ten_times_a_minute_at_most() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let mut rig = Rig::at(listener.local_addr().unwrap(), works);
    let is_kept_to =
        |minutes: &[usize]| minutes.iter().all(|count| (1..=10).contains(count)) && minutes.iter().sum::<usize>() >= 8;
    let mut heard = [0; 5];
    for minute in &mut heard {
        rig.run(Duration::from_secs(60)).await;
        // Each request that got no answer had a connection of its own, which the kernel keeps for us.
        *minute = std::iter::from_fn(|| listener.accept().ok()).count();
    }
    assert!(is_kept_to(&heard), "{heard:?} requests by the minute");
    drop(listener);
    let mut tries = [0; 5];
    for minute in &mut tries {
        *minute = rig.run(Duration::from_secs(60)).await;
    }
    assert!(is_kept_to(&tries), "{tries:?} logins by the minute");
}

#[tokio::test]
async fn c3_the_life_of_our_token_is_what_logins_and_renewals_grant_whatever_a_look_up_says() {
    let mut rig = Rig::new(|path| match path {
        "/v1/auth/token/lookup-self" => (200, r#"{"data":{"renewable":true,"ttl":5,"creation_ttl":5,"period":5}}"#),
        path => works(path),
    })
    .await;
    let ends_at = |rig: &Rig| match &*rig.standing.borrow() {
        Standing::Held(session) => session.ends_at,
        _ => None,
    };
    let begun = rig.clock.moment();
    rig.run(Duration::from_secs(1)).await;
    rig.doubt(&[1]).await;
    assert_eq!(ends_at(&rig), Some(begun + Duration::from_secs(60)), "after the login");
    rig.run(Duration::from_secs(49)).await;
    rig.doubt(&[1]).await;
    let after = ends_at(&rig).unwrap().since(begun);
    assert!((96..=102).contains(&after.as_secs()), "after the renewal: {after:?}");
}

#[tokio::test]
async fn renewals_that_work_are_never_held_back() {
    let mut rig = Rig::new(works).await;
    rig.run(Duration::from_secs(3600)).await;
    let renewals = rig.made().len() - 2;
    assert!((85..=100).contains(&renewals), "{renewals} renewals of a token of 60 s in an hour");
    assert!(matches!(&*rig.standing.borrow(), Standing::Held(session) if session.generation == 1));
}

#[tokio::test]
async fn a_token_is_used_to_its_end_while_renewals_fail() {
    let mut rig = Rig::new(works).await;
    rig.run(Duration::from_secs(1)).await;
    rig.set(|_| (503, ""));
    rig.run(Duration::from_secs(50)).await;
    assert!(matches!(&*rig.standing.borrow(), Standing::Held(_)));
    rig.run(Duration::from_secs(60)).await;
    assert!(matches!(&*rig.standing.borrow(), Standing::Lost(_)));
}

#[tokio::test]
async fn of_many_doubts_the_old_ones_need_no_look_up() {
    let mut rig = Rig::new(works).await;
    rig.run(Duration::from_secs(1)).await;
    let before = rig.made().len();
    let verdicts = rig.doubt(&[1, 1, 0]).await;
    assert!(matches!(verdicts[..], [Verdict::Alive, Verdict::Alive, Verdict::Replaced]));
    assert_eq!(rig.made().len() - before, 1);
}

const LOGIN: &str = r#"{"auth":{"client_token":"s.token","lease_duration":60,"renewable":true}}"#;
const MOUNT: &str = r#"{"data":{"type":"kv","options":{"version":"2"}}}"#;
const DENIED: &str = r#"{"errors":["permission denied"]}"#;

type Script = fn(&str) -> (u16, &'static str);

fn works(path: &str) -> (u16, &'static str) {
    match path {
        "/v1/auth/approle/login" | "/v1/auth/token/renew-self" => (200, LOGIN),
        "/v1/auth/token/lookup-self" => (200, r#"{"data":{"renewable":true}}"#),
        "/v1/sys/internal/ui/mounts/kv" => (200, MOUNT),
        _ => (404, ""),
    }
}

const FAILURES: [(&str, Script); 9] = [
    ("sealed", |_| (503, r#"{"errors":["Vault is sealed"]}"#)),
    ("garbage", |_| (200, "<html>")),
    ("a token that no header can hold", |_| {
        (200, r#"{"auth":{"client_token":"a\nb","lease_duration":60,"renewable":true}}"#)
    }),
    ("everything refused", |_| (403, DENIED)),
    ("a login and nothing else", |path| if path.ends_with("/login") { (200, LOGIN) } else { (403, DENIED) }),
    ("tokens that are dead at once", |path| {
        if path.ends_with("/login") || path.contains("mounts") { works(path) } else { (403, DENIED) }
    }),
    ("tokens that are dead at once and end soon", |path| match path {
        path if path.ends_with("/login") => {
            (200, r#"{"auth":{"client_token":"s.t","lease_duration":1,"renewable":true}}"#)
        }
        path if path.contains("mounts") => (200, MOUNT),
        _ => (403, DENIED),
    }),
    ("renewals fail", |path| if path.contains("auth") { (500, "") } else { works(path) }),
    ("a mount of version 1", |path| {
        if path.contains("mounts") { (200, r#"{"data":{"type":"kv","options":{"version":"1"}}}"#) } else { works(path) }
    }),
];

/// A keeper, its server, and the clock they share.
struct Rig {
    keeper: Keeper,
    standing: watch::Receiver<Standing>,
    time: ManualClock,
    clock: Clock,
    server: Arc<Scripted>,
    _secret_id: tempfile::NamedTempFile,
}

struct Scripted {
    clock: Clock,
    script: Mutex<Script>,
    made: Mutex<Vec<Moment>>,
}

impl Rig {
    async fn new(script: Script) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let rig = Self::at(listener.local_addr().unwrap(), script);
        let router = axum::Router::new().fallback(answered).with_state(rig.server.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        rig
    }

    /// A keeper of a server that someone else runs.
    fn at(address: std::net::SocketAddr, script: Script) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let time = ManualClock::at("2026-01-01T00:00:00Z".parse().unwrap());
        let clock = Clock::Manual(time.clone());
        let server = Arc::new(Scripted { clock: clock.clone(), script: script.into(), made: Mutex::default() });
        let address = format!("http://{address}").parse().unwrap();
        let secret_id = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(secret_id.path(), "secret-id").unwrap();
        let auth = VaultAuth::AppRole {
            mount: "approle".to_owned(),
            role_id: "role".to_owned(),
            secret_id_file: secret_id.path().to_owned(),
        };
        let (mount, prefix) = ("kv".to_owned(), "credway".to_owned());
        let settings = Vault { address, namespace: None, mount, prefix, ca_file: None, lease_paths: Vec::new(), auth };
        let wire = Wire::open(&settings, None, None).unwrap();
        let (sender, standing) = watch::channel(Standing::Starting);
        let keeper = Keeper::new(settings, clock.clone(), None, wire, sender);
        Self { keeper, standing, time, clock, server, _secret_id: secret_id }
    }

    /// Steps the keeper through `span` as its task would; callers doubt each token as soon as they have it. Returns how many
    /// steps there were.
    async fn run(&mut self, span: Duration) -> usize {
        let end = self.clock.moment() + span;
        for steps in 0.. {
            let wait = self.keeper.next_at.since(self.clock.moment());
            let left = end.since(self.clock.moment());
            if wait > left {
                self.time.advance(left);
                return steps;
            }
            self.time.advance(wait);
            self.keeper.step().await;
            if matches!(&*self.standing.borrow(), Standing::Held(_)) {
                let generation = self.keeper.generation;
                if (self.script())("/v1/auth/token/lookup-self").0 == 403 {
                    self.doubt(&[generation]).await;
                }
            }
            assert!(self.keeper.next_at > self.clock.moment(), "it would not wait at all");
        }
        unreachable!("the steps have no end")
    }

    async fn doubt(&mut self, generations: &[u64]) -> Vec<Verdict> {
        let (doubts, verdicts): (Vec<_>, Vec<_>) = generations
            .iter()
            .map(|generation| {
                let (verdict, judged) = oneshot::channel();
                (Suspicion { generation: *generation, verdict }, judged)
            })
            .unzip();
        self.keeper.judge(doubts).await;
        futures_util::future::join_all(verdicts).await.into_iter().map(Result::unwrap).collect()
    }

    fn set(&self, script: Script) {
        *self.server.script.lock().unwrap_or_else(PoisonError::into_inner) = script;
    }

    fn script(&self) -> Script {
        *self.server.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When each request was made.
    fn made(&self) -> Vec<Moment> {
        self.server.made.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn answered(State(server): State<Arc<Scripted>>, uri: Uri) -> (StatusCode, &'static str) {
    server.made.lock().unwrap_or_else(PoisonError::into_inner).push(server.clock.moment());
    let (status, body) = (server.script.lock().unwrap_or_else(PoisonError::into_inner))(uri.path());
    (StatusCode::from_u16(status).unwrap(), body)
}
