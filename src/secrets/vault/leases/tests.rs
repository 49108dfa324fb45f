//! The keeper of leases stepped by hand against a server that issues, and that fails in every way a renewal can.

use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::State;
use axum::http::{StatusCode, Uri};
use secrecy::SecretString;
use tokio::sync::watch;

use super::super::keeper::{Session, Standing, Suspicion, Verdict};
use super::super::wire::Wire;
use super::*;
use crate::clock::ManualClock;
use crate::config::{Vault, VaultAuth};

const TTL: Duration = Duration::from_secs(60);

#[tokio::test]
async fn one_set_of_credentials_serves_all_who_ask_for_as_long_as_they_do() {
    let mut rig = Rig::new(works).await;
    let address = Rig::address();
    let mut ends = Vec::new();
    for _ in 0..60 {
        let document = rig.read(&address).await.unwrap();
        assert_eq!(document.version, 1);
        ends.push(document.expires_at.unwrap());
        assert!(document.expires_at.unwrap() > rig.clock.now(), "it was given after its end");
        rig.run(Duration::from_secs(10)).await;
    }
    assert_eq!(rig.count("issue"), 1);
    let renewals = rig.count("renew");
    assert!((14..=17).contains(&renewals), "{renewals} renewals of 60 s in ten minutes");
    assert!(ends.is_sorted());
}

#[tokio::test]
async fn c4_no_failure_of_renewals_makes_more_than_one_set_of_credentials_for_each_life() {
    for (name, renewal) in RENEWALS {
        let mut rig = Rig::new(renewal).await;
        let address = Rig::address();
        for _ in 0..600 {
            let document = rig.read(&address).await.unwrap();
            assert!(document.expires_at.unwrap() > rig.clock.now(), "{name}: given after its end");
            rig.run(Duration::from_secs(1)).await;
        }
        let issued = rig.made("issue");
        // Replaced in the last sixth of 60 s: between 50 s and 60 s after the one before.
        assert!((10..=13).contains(&issued.len()), "{name}: {} in ten minutes", issued.len());
        for pair in issued.windows(2) {
            let lived = pair[1].since(pair[0]);
            assert!((Duration::from_secs(50)..TTL).contains(&lived), "{name}: replaced after {lived:?}");
        }
    }
}

#[tokio::test]
async fn credentials_that_vault_will_not_renew_are_replaced_at_two_thirds_of_their_life() {
    for (name, script) in [("not renewable", unrenewable as Script), ("at its longest", at_its_longest)] {
        let mut rig = Rig::new(script).await;
        let address = Rig::address();
        while rig.count("issue") < 2 {
            let document = rig.read(&address).await.unwrap();
            assert!(document.expires_at.unwrap() > rig.clock.now(), "{name}: given after its end");
            rig.run(Duration::from_secs(1)).await;
        }
        assert!(rig.keeper.leaving.wakes_at().is_some(), "{name}: the old ones are not watched any more");
        assert_eq!(rig.count("revoke"), 0, "{name}: holders of the old ones could not finish");
    }
}

#[tokio::test]
async fn credentials_that_someone_revoked_are_replaced_when_that_is_known() {
    let mut rig = Rig::new(|path| if is_renewal(path) { (400, NOT_FOUND) } else { works(path) }).await;
    let address = Rig::address();
    assert_eq!(rig.read(&address).await.unwrap().version, 1);
    rig.run(TTL.mul_f64(0.75)).await;
    assert_eq!(rig.read(&address).await.unwrap().version, 2);
}

#[tokio::test]
async fn credentials_that_nobody_asks_for_are_given_back() {
    let mut rig = Rig::new(works).await;
    let address = Rig::address();
    rig.read(&address).await.unwrap();
    rig.run(3 * TTL).await;
    assert_eq!((rig.count("issue"), rig.count("revoke")), (1, 1));
    assert!(rig.keeper.held.is_empty() && rig.keeper.leaving.wakes_at().is_none());
}

#[tokio::test]
async fn it_is_known_whose_credentials_are_leased() {
    let mut rig = Rig::new(works).await;
    let address = Rig::address();
    assert!(rig.leased().is_empty());
    rig.read(&address).await.unwrap();
    assert_eq!(rig.leased(), HashSet::from([address.connection]));
    // One that only runs out is leased too.
    rig.log_in(2);
    rig.settle().await;
    rig.keeper.held.clear();
    assert_eq!(rig.leased(), HashSet::from([address.connection]));
    rig.release(&address).await;
    assert!(rig.leased().is_empty());
}

#[tokio::test]
async fn a_release_that_vault_does_not_hear_is_tried_until_the_lease_has_ended() {
    let mut rig = Rig::new(works).await;
    let address = Rig::address();
    rig.read(&address).await.unwrap();
    rig.set(|_| (503, SEALED));
    rig.release(&address).await;
    rig.run(Duration::from_secs(20)).await;
    assert!((3..10).contains(&rig.count("revoke")), "{} tries in 20 s", rig.count("revoke"));
    rig.set(works);
    rig.run(Duration::from_secs(20)).await;
    assert!(rig.keeper.leaving.wakes_at().is_none());
}

#[tokio::test]
async fn what_was_issued_while_its_connection_was_released_is_given_back() {
    let mut rig = Rig::new(works).await;
    let address = Rig::address();
    let (told, answer) = oneshot::channel();
    rig.keeper.take(Asked::Read { address: address.clone(), told });
    rig.keeper.start_due();
    rig.release(&address).await;
    assert!(answer.await.unwrap().is_err());
    assert_eq!((rig.count("issue"), rig.count("revoke")), (1, 1));
}

#[tokio::test]
async fn a_new_token_of_ours_has_credentials_of_its_own() {
    let mut rig = Rig::new(works).await;
    let address = Rig::address();
    rig.read(&address).await.unwrap();
    rig.log_in(2);
    rig.settle().await;
    assert_eq!(rig.read(&address).await.unwrap().version, 2);
    assert_eq!(rig.count("issue"), 2);
}

#[tokio::test]
async fn credentials_that_come_after_the_token_they_hang_on_was_replaced_are_replaced_too() {
    let mut rig = Rig::new(works).await;
    let (told, answer) = oneshot::channel();
    rig.keeper.take(Asked::Read { address: Rig::address(), told });
    rig.keeper.start_due();
    let late = rig.keeper.calls.next().await.unwrap();
    rig.log_in(2);
    rig.keeper.finish(late);
    assert_eq!(answer.await.unwrap().unwrap().version, 1);
    rig.settle().await;
    assert_eq!(rig.count("issue"), 2);
}

#[tokio::test]
async fn a_failure_answers_all_who_ask_until_the_next_try() {
    let mut rig = Rig::new(|path| if is_issue(path) { (503, SEALED) } else { works(path) }).await;
    let address = Rig::address();
    for _ in 0..100 {
        assert!(rig.read(&address).await.unwrap_err().to_string().ends_with("is sealed"));
    }
    assert_eq!(rig.count("issue"), 1);
    rig.run(limits::LEASE_BACKOFF_MAX).await;
    rig.set(works);
    rig.read(&address).await.unwrap();
}

/// No answer is no proof that nothing was done.
#[tokio::test]
async fn c4_an_issue_without_an_answer_is_not_tried_again_before_vault_answers() {
    let mut rig = Rig::new(|_| (CUT, "")).await;
    let address = Rig::address();
    for _ in 0..60 {
        rig.read(&address).await.unwrap_err();
        rig.run(Duration::from_secs(1)).await;
    }
    let probes = rig.count("health");
    assert!((10..60).contains(&probes), "{probes} looks in a minute");
    assert_eq!(rig.count("issue"), 1);
    rig.set(works);
    rig.run(Duration::from_secs(5)).await;
    rig.read(&address).await.unwrap();
    assert_eq!(rig.count("issue"), 2);
}

#[tokio::test]
async fn there_are_no_more_leases_than_their_bound() {
    let mut rig = Rig::new(works).await;
    for _ in 0..limits::LEASES_MAX {
        let (told, _) = oneshot::channel();
        rig.keeper.take(Asked::Read { address: Rig::address(), told });
    }
    let (told, mut answer) = oneshot::channel();
    rig.keeper.take(Asked::Read { address: Rig::address(), told });
    let refused = answer.try_recv().unwrap().unwrap_err();
    assert!(refused.to_string().contains("holds 1000 leases already"), "{refused}");
}

const ISSUED: &str = r#"{"lease_id":"db/creds/app/1","lease_duration":60,"renewable":true,"data":{"username":"u"}}"#;
const RENEWED: &str = r#"{"lease_id":"db/creds/app/1","lease_duration":60,"renewable":true,"data":null}"#;
const SHORT: &str = r#"{"lease_id":"db/creds/app/1","lease_duration":5,"renewable":true,"data":null}"#;
const FIXED: &str = r#"{"lease_id":"db/creds/app/1","lease_duration":60,"renewable":false,"data":{"username":"u"}}"#;
const NOT_FOUND: &str = r#"{"errors":["lease not found"]}"#;
const DENIED: &str = r#"{"errors":["permission denied"]}"#;
const SEALED: &str = r#"{"errors":["Vault is sealed"]}"#;

/// No status: the connection is cut before an answer.
const CUT: u16 = 0;

type Script = fn(&str) -> (u16, &'static str);

fn is_issue(path: &str) -> bool {
    path == "/v1/db/creds/app"
}

fn is_renewal(path: &str) -> bool {
    path == "/v1/sys/leases/renew"
}

fn works(path: &str) -> (u16, &'static str) {
    match path {
        "/v1/sys/leases/revoke" => (204, ""),
        "/v1/sys/health" => (200, "{}"),
        path if is_issue(path) => (200, ISSUED),
        path if is_renewal(path) => (200, RENEWED),
        _ => (404, ""),
    }
}

fn unrenewable(path: &str) -> (u16, &'static str) {
    if is_issue(path) { (200, FIXED) } else { works(path) }
}

fn at_its_longest(path: &str) -> (u16, &'static str) {
    if is_renewal(path) { (200, SHORT) } else { works(path) }
}

const RENEWALS: [(&str, Script); 6] =
    [
        ("denied", |path| if is_renewal(path) { (403, DENIED) } else { works(path) }),
        ("refused", |path| if is_renewal(path) { (400, "{}") } else { works(path) }),
        ("sealed", |path| if is_renewal(path) { (503, SEALED) } else { works(path) }),
        ("garbage", |path| if is_renewal(path) { (200, "<html>") } else { works(path) }),
        ("without more life", |path| {
            if is_renewal(path) { (200, r#"{"lease_id":"x","lease_duration":0}"#) } else { works(path) }
        }),
        ("cut", |path| if is_renewal(path) { (CUT, "") } else { works(path) }),
    ];

/// A keeper of leases, its server, and the clock they share.
struct Rig {
    keeper: LeaseKeeper,
    standing: watch::Sender<Standing>,
    wire: Wire,
    time: ManualClock,
    clock: Clock,
    server: Arc<Scripted>,
}

struct Scripted {
    clock: Clock,
    script: Mutex<Script>,
    made: Mutex<Vec<(&'static str, Moment)>>,
}

impl Rig {
    async fn new(script: Script) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let time = ManualClock::at("2026-01-01T00:00:00Z".parse().unwrap());
        let clock = Clock::Manual(time.clone());
        let server = Arc::new(Scripted { clock: clock.clone(), script: script.into(), made: Mutex::default() });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let router = axum::Router::new().fallback(answered).with_state(server.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let settings = Vault {
            address,
            namespace: None,
            mount: "kv".to_owned(),
            prefix: "credway".to_owned(),
            ca_file: None,
            lease_paths: Vec::new(),
            auth: VaultAuth::Token { token: "t".into() },
        };
        let wire = Wire::open(&settings, None, None).unwrap();
        let (standing, seen) = watch::channel(Standing::Starting);
        let (suspicions, mut suspected) = mpsc::channel::<Suspicion>(limits::VAULT_SUSPICIONS_MAX);
        // Our own token is always alive here.
        tokio::spawn(async move {
            while let Some(suspicion) = suspected.recv().await {
                let _ = suspicion.verdict.send(Verdict::Alive);
            }
        });
        let access = Access { vault: "http://vault".into(), standing: seen, suspicions };
        let keeper = LeaseKeeper::new(access, clock.clone());
        let mut rig = Self { keeper, standing, wire, time, clock, server };
        rig.log_in(1);
        rig
    }

    fn log_in(&mut self, generation: u64) {
        let channel = || self.wire.with_token(&SecretString::from("t"));
        let session = Session { channel: channel(), outside: channel(), generation, ends_at: None };
        self.standing.send_replace(Standing::Held(Arc::new(session)));
        self.keeper.login_may_have_changed();
    }

    /// Another connection each time.
    fn address() -> SecretAddress {
        SecretAddress {
            tenant: "acme".parse().unwrap(),
            project: "main".parse().unwrap(),
            connection: ConnectionId::generate(),
            source: Some("db/creds/app".parse().unwrap()).into(),
        }
    }

    async fn read(&mut self, address: &SecretAddress) -> Told {
        let (told, mut answer) = oneshot::channel();
        self.keeper.take(Asked::Read { address: address.clone(), told });
        self.settle().await;
        answer.try_recv().expect("nothing is under way any more")
    }

    fn leased(&mut self) -> HashSet<ConnectionId> {
        let (told, mut connections) = oneshot::channel();
        self.keeper.take(Asked::Leased { told });
        connections.try_recv().unwrap()
    }

    async fn release(&mut self, address: &SecretAddress) {
        self.keeper.take(Asked::Release { connection: address.connection });
        self.settle().await;
    }

    /// Does all that is due now.
    async fn settle(&mut self) {
        self.keeper.start_due();
        while let Some(call) = self.keeper.calls.next().await {
            self.keeper.finish(call);
            self.keeper.start_due();
        }
    }

    /// Lets `span` pass, with all that is due on the way.
    async fn run(&mut self, span: Duration) {
        let end = self.clock.moment() + span;
        loop {
            let (wait, left) = (self.keeper.wait(), end.since(self.clock.moment()));
            if wait > left {
                self.time.advance(left);
                return;
            }
            self.time.advance(wait);
            self.settle().await;
        }
    }

    fn set(&self, script: Script) {
        *self.server.script.lock().unwrap_or_else(PoisonError::into_inner) = script;
    }

    /// When requests of this kind were made.
    fn made(&self, kind: &str) -> Vec<Moment> {
        let made = self.server.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.iter().filter(|(of, _)| *of == kind).map(|(_, at)| *at).collect()
    }

    fn count(&self, kind: &str) -> usize {
        self.made(kind).len()
    }
}

async fn answered(State(server): State<Arc<Scripted>>, uri: Uri) -> (StatusCode, &'static str) {
    let kind = match uri.path() {
        "/v1/sys/leases/renew" => "renew",
        "/v1/sys/leases/revoke" => "revoke",
        "/v1/sys/health" => "health",
        _ => "issue",
    };
    server.made.lock().unwrap_or_else(PoisonError::into_inner).push((kind, server.clock.moment()));
    let (status, body) = (server.script.lock().unwrap_or_else(PoisonError::into_inner))(uri.path());
    assert!(status != CUT, "a handler that panics cuts its connection");
    (StatusCode::from_u16(status).unwrap(), body)
}
