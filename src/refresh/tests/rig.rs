//! A provider in memory that does what its rotation says, a secret store with accidents, and daemons between them.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use tempfile::TempDir;
use tokio::sync::Semaphore;

use crate::clock::{Clock, ManualClock};
use crate::config;
use crate::metrics::Metrics;
use crate::model::connection::{Connection, ConnectionState, Status};
use crate::model::id::{ConnectionId, ProjectId, TenantId};
use crate::model::oauth::{TokenState, field};
use crate::model::secret::{ExposeSecret, SecretAddress, SecretDocument, SecretFields, SecretSource, SecretString};
use crate::oauth::{Reply, TokenError, TokenErrorKind};
use crate::refresh::attempt::Attempted;
use crate::refresh::decide::Want;
use crate::refresh::{Means, NotAsked, OpenEndpoint, Order, Refresher, TokenEndpoint};
use crate::secrets::sealed::SealedStore;
use crate::secrets::{SecretError, SecretStore};
use crate::store::{ProjectRecord, Store, TenantRecord, TokensFound};
use crate::templates::Catalogue;

pub(super) const LIFE: Duration = Duration::from_secs(3600);
/// From here on every daemon finds a token of that life due.
pub(super) const DUE: Duration = Duration::from_secs(2750);

/// The templates, each with its rotation as TOML.
const TEMPLATES: [(&str, &str, &str); 6] = [
    ("none", "authorization_code", r#"{ kind = "none" }"#),
    ("stays", "authorization_code", r#"{ kind = "old_stays" }"#),
    ("grace", "authorization_code", r#"{ kind = "grace", seconds = 30 }"#),
    ("dies", "authorization_code", r#"{ kind = "old_dies" }"#),
    ("dies-with-access", "authorization_code", r#"{ kind = "old_dies_with_access" }"#),
    ("minted", "client_credentials", r#"{ kind = "none" }"#),
];

pub(super) struct Rig {
    pub(super) dir: TempDir,
    pub(super) store: Store,
    pub(super) secrets: Arc<Shelf>,
    pub(super) idp: Arc<Idp>,
    pub(super) clock: ManualClock,
    pub(super) project: ProjectRecord,
    catalogue: Catalogue,
}

impl Rig {
    pub(super) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = ManualClock::at("2026-11-22T12:00:00Z".parse().unwrap());
        let database = config::Database::Sqlite { path: dir.path().join("credway.db") };
        let store = Store::open(&database, Clock::Manual(clock.clone())).await.unwrap();
        let sealed = SealedStore::open(store.clone(), &dir.path().join("master.key")).await.unwrap();
        let tenant = TenantRecord { id: TenantId::generate(), slug: "acme".parse().unwrap(), name: "Acme".into() };
        let project = ProjectRecord {
            id: ProjectId::generate(),
            tenant: tenant.id,
            slug: "shop".parse().unwrap(),
            name: "Shop".into(),
        };
        let mut tx = store.begin().await.unwrap();
        tx.tenant_insert(&tenant).await.unwrap();
        tx.project_insert(&project).await.unwrap();
        tx.commit().await.unwrap();
        let templates = dir.path().join("templates");
        std::fs::create_dir(&templates).unwrap();
        for (name, grant, rotation) in TEMPLATES {
            let authorize = match grant {
                "authorization_code" => "authorize_url = \"https://idp.example/authorize\"",
                _ => "",
            };
            let text = format!(
                "name = \"{name}\"\ndisplay_name = \"X\"\nprovider = \"x\"\nauth_kind = \"oauth2\"\nopen = true\n[oauth]\n\
                 grant = \"{grant}\"\n{authorize}\ntoken_url = \"https://idp.example/token\"\nrotation = {rotation}\n"
            );
            std::fs::write(templates.join(format!("{name}.toml")), text).unwrap();
        }
        let catalogue = Catalogue::with_directory(&templates).unwrap();
        let killer = Arc::new(Killer::default());
        let secrets = Arc::new(Shelf {
            inner: sealed,
            is_down: AtomicBool::new(false),
            is_read_only: AtomicBool::new(false),
            slow_writes: Mutex::default(),
            late_reads: Mutex::default(),
            clock: clock.clone(),
            killer: Arc::clone(&killer),
        });
        let idp = Arc::new(Idp::new(clock.clone(), killer));
        Self { dir, store, secrets, idp, clock, project, catalogue }
    }

    /// A connection with its first tokens.
    pub(super) async fn connect(&self, template: &str) -> SecretAddress {
        let id = ConnectionId::generate();
        let connection = Connection {
            id,
            name: id.to_string(),
            template: template.into(),
            provider: "x".into(),
            service: None,
            account_label: None,
            fields: BTreeSet::from([field::ACCESS_TOKEN.to_owned()]),
            source: SecretSource::Stored,
            environment: None,
            services: None,
            status: Status { state: ConnectionState::Active, reason: None, since: Timestamp::UNIX_EPOCH },
            version: 1,
        };
        let mut tx = self.store.begin().await.unwrap();
        tx.connection_insert(&self.project, &connection).await.unwrap();
        tx.connection_refreshed(&self.project, id, 1, None).await.unwrap();
        tx.commit().await.unwrap();
        let address = SecretAddress {
            tenant: "acme".parse().unwrap(),
            project: "shop".parse().unwrap(),
            connection: id,
            source: SecretSource::Stored,
        };
        let mut fields = SecretFields::from([("client_id".to_owned(), SecretString::from("us"))]);
        if template != "minted" {
            let pair = [(field::ACCESS_TOKEN, "at 1".to_owned()), (field::REFRESH_TOKEN, format!("{id}/1"))];
            fields.extend(pair.map(|(name, value)| (name.to_owned(), SecretString::from(value))));
            let now = self.now();
            let state =
                TokenState { generation: 1, obtained_at: now, expires_at: Some(now + LIFE), ..TokenState::none() };
            state.put(&mut fields);
        }
        self.idp.books().families.insert(id.to_string(), Family { template: template.into(), ..Family::default() });
        self.secrets.inner.write(&address, &fields, 0).await.unwrap();
        address
    }

    /// A daemon with a spool of its own, named `name`.
    pub(super) async fn daemon(&self, name: &str) -> Refresher {
        let (spool, means) = self.means(name);
        Refresher::start(&spool, means).await.unwrap()
    }

    /// What the daemon of that name works with.
    pub(super) fn means(&self, name: &str) -> (PathBuf, Means) {
        let means = Means {
            store: self.store.clone(),
            secrets: Arc::clone(&self.secrets) as Arc<dyn SecretStore>,
            endpoint: Arc::clone(&self.idp) as Arc<dyn TokenEndpoint>,
            catalogue: self.catalogue.clone(),
            clock: Clock::Manual(self.clock.clone()),
            metrics: Metrics::new(),
        };
        (self.dir.path().join(name), means)
    }

    pub(super) fn now(&self) -> Timestamp {
        Clock::Manual(self.clock.clone()).now()
    }

    pub(super) async fn state(&self, address: &SecretAddress) -> TokenState {
        TokenState::of(&self.fields(address).await).unwrap()
    }

    pub(super) async fn fields(&self, address: &SecretAddress) -> SecretFields {
        self.secrets.inner.read(address).await.unwrap().fields
    }

    pub(super) async fn row(&self, address: &SecretAddress) -> TokensFound {
        self.store.connection_tokens(address.connection).await.unwrap().unwrap()
    }

    /// State and reason of a connection, as people see them.
    pub(super) async fn status(&self, address: &SecretAddress) -> String {
        let Status { state, reason, .. } = self.row(address).await.status;
        format!("{state} {}", reason.unwrap_or_default()).trim().to_owned()
    }

    pub(super) fn spooled(&self, daemon: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.path().join(daemon)).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name != "key").map(|name| name.rsplit('.').next().unwrap().to_owned()).collect()
    }
}

/// One attempt, without the flight around it.
pub(super) async fn attempt(daemon: &Refresher, address: &SecretAddress) -> Attempted {
    daemon.0.engine.attempt(address, Want::Ahead).await
}

/// Returns once `is_so`; the test fails if that takes too long.
pub(super) async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(20), async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(waited.await.is_ok(), "{what} did not happen");
}

/// The provider.
pub(super) struct Idp {
    books: Mutex<Books>,
    clock: ManualClock,
    killer: Arc<Killer>,
    /// Connections that were asked for.
    pub(super) opened: AtomicUsize,
    /// Requests that were begun.
    pub(super) asked: AtomicUsize,
}

#[derive(Default)]
pub(super) struct Books {
    families: HashMap<String, Family>,
    /// How often each refresh token came in.
    pub(super) sends: BTreeMap<String, usize>,
    pub(super) script: VecDeque<Fault>,
    /// The life of access tokens.
    pub(super) life: Option<Duration>,
}

/// The refresh tokens of one grant.
#[derive(Default)]
struct Family {
    template: String,
    /// The newest, less one.
    turns: u64,
    turned_at: Option<Timestamp>,
    is_dead: bool,
}

/// What goes wrong with the next request.
#[derive(Clone)]
pub(super) enum Fault {
    Unreachable,
    Answer(TokenErrorKind, Option<Duration>),
    /// The request is lost.
    SilentBefore,
    /// The answer is lost.
    SilentAfter,
    /// The answer takes until there is a permit.
    Slow(Arc<Semaphore>),
    /// The request is carried out only then.
    SlowBefore(Arc<Semaphore>),
    /// The answer has a refresh token alone.
    NoAccess,
}

impl Idp {
    fn new(clock: ManualClock, killer: Arc<Killer>) -> Self {
        let books = Books { life: Some(LIFE), ..Books::default() };
        let (opened, asked) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Self { books: Mutex::new(books), clock, killer, opened, asked }
    }

    pub(super) fn books(&self) -> std::sync::MutexGuard<'_, Books> {
        self.books.lock().unwrap()
    }

    pub(super) fn expect(&self, faults: impl IntoIterator<Item = Fault>) {
        self.books().script.extend(faults);
    }

    pub(super) fn sends(&self) -> usize {
        self.books().sends.values().sum()
    }

    /// The most often that one refresh token came in.
    pub(super) fn most_sends(&self) -> usize {
        self.books().sends.values().copied().max().unwrap_or(0)
    }

    /// Whether the provider gives nothing for this grant any more.
    pub(super) fn is_dead(&self, address: &SecretAddress) -> bool {
        self.books().families[&address.connection.to_string()].is_dead
    }

    /// A person withdraws the grant.
    pub(super) fn revoke(&self, address: &SecretAddress) {
        self.books().families.get_mut(&address.connection.to_string()).unwrap().is_dead = true;
    }

    fn carry_out(&self, sent: &str) -> Result<Reply, TokenError> {
        let now = Clock::Manual(self.clock.clone()).now();
        let mut books = self.books();
        let life = books.life;
        let dead = || Err(TokenErrorKind::GrantDead.into());
        let Some((name, number)) = sent.rsplit_once('/') else {
            return Ok(Reply::of("at minted", None, life));
        };
        let number: u64 = number.parse().unwrap();
        let family = books.families.get_mut(name).unwrap();
        let current = family.turns + 1;
        let is_recent = family.turned_at.is_some_and(|at| now.duration_since(at).as_secs() < 30);
        let is_taken = match family.template.as_str() {
            "none" | "stays" => true,
            "grace" => number == current || (number + 1 == current && is_recent),
            _ => number == current,
        };
        if family.is_dead || !is_taken {
            // Who sends an old one is a thief, or robbed.
            family.is_dead = true;
            return dead();
        }
        if family.template == "none" {
            family.turns += 1;
            return Ok(Reply::of(&format!("at {}", family.turns + 1), None, life));
        }
        (family.turns, family.turned_at) = (family.turns + 1, Some(now));
        let number = family.turns + 1;
        Ok(Reply::of(&format!("at {number}"), Some(&format!("{name}/{number}")), life))
    }
}

impl TokenEndpoint for Idp {
    fn open<'a>(&'a self, order: Order<'a>) -> BoxFuture<'a, Result<Box<dyn OpenEndpoint + 'a>, NotAsked>> {
        let opening = async move {
            self.opened.fetch_add(1, Ordering::SeqCst);
            let fault = self.books().script.pop_front();
            if matches!(fault, Some(Fault::Unreachable)) {
                return Err(NotAsked::Endpoint(TokenErrorKind::NotSent.into()));
            }
            let sent = order.refresh_token().map_or_else(String::new, |token| token.expose_secret().to_owned());
            Ok(Box::new(Open { idp: self, sent, fault }) as Box<dyn OpenEndpoint + 'a>)
        };
        self.killer.step(opening).boxed()
    }
}

struct Open<'a> {
    idp: &'a Idp,
    sent: String,
    fault: Option<Fault>,
}

impl OpenEndpoint for Open<'_> {
    fn ask<'a>(self: Box<Self>) -> BoxFuture<'a, Result<Reply, TokenError>>
    where
        Self: 'a,
    {
        async move {
            let Self { idp, sent, fault } = *self;
            *idp.books().sends.entry(sent.clone()).or_default() += 1;
            idp.asked.fetch_add(1, Ordering::SeqCst);
            match fault {
                None | Some(Fault::Unreachable) => idp.killer.step(async { idp.carry_out(&sent) }).await,
                Some(Fault::Answer(kind, retry_after)) => Err(TokenError { kind, retry_after }),
                Some(Fault::SilentBefore) => Err(TokenErrorKind::MaybeSent.into()),
                Some(Fault::SilentAfter) => {
                    drop(idp.carry_out(&sent));
                    Err(TokenErrorKind::MaybeSent.into())
                }
                Some(Fault::Slow(gate)) => {
                    let reply = idp.carry_out(&sent);
                    gate.acquire().await.unwrap().forget();
                    reply
                }
                Some(Fault::NoAccess) => {
                    let mut reply = idp.carry_out(&sent)?;
                    reply.access_token = None;
                    Ok(reply)
                }
                Some(Fault::SlowBefore(gate)) => {
                    gate.acquire().await.unwrap().forget();
                    idp.carry_out(&sent)
                }
            }
        }
        .boxed()
    }
}

/// The sealed store, with accidents.
pub(super) struct Shelf {
    pub(super) inner: SealedStore,
    pub(super) is_down: AtomicBool,
    /// It is read, and takes nothing.
    pub(super) is_read_only: AtomicBool,
    /// By how much the clock goes on during the next writes.
    pub(super) slow_writes: Mutex<VecDeque<Duration>>,
    /// What the next reads are answered with, as by a standby that has not heard of newer ones; `None` for the truth.
    pub(super) late_reads: Mutex<VecDeque<Option<SecretDocument>>>,
    clock: ManualClock,
    pub(super) killer: Arc<Killer>,
}

/// Stops a daemon at one of its steps: what it calls then does not return before it goes on, and never if it is killed.
pub(super) struct Killer {
    /// Steps that it still takes, and whether the last of them is carried out, though it never hears of it.
    left: Mutex<Option<(usize, bool)>>,
    pub(super) is_done: AtomicBool,
    goes_on: Semaphore,
}

impl Default for Killer {
    fn default() -> Self {
        Self { left: Mutex::default(), is_done: AtomicBool::new(false), goes_on: Semaphore::new(0) }
    }
}

impl Killer {
    pub(super) fn kill_at(&self, step: usize, is_carried_out: bool) {
        *self.left.lock().unwrap() = Some((step, is_carried_out));
        self.is_done.store(false, Ordering::SeqCst);
    }

    /// All others take their steps.
    pub(super) fn spare(&self) {
        *self.left.lock().unwrap() = None;
    }

    /// What was stopped goes on.
    pub(super) fn go_on(&self) {
        self.goes_on.add_permits(1);
    }

    async fn step<T>(&self, work: impl Future<Output = T>) -> T {
        let last = {
            let mut left = self.left.lock().unwrap();
            match left.as_mut() {
                Some((0, _)) => Some(false),
                Some((1, is_carried_out)) => {
                    let is_carried_out = *is_carried_out;
                    *left = Some((0, false));
                    Some(is_carried_out)
                }
                Some((left, _)) => {
                    *left -= 1;
                    None
                }
                None => None,
            }
        };
        let Some(is_carried_out) = last else { return work.await };
        let (done, work) = if is_carried_out { (Some(work.await), None) } else { (None, Some(work)) };
        self.is_done.store(true, Ordering::SeqCst);
        self.goes_on.acquire().await.unwrap().forget();
        match (done, work) {
            (Some(done), _) => done,
            (None, Some(work)) => work.await,
            (None, None) => unreachable!("it is carried out, or not yet"),
        }
    }
}

impl Shelf {
    fn up(&self) -> Result<(), SecretError> {
        let cause = || "it is sealed".to_owned();
        if self.is_down.load(Ordering::SeqCst) { Err(SecretError::Unavailable { cause: cause() }) } else { Ok(()) }
    }
}

impl SecretStore for Shelf {
    fn read<'a>(&'a self, address: &'a SecretAddress) -> BoxFuture<'a, Result<SecretDocument, SecretError>> {
        self.killer
            .step(async move {
                self.up()?;
                let late = self.late_reads.lock().unwrap().pop_front().flatten();
                match late {
                    Some(document) => Ok(document),
                    None => self.inner.read(address).await,
                }
            })
            .boxed()
    }

    fn write<'a>(
        &'a self,
        address: &'a SecretAddress,
        fields: &'a SecretFields,
        previous: u64,
    ) -> BoxFuture<'a, Result<u64, SecretError>> {
        self.killer
            .step(async move {
                self.up()?;
                if self.is_read_only.load(Ordering::SeqCst) {
                    return Err(SecretError::Unavailable { cause: "it is read only".into() });
                }
                let written = self.inner.write(address, fields, previous).await;
                let span = self.slow_writes.lock().unwrap().pop_front();
                self.clock.advance(span.unwrap_or_default());
                written
            })
            .boxed()
    }

    fn delete<'a>(&'a self, address: &'a SecretAddress) -> BoxFuture<'a, Result<(), SecretError>> {
        self.inner.delete(address)
    }

    fn check(&self) -> BoxFuture<'_, Result<(), SecretError>> {
        self.inner.check()
    }
}
