//! G4 and G5: a resolve as a call of the library, in this process and on one thread, with nothing of the wire around it.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use alloc_counter::count_alloc;
use anyhow::{Context, Result, anyhow, ensure};
use credway::audit::Audit;
use credway::auth::Authenticator;
use credway::auth::run_tokens::RunTokens;
use credway::changes::Changes;
use credway::clock::Clock;
use credway::config;
use credway::grpc::answers::Answers;
use credway::grpc::hot::Warm;
use credway::grpc::proto::ResolveCredentialsRequest;
use credway::grpc::proto::credential_service_server::CredentialService;
use credway::grpc::service::Credentials;
use credway::grpc::watch::Watches;
use credway::limits;
use credway::metrics::Metrics;
use credway::model::resolution::{InstanceRef, ResolutionRequest};
use credway::oauth::OAuth;
use credway::refresh::{self, Refresher, TokenStore};
use credway::resolve::Resolver;
use credway::secrets::cache::SecretCache;
use credway::store::WiringFound;
use credway::templates::Catalogue;
use futures_util::future::try_join_all;
use http::HeaderMap;
use prost::Message;
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use crate::report::{Report, Target};
use crate::site::{Opened, Site, Step};
use crate::stats::{Spread, percentile};

/// Callers that ask for one cold key at once.
const CALLERS: usize = 64;

/// What is measured of a cold or warm resolve.
#[derive(Clone, Copy)]
pub(crate) struct Amount {
    pub rounds: usize,
    /// Resolves of each kind in one round.
    pub resolves: usize,
}

/// A resolver over a site's stores, with an empty cache.
pub(crate) struct Inside<'a> {
    site: &'a Site,
    opened: Opened,
    changes: Changes,
    cache: SecretCache,
    resolver: Arc<Resolver>,
    warm: Warm,
    metrics: Metrics,
    clock: Clock,
}

impl<'a> Inside<'a> {
    pub(crate) async fn open(site: &'a Site) -> Result<Self> {
        Self::open_with(site, &site.config.cache).await
    }

    /// With other settings of the caches than the site's.
    pub(crate) async fn open_with(site: &'a Site, settings: &config::Cache) -> Result<Self> {
        let (opened, metrics, clock) = (site.open().await?, Metrics::new(), Clock::System);
        let secrets = opened.backends.secrets.clone();
        let means = refresh::Means {
            store: opened.backends.store.clone(),
            secrets: secrets.clone(),
            endpoint: Arc::new(OAuth::new(&site.config.oauth, &site.config.egress, clock.clone())?),
            catalogue: Catalogue::built_in(),
            clock: clock.clone(),
            metrics: metrics.clone(),
        };
        let refresher = Refresher::start(&site.config.data_dir.join("spool"), means).await?;
        let secrets = Arc::new(TokenStore::new(secrets, refresher.clone()));
        let cache = SecretCache::new(secrets, settings, clock.clone(), metrics.clone(), opened.tasks.clone());
        let (store, tasks) = (opened.backends.store.clone(), opened.tasks.clone());
        let changes = Changes::new();
        // Nothing changes here, and nobody needs to follow the log to know it.
        changes.trust_until(clock.moment() + Duration::from_secs(24 * 3600));
        let resolver = Resolver::new(
            store.clone(),
            changes.clone(),
            (cache.clone(), refresher),
            clock.clone(),
            metrics.clone(),
            tasks,
        );
        let resolver = Arc::new(resolver);
        let run_tokens = Arc::new(RunTokens::new(store.clone(), clock.clone()));
        let authenticator = Authenticator::new(
            store,
            changes.clone(),
            Vec::new(),
            Arc::clone(&run_tokens),
            clock.clone(),
            metrics.clone(),
            opened.tasks.clone(),
        );
        let warm = Warm {
            answers: Answers::new(settings, changes.clone(), clock.clone(), metrics.clone()),
            authenticator: Arc::new(authenticator),
            audit: Audit::start(&site.config.audit, clock.clone(), metrics.clone())?,
            clock: clock.clone(),
            metrics: metrics.clone(),
            are_roots_traced: false,
        };
        Ok(Self { site, opened, changes, cache, resolver, warm, metrics, clock })
    }

    pub(crate) async fn resolve(&self, step: &Step) -> Result<()> {
        let resolution = self.resolver.resolve(&self.site.caller, &request(step)).await?;
        ensure!(resolution.config.len() == 6, "{} config entries", resolution.config.len());
        Ok(())
    }

    /// Makes the next resolve of `step` a cold one.
    pub(crate) fn forget(&self, step: &Step) {
        self.changes.doubt_everything();
        self.cache.forget(step.address.connection);
    }

    /// The same trips to the stores by hand: the wiring, then the secret that it names.
    async fn fetch_by_hand(&self, step: &Step) -> Result<()> {
        let backends = &self.opened.backends;
        let found = backends.store.wiring_find(&self.site.scope(), &InstanceRef::Id(step.instance), None).await?;
        let WiringFound::One(wiring) = found else { return Err(anyhow!("there is no {}", step.instance)) };
        ensure!(wiring.connections.contains_key(&step.address.connection), "the wiring lacks its connection");
        black_box(backends.secrets.read(&step.address).await?);
        Ok(())
    }

    /// How long `work` takes.
    pub(crate) async fn timed(&self, work: impl Future<Output = Result<()>>) -> Result<Duration> {
        let before = self.clock.moment();
        work.await?;
        Ok(self.clock.moment().since(before))
    }

    /// A counter over all its labels.
    fn counter(&self, name: &str) -> f64 {
        let rendered = self.metrics.render();
        let lines = rendered.lines().filter(|line| line.starts_with(name));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// Wirings read from the database, and secrets read from the secret store, by `work`.
    pub(crate) async fn trips(&self, work: impl Future<Output = Result<()>>) -> Result<(f64, f64)> {
        let counts =
            || (self.counter("credway_database_queries_total"), self.counter("credway_secret_store_reads_total"));
        let before = counts();
        work.await?;
        let after = counts();
        Ok((after.0 - before.0, after.1 - before.1))
    }
}

fn request(step: &Step) -> ResolutionRequest {
    ResolutionRequest {
        project: None,
        workflow: None,
        instance: InstanceRef::Id(step.instance),
        expected_server: None,
        step: None,
        min_token_ttl: limits::MIN_TOKEN_TTL_DEFAULT,
    }
}

/// G4: a cold resolve against its two trips by hand, and how many trips there are.
pub(crate) async fn cold(site: &Site, amount: Amount, report: &mut Report) -> Result<()> {
    eprintln!("G4: {}", site.name);
    let inside = Inside::open(site).await?;
    let mut steps = site.steps.iter();
    let mut fresh = || steps.next().context("more cold resolves than instances");

    let (queries, reads) = inside.trips(inside.resolve(fresh()?)).await?;
    let of = |what: &str| format!("{what}, {}", site.name);
    report.counted("G4", of("database queries of a cold resolve"), queries, Target::Exactly(1.0));
    report.counted("G4", of("secret store reads of a cold resolve"), reads, Target::Exactly(1.0));
    let (one, callers) = (fresh()?, 0..CALLERS);
    let (queries, reads) =
        inside.trips(async { try_join_all(callers.map(|_| inside.resolve(one))).await.map(drop) }).await?;
    report.counted("G4", of("database queries of 64 callers on one cold key"), queries, Target::Exactly(1.0));
    report.counted("G4", of("secret store reads of 64 callers on one cold key"), reads, Target::Exactly(1.0));

    let mut ratios = Vec::with_capacity(amount.rounds);
    let mut p50s = Vec::with_capacity(amount.rounds);
    // One more round first, which is thrown away.
    for round in 0..=amount.rounds {
        let (mut resolves, mut by_hand) = (Vec::new(), Vec::new());
        for _ in 0..amount.resolves {
            resolves.push(nanoseconds(inside.timed(inside.resolve(fresh()?)).await?));
            by_hand.push(nanoseconds(inside.timed(inside.fetch_by_hand(fresh()?)).await?));
        }
        let p50 =
            |mut values: Vec<u32>| percentile(&mut values, 0.5).map(f64::from).context("a round without a resolve");
        let (resolve, hand) = (p50(resolves)?, p50(by_hand)?);
        if round > 0 {
            ratios.push(resolve / hand);
            p50s.push(resolve * 1e-3);
        }
    }
    if let (Some(ratio), Some(p50)) = (Spread::of(ratios), Spread::of(p50s)) {
        report.measured("G4", of("p50 of a cold resolve / both trips by hand"), ratio, "x", Target::AtMost(1.10));
        report.measured("G4", of("p50 of a cold resolve"), p50, "us", Target::None);
    }
    Ok(())
}

/// How many instances `cold` asks for.
pub(crate) fn cold_instances(amount: Amount) -> usize {
    2 + (amount.rounds + 1) * amount.resolves * 2
}

/// G5: a warm call in SHA-256 of a token, and in allocations: from its headers and message to the bytes of its answer.
pub(crate) async fn warm(site: &Site, amount: Amount, report: &mut Report) -> Result<()> {
    eprintln!("G5: {}", site.name);
    let inside = Inside::open(site).await?;
    let calls = inside.warmed(&site.steps[..amount.resolves.min(site.steps.len())]).await?;
    let all = async || calls.iter().try_for_each(|call| inside.answer(call));
    let mut ratios = Vec::with_capacity(amount.rounds);
    for round in 0..=amount.rounds {
        let hashes = async || {
            hash_tokens(calls.len());
            Ok(())
        };
        let first = inside.timed(all()).await?;
        let hashing = inside.timed(hashes()).await? + inside.timed(hashes()).await?;
        let second = inside.timed(all()).await?;
        if round > 0 {
            ratios.push((first + second).as_secs_f64() / hashing.as_secs_f64());
        }
    }
    if let Some(ratio) = Spread::of(ratios) {
        report.measured("G5", "a warm call / SHA-256 of 48 bytes, in process", ratio, "x", Target::AtMost(6.0));
    }
    let allocations = inside.allocations(&calls)?;
    report.counted("G5", "heap allocations of a warm call", allocations, Target::AtMost(1.0));
    let reason = "not counted; by reading: a shard's read lock while the answer's reference count is raised, another's while its audit \
         record is queued, clocks by vDSO";
    report.skipped("G5", "locks held and system calls of a warm call", reason);
    Ok(())
}

/// A call as it arrives, and how long its answer is.
pub(crate) struct WarmCall {
    headers: HeaderMap,
    pub message: Vec<u8>,
    pub answer_bytes: usize,
}

impl Inside<'_> {
    /// A call for each of `steps`, answered once by the service, so that its answer is held.
    async fn warmed(&self, steps: &[Step]) -> Result<Vec<WarmCall>> {
        let service = self.service();
        let mut calls = Vec::with_capacity(steps.len());
        for step in steps {
            let request = ResolveCredentialsRequest { instance_id: step.instance.to_string(), ..Default::default() };
            calls.push(self.keep(&service, request).await?);
        }
        Ok(calls)
    }

    pub(crate) fn service(&self) -> Credentials {
        let (resolver, verifier) = (Arc::clone(&self.resolver), Arc::clone(&self.warm.authenticator));
        let (store, drain) = (self.opened.backends.store.clone(), CancellationToken::new());
        let (clock, metrics) = (self.clock.clone(), self.metrics.clone());
        let changes = Changes::new().watch();
        let audit = self.warm.audit.clone();
        let watches = Watches::new(
            Arc::clone(&resolver),
            verifier,
            changes,
            drain,
            audit.clone(),
            clock.clone(),
            metrics.clone(),
        );
        Credentials::new(resolver, watches, Arc::new(RunTokens::new(store, clock)), audit, metrics)
    }

    /// Has `request` answered by the service, which holds its answer then.
    pub(crate) async fn keep(&self, service: &Credentials, request: ResolveCredentialsRequest) -> Result<WarmCall> {
        let mut headers = HeaderMap::new();
        headers.insert("authorization", format!("Bearer {}", self.site.token.expose()).parse()?);
        let message = request.encode_to_vec();
        let mut question = self.warm.question(&headers, None).context("a call without a claim")?;
        question.complete(&message);
        let mut request = tonic::Request::new(request);
        request.extensions_mut().insert(Arc::clone(&self.site.caller));
        request.extensions_mut().insert(self.warm.answers.slot(question));
        let answer = service.resolve_credentials(request).await?.into_inner();
        Ok(WarmCall { headers, message, answer_bytes: answer.encoded_len() })
    }

    /// How many answers are held.
    pub(crate) fn answers_held(&self) -> f64 {
        self.warm.answers.observe();
        self.counter("credway_answer_cache_entries")
    }

    fn answer(&self, call: &WarmCall) -> Result<()> {
        let began = self.clock.moment();
        let mut question = self.warm.question(&call.headers, None).context("a call without a claim")?;
        question.complete(&call.message);
        let answer = self.warm.answer(&question, began).context("its answer is not held")?;
        ensure!(answer.len() >= call.answer_bytes, "{} bytes instead of {}", answer.len(), call.answer_bytes);
        Ok(())
    }

    /// The fewest of all calls: what more there is now and then belongs to buffers that grow.
    fn allocations(&self, calls: &[WarmCall]) -> Result<f64> {
        let mut fewest = usize::MAX;
        for call in calls {
            let ((allocated, grown, _), answered) = count_alloc(|| self.answer(call));
            answered?;
            fewest = fewest.min(allocated + grown);
        }
        Ok(fewest as f64)
    }
}

fn hash_tokens(times: usize) {
    let token = [b'x'; 48];
    for _ in 0..times {
        black_box(Sha256::digest(black_box(token)));
    }
}

pub(crate) fn nanoseconds(span: Duration) -> u32 {
    u32::try_from(span.as_nanos()).unwrap_or(u32::MAX)
}
