//! What a daemon believes, with the clock moved by hand.

use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

use super::{Grant, Issued, RunTokens};
use crate::clock::{Clock, ManualClock};
use crate::config;
use crate::limits;
use crate::model::caller::Binding;
use crate::model::id::{InstanceId, ProjectId, TenantId};
use crate::model::reason::Reason;
use crate::model::refusal::Refusal;
use crate::model::run_token::Presented;
use crate::model::secret::ExposeSecret;
use crate::store::{ProjectRecord, Store, TenantRecord};

const TTL: Duration = limits::RUN_TOKEN_TTL_DEFAULT;

/// One database, one project in it, one clock.
struct World {
    database: config::Database,
    clock: ManualClock,
    store: Store,
    project: ProjectRecord,
    _dir: TempDir,
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let database = config::Database::Sqlite { path: dir.path().join("credway.db") };
        let clock = ManualClock::at("2026-11-22T10:00:00Z".parse().unwrap());
        let store = Store::open(&database, Clock::Manual(clock.clone())).await.unwrap();
        let tenant = TenantRecord { id: TenantId::generate(), slug: "acme".parse().unwrap(), name: "Acme".into() };
        let slug = "payments".parse().unwrap();
        let project = ProjectRecord { id: ProjectId::generate(), tenant: tenant.id, slug, name: "Payments".into() };
        let mut tx = store.begin().await.unwrap();
        tx.tenant_insert(&tenant).await.unwrap();
        tx.project_insert(&project).await.unwrap();
        tx.commit().await.unwrap();
        Self { database, clock, store, project, _dir: dir }
    }

    /// Another daemon on this database.
    fn daemon(&self) -> RunTokens {
        let clock = Clock::Manual(self.clock.clone());
        RunTokens::new(Store::lazy(&self.database, clock.clone()).unwrap(), clock)
    }

    fn grant(&self) -> Grant {
        let binding = Binding {
            instance: InstanceId::generate(),
            workflow: Some("rehearsal".into()),
            step: Some("charge".into()),
        };
        Grant { tenant: self.project.tenant, project: self.project.id, binding }
    }

    async fn issue(&self, daemon: &RunTokens) -> Issued {
        daemon.issue(self.grant(), TTL).await.unwrap()
    }

    async fn revoke(&self) {
        let mut tx = self.store.begin().await.unwrap();
        tx.run_tokens_revoke(&self.project, Clock::Manual(self.clock.clone()).now()).await.unwrap();
        tx.commit().await.unwrap();
    }
}

async fn outcome(daemon: &RunTokens, text: &str) -> Result<(), Reason> {
    daemon.verify(text).await.map(drop).map_err(|refusal: Refusal| refusal.reason)
}

#[tokio::test]
async fn what_one_daemon_issues_another_believes_to_the_letter() {
    let world = World::new().await;
    let (one, other) = (world.daemon(), world.daemon());
    let grant = world.grant();
    let issued = one.issue(grant.clone(), TTL).await.unwrap();
    let claims = other.verify(issued.text.expose_secret()).await.unwrap();
    assert_eq!(
        (claims.id, claims.tenant, claims.project, claims.binding),
        (issued.id, grant.tenant, grant.project, grant.binding)
    );
    assert_eq!(claims.expires_at, issued.expires_at);
    // The keys are known by now: no database is asked.
    other.store.close().await;
    let next = world.issue(&one).await;
    assert_eq!(outcome(&other, next.text.expose_secret()).await, Ok(()));
}

#[tokio::test]
async fn a_token_with_one_character_changed_is_refused() {
    let world = World::new().await;
    let daemon = world.daemon();
    let issued = world.issue(&daemon).await;
    let text = issued.text.expose_secret();
    for at in 0..text.len() {
        let mut changed = text.to_owned();
        changed.replace_range(at..=at, if &text[at..=at] == "x" { "y" } else { "x" });
        assert_eq!(outcome(&daemon, &changed).await, Err(Reason::Unauthenticated), "character {at} changed");
    }
}

#[tokio::test]
async fn a_token_of_another_database_is_refused_and_its_key_looked_for_once() {
    let (world, stranger) = (World::new().await, World::new().await);
    let daemon = world.daemon();
    let foreign = stranger.issue(&stranger.daemon()).await;
    assert_eq!(outcome(&daemon, foreign.text.expose_secret()).await, Err(Reason::Unauthenticated));
    // It is remembered as unknown: the answer is the same with the database gone.
    daemon.store.close().await;
    assert_eq!(outcome(&daemon, foreign.text.expose_secret()).await, Err(Reason::Unauthenticated));
    world.clock.advance(limits::RUN_TOKEN_KEY_UNKNOWN_TTL);
    assert_eq!(outcome(&daemon, foreign.text.expose_secret()).await, Err(Reason::DatabaseUnavailable));
}

#[tokio::test]
async fn a_token_ends_when_it_says() {
    let world = World::new().await;
    let daemon = world.daemon();
    let issued = world.issue(&daemon).await;
    world.clock.advance(TTL - Duration::from_micros(1));
    assert_eq!(outcome(&daemon, issued.text.expose_secret()).await, Ok(()));
    world.clock.advance(Duration::from_micros(1));
    assert_eq!(outcome(&daemon, issued.text.expose_secret()).await, Err(Reason::Unauthenticated));
}

#[tokio::test]
async fn a_key_signs_for_a_day_and_is_believed_until_its_last_token_has_ended() {
    let world = World::new().await;
    let (daemon, other) = (world.daemon(), world.daemon());
    let key = async || {
        let issued = world.issue(&daemon).await;
        (Presented::parse(issued.text.expose_secret()).unwrap().key, issued)
    };
    let (first, _) = key().await;
    world.clock.advance(limits::RUN_TOKEN_KEY_AGE_MAX - Duration::from_secs(1));
    let (same, last_of_first) = key().await;
    assert_eq!(first, same);
    world.clock.advance(Duration::from_secs(1));
    let (second, of_second) = key().await;
    assert_ne!(first, second);
    for issued in [last_of_first, of_second] {
        assert_eq!(outcome(&other, issued.text.expose_secret()).await, Ok(()));
    }
    world.clock.advance(limits::RUN_TOKEN_KEY_KEPT);
    let (_, third) = key().await;
    let left = world.store.run_token_trust(Clock::Manual(world.clock.clone()).now(), third.expires_at).await.unwrap();
    assert_eq!(left.keys.len(), 1, "keys that have ended are removed");
}

#[tokio::test]
async fn while_no_new_key_can_be_published_the_old_one_signs_on_but_not_for_ever() {
    let world = World::new().await;
    let daemon = world.daemon();
    world.issue(&daemon).await;
    daemon.store.close().await;
    world.clock.advance(limits::RUN_TOKEN_KEY_KEPT - TTL);
    world.issue(&daemon).await;
    world.clock.advance(Duration::from_secs(1));
    let refusal = daemon.issue(world.grant(), TTL).await.unwrap_err();
    assert_eq!(refusal.reason, Reason::DatabaseUnavailable);
    assert!(refusal.retry_after.is_some());
}

#[tokio::test]
async fn revoking_ends_the_tokens_of_before_and_of_that_project_only() {
    let world = World::new().await;
    let (daemon, other) = (world.daemon(), world.daemon());
    let (old, elsewhere) = (world.issue(&daemon).await, ProjectId::generate());
    let old = other.verify(old.text.expose_secret()).await.unwrap();
    assert!(!other.is_revoked(old.project, old.issued_at));
    world.revoke().await;
    other.refresh().await.unwrap();
    assert!(other.is_revoked(old.project, old.issued_at));
    assert!(!other.is_revoked(elsewhere, old.issued_at));
    world.clock.advance(Duration::from_micros(1));
    let new = world.issue(&daemon).await;
    let new = other.verify(new.text.expose_secret()).await.unwrap();
    assert!(!other.is_revoked(new.project, new.issued_at));
}

#[tokio::test]
async fn a_daemon_that_comes_later_knows_what_was_revoked() {
    let world = World::new().await;
    let issued = world.issue(&world.daemon()).await;
    world.revoke().await;
    let late = world.daemon();
    let claims = late.verify(issued.text.expose_secret()).await.unwrap();
    assert!(late.is_revoked(claims.project, claims.issued_at));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_makes_one_key_and_each_of_it_sees_what_was_there_before_it_asked() {
    let world = Arc::new(World::new().await);
    let daemon = Arc::new(world.daemon());
    let mut keys = Vec::new();
    for issued in futures_util::future::join_all((0..64).map(|_| world.issue(&daemon))).await {
        keys.push(Presented::parse(issued.text.expose_secret()).unwrap().key);
        assert_eq!(outcome(&daemon, issued.text.expose_secret()).await, Ok(()));
    }
    keys.dedup();
    assert_eq!(keys.len(), 1);
    for _ in 0..20 {
        let fresh = world.daemon();
        let issued = world.issue(&fresh).await;
        let (noise, verdict) = tokio::join!(
            futures_util::future::join_all((0..8).map(|_| daemon.refresh())),
            outcome(&daemon, issued.text.expose_secret())
        );
        assert!(noise.into_iter().all(|outcome| outcome.is_ok()));
        assert_eq!(verdict, Ok(()));
    }
}
