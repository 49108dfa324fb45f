//! Where a daemon is killed or stopped: one connection for each step of a refresh, at which that daemon stands when it happens,
//! and another daemon that has the same connections.

use std::time::Duration;

use sqlx::{ConnectOptions, Connection, PgConnection, postgres::PgConnectOptions};
use tokio::sync::{Mutex, OnceCell, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::rig::{Sidecar, Site, seconds};
use crate::support::daemon::{Client, key_of};
use crate::support::gate::{Fate, Gate};
use crate::support::oidc::Oidc;
use crate::support::openbao::{Bao, until};
use crate::support::postgres::Postgres;

/// What a provider does with refresh tokens.
pub(super) struct Profile {
    pub(super) name: &'static str,
    rotation: &'static str,
    is_rotating: bool,
    grace: Duration,
}

/// Okta's grace, the shortest that providers are known for.
const GRACE: Duration = Duration::from_secs(30);

pub(super) const NO_GRACE: Profile =
    Profile { name: "no grace", rotation: r#"{ kind = "old_dies" }"#, is_rotating: true, grace: Duration::ZERO };

pub(super) const PROFILES: [Profile; 3] = [
    NO_GRACE,
    Profile { name: "grace", rotation: r#"{ kind = "grace", seconds = 30 }"#, is_rotating: true, grace: GRACE },
    Profile { name: "none", rotation: r#"{ kind = "none" }"#, is_rotating: false, grace: Duration::ZERO },
];

/// A boundary between two steps (reliability, 5.2), and what becomes of the daemon's requests until it stands there.
pub(super) struct Step {
    pub(super) name: &'static str,
    /// Of its requests for the secret: to serve it, to refresh it, to write the intent, to write the new tokens.
    secrets: &'static [Fate],
    /// Of its request for tokens.
    tokens: &'static [Fate],
    /// Whether the database holds its row.
    is_row: bool,
}

const fn step(name: &'static str, secrets: &'static [Fate], tokens: &'static [Fate]) -> Step {
    Step { name, secrets, tokens, is_row: false }
}

/// After 8 nothing is different from before 9, nor is after 7 from before 8: what was read and not spooled is nowhere.
pub(super) static STEPS: [Step; 9] = [
    step("before the lease", &[Fate::HoldRequest], &[]),
    step("after the lease", &[Fate::Pass, Fate::HoldRequest], &[]),
    step("before the intent", &[Fate::Pass, Fate::Pass, Fate::HoldRequest], &[]),
    step("after the intent", &[Fate::Pass, Fate::Pass, Fate::HoldAnswer], &[]),
    step("before the first byte", &[], &[Fate::HoldRequest]),
    step("after the last byte", &[], &[Fate::HoldSent]),
    step("before the spool", &[], &[Fate::HoldAnswer]),
    step("before the commit", &[Fate::Pass, Fate::Pass, Fate::Pass, Fate::HoldRequest], &[]),
    step("after the commit", &[Fate::Pass, Fate::Pass, Fate::Pass, Fate::HoldAnswer], &[]),
];

pub(super) static ROW: [Step; 1] = [Step { name: "before the row", secrets: &[], tokens: &[], is_row: true }];

/// This machine runs other tests meanwhile, a start of the daemon takes a second, and whoever waits looks every two.
pub(super) const SLACK: u64 = 15;

/// What callers are to have left of a token, by default.
const LIFE_LEAST: u64 = 60;
/// For how long the old token is handed out yet: longer than a lease, and shorter than the hold-off, so that it is seen that
/// nobody is refused before, and that nobody probes while it works.
const SERVED: u64 = 25;

/// How long an end is waited for.
const PATIENCE: Duration = Duration::from_secs(200);

pub(super) struct Stage<'a> {
    oidc: Oidc,
    pub(super) site: Site<'a>,
    pub(super) steps: &'static [Step],
    bao_gate: Gate,
    pub(super) victim: Sidecar,
    other: Sidecar,
    /// In whose transaction rows are locked.
    lock: Mutex<PgConnection>,
    asking: Vec<JoinHandle<()>>,
    served_until: Instant,
}

/// What daemons need.
pub(super) struct Servers {
    bao: &'static Bao,
    /// Their own, for they are many.
    postgres: Postgres,
    /// So many stages are set at once, so that each is set before a deadline of its daemon's passes.
    places: Semaphore,
}

impl Servers {
    pub(super) async fn start() -> Self {
        Self { bao: Bao::shared().await, postgres: Postgres::own().await, places: Semaphore::new(3) }
    }
}

/// What came of one step.
pub(super) struct Came {
    pub(super) is_lost: bool,
    /// In seconds, from when the daemon was killed or stopped.
    pub(super) after: u64,
    /// How often somebody was refused while the old token was good.
    pub(super) gaps: usize,
    pub(super) last: String,
}

impl<'a> Stage<'a> {
    /// With the first daemon at each of `steps`, each by a connection of its own.
    pub(super) async fn set(servers: &'a Servers, profile: &Profile, steps: &'static [Step]) -> Self {
        let bao = servers.bao;
        let _place = servers.places.acquire().await.unwrap();
        let oidc = super::rig::provider().await;
        oidc.rotates(profile.is_rotating).await;
        oidc.gives_grace(profile.grace).await;
        let url = servers.postgres.database().await;
        let site = Site::new(&oidc, bao, profile.rotation, Some(url.clone()), steps.len()).await;
        let bao_gate = Gate::before(bao.url(), site.secrets()).await;
        bao_gate.open();
        let behind = bao_gate.url.to_string();
        let held = [("secret_store.vault.address", behind.trim_end_matches('/'))];
        let (other, victim) = tokio::join!(site.sidecar(&[]), site.sidecar(&held));
        let database: PgConnectOptions = url.parse().unwrap();
        let (mut lock, mut watch) = (database.connect().await.unwrap(), database.connect().await.unwrap());
        sqlx::raw_sql("BEGIN").execute(&mut lock).await.unwrap();
        for (nth, (step, id)) in steps.iter().zip(site.ids().await).enumerate() {
            bao_gate.next_of(&id, step.secrets.iter().copied());
            site.gate.next_of(&site.minted[nth].refresh_token, step.tokens.iter().copied());
            if step.is_row {
                let hold = "SELECT 1 FROM connections WHERE id = $1 FOR NO KEY UPDATE";
                sqlx::query(hold).bind(id).execute(&mut lock).await.unwrap();
            }
        }
        let served_until = Instant::now() + Duration::from_secs(SERVED);
        site.tokens_live(Duration::from_secs(LIFE_LEAST + SERVED)).await;
        let ask = |nth: usize| {
            let client = victim.client.clone();
            tokio::spawn(async move { drop(key_of(&mut client.clone(), &format!("c{nth}")).await) })
        };
        let asking = (0..steps.len()).map(ask).collect();
        bao_gate.until_held(steps.iter().filter(|step| !step.secrets.is_empty()).count()).await;
        site.gate.until_held(steps.iter().filter(|step| !step.tokens.is_empty()).count()).await;
        if steps.iter().any(|step| step.is_row) {
            until("the row is waited for", async || waiting(&mut watch).await == 1).await;
        }
        let lock = Mutex::new(lock);
        let stage = Self { oidc, site, steps, bao_gate, victim, other, lock, asking, served_until };
        stage.until_carried_out(profile).await;
        let _ = watch.close().await;
        stage
    }

    /// Where it is to be seen, the provider has done what it was asked and whose answer is held.
    async fn until_carried_out(&self, profile: &Profile) {
        for (step, minted) in self.steps.iter().zip(&self.site.minted) {
            if step.tokens == [Fate::HoldSent] && profile.name == NO_GRACE.name {
                let is_spent = async || !self.oidc.is_alive(&minted.refresh_token).await;
                until("the token is spent", is_spent).await;
            }
        }
    }

    /// Nothing goes on that the first daemon began.
    pub(super) async fn cut(&mut self) {
        for asking in self.asking.drain(..) {
            asking.abort();
        }
        self.bao_gate.cut();
        self.site.gate.cut();
        self.let_rows_go().await;
    }

    /// What others had in hand when the first daemon was stopped goes on: answers come to it.
    pub(super) fn let_answers_come(&self) {
        self.bao_gate.release_answers();
        self.site.gate.release_answers();
    }

    /// What it had sent goes on, as if it had been stopped in the middle of that.
    pub(super) async fn let_requests_go(&self) {
        self.bao_gate.release_requests();
        self.site.gate.release_requests();
        self.let_rows_go().await;
    }

    async fn let_rows_go(&self) {
        sqlx::raw_sql("ROLLBACK").execute(&mut *self.lock.lock().await).await.unwrap();
    }

    /// What comes of the `nth` step, as both daemons tell: the other one, and the first once it is `back`.
    pub(super) async fn outcome(&self, nth: usize, began: Instant, back: &OnceCell<Client>) -> Came {
        let (name, old) = (format!("c{nth}"), &self.site.minted[nth].access_token);
        let mut came = Came { is_lost: false, after: 0, gaps: 0, last: "nothing".to_owned() };
        while began.elapsed() < PATIENCE {
            for client in [Some(&self.other.client), back.get()].into_iter().flatten() {
                let answer = key_of(&mut client.clone(), &name).await;
                came.after = seconds(began);
                match answer {
                    Ok(token) if token == *old => {}
                    Ok(token) if self.oidc.is_alive(&token).await => {
                        return Came { last: "recovered".to_owned(), ..came };
                    }
                    Ok(_) => came.last = "a token that is dead".to_owned(),
                    Err(refused) => {
                        came.gaps += usize::from(Instant::now() < self.served_until);
                        if refused.reason == "RECONNECT_REQUIRED" {
                            return Came { is_lost: true, last: "LOST".to_owned(), ..came };
                        }
                        came.last = format!("{refused:?}");
                    }
                }
            }
            sleep(Duration::from_millis(250)).await;
        }
        came
    }

    /// Whether both daemons hand out the same token at last, which works.
    pub(super) async fn agree(&self, nth: usize, back: &Client) -> bool {
        let name = format!("c{nth}");
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(15) {
            let other = key_of(&mut self.other.client.clone(), &name).await;
            let first = key_of(&mut back.clone(), &name).await;
            if let (Ok(other), Ok(first)) = (other, first)
                && other == first
                && self.oidc.is_alive(&other).await
            {
                return true;
            }
            sleep(Duration::from_millis(100)).await;
        }
        false
    }

    /// How often the refresh token of the `nth` connection was sent.
    pub(super) fn sends(&self, nth: usize) -> usize {
        self.site.gate.sends_of(&self.site.minted[nth].refresh_token)
    }

    /// Whether no other one was: what came for them lives for an hour.
    pub(super) fn sent_no_others(&self) -> bool {
        self.site.gate.sends().len() == self.steps.len()
    }
}

/// How many sessions of the database wait for a lock.
async fn waiting(database: &mut PgConnection) -> i64 {
    let count = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    sqlx::query_scalar(count).fetch_one(database).await.unwrap()
}
