//! G9: warm resolves while tokens are refreshed and cold resolves come in, against the same daemon before and after.
//!
//! The daemon is held to one CPU, and what stands around it to the other: the client, whose cold resolves come as fast as they are
//! to or as the daemon answers them, the provider, and the servers. The figures say what rates were reached. All is of one project, which
//! is the harder case: after each refresh, the answers held for the project are looked at more closely.

use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result};
use credway::clock::Clock;

use crate::daemon;
use crate::kv::Bao;
use crate::load::{self, Calls, Client, Load, Shape};
use crate::postgres::Postgres;
use crate::process::{Pinned, Server, Side};
use crate::provider::Provider;
use crate::report::{Report, Target};
use crate::rounds::Pace;
use crate::site::{Site, Step};
use crate::stats::{Spread, percentile};
use crate::wire::{CLIENT_CPU, MANY, ONE, SERVER_CPU};

/// What goes on beside the warm resolves, each of an instance that nobody asked for before.
#[derive(Clone, Copy)]
pub(crate) struct Beside {
    /// Instances that are warm.
    pub warm: usize,
    pub refreshes_per_second: usize,
    pub cold_per_second: usize,
}

/// Of the cold resolves, and of those that find a token that is due.
const COLD: Shape = Shape { connections: 4, streams: 16 };
const DUE: Shape = Shape { connections: 1, streams: 16 };

/// How long the last refreshes are waited for.
const SETTLE_DEADLINE: Duration = Duration::from_secs(30);
const SETTLE_POLL: Duration = Duration::from_millis(50);

/// The ways of asking for what is warm.
const CASES: [(&str, Shape); 2] = [("64 in flight", MANY), ("1 in flight", ONE)];

impl Beside {
    /// How many of a rate come while it lasts, a round more than are measured and some to spare.
    fn of(rate: usize, pace: Pace) -> usize {
        (rate as f64 * pace.window.as_secs_f64() * (pace.rounds + 2) as f64).ceil() as usize
    }
}

/// Where the site's secrets and rows lie, if not in its own directory.
pub(crate) struct Servers<'a> {
    pub bao: &'a Bao,
    pub postgres: &'a Postgres,
}

pub(crate) async fn measure(
    beside: Beside,
    pace: Pace,
    dir: &Path,
    servers: Option<Servers<'_>>,
    report: &mut Report,
) -> Result<()> {
    let provider = Provider::start(dir)?;
    let (cold, due) = (Beside::of(beside.cold_per_second, pace), Beside::of(beside.refreshes_per_second, pace));
    let kind = if servers.is_some() { "served" } else { "embedded" };
    let stores = match &servers {
        Some(Servers { bao, postgres }) => Some(crate::peers::stores(&bao.address, &postgres.database().await)),
        None => None,
    };
    let amounts = (beside.warm + cold * CASES.len(), due * CASES.len());
    let dir = dir.join(format!("refreshing-{kind}"));
    let site = Site::with_tokens(dir, stores.as_deref(), amounts, &provider.token_url).await?;
    let daemon = crate::on_one_cpu(|| daemon::start(&site))?;
    daemon.server.pin(SERVER_CPU)?;
    let around = [Some(&provider.server), servers.as_ref().map(|servers| &servers.bao.server)];
    around.into_iter().flatten().try_for_each(|server: &Server| server.pin(CLIENT_CPU))?;
    let of_postgres = servers.iter().flat_map(|servers| servers.postgres.processes());
    of_postgres.for_each(|process| Server::pin_single(process, CLIENT_CPU));

    let _pinned = Pinned::to(CLIENT_CPU)?;
    let (warm, others) = site.steps.split_at(beside.warm);
    let (colds, dues) = others.split_at(cold * CASES.len());
    for ((name, shape), (cold, due)) in CASES.iter().zip(colds.chunks(cold).zip(dues.chunks(due))) {
        eprintln!("G9: {}, {name}", site.name);
        let run = Run { site: &site, daemon: &daemon, beside, pace };
        let seen = run.compare(*shape, (warm, cold, due)).await?;
        seen.tell(&format!("{name}, {}", site.name), report);
    }
    // Awaited beside this runtime: the daemon drains until the connections to it say that they are closed.
    tokio::task::spawn_blocking(move || daemon.server.stop()).await?
}

struct Run<'a> {
    site: &'a Site,
    daemon: &'a Side,
    beside: Beside,
    pace: Pace,
}

/// p99 by round, in nanoseconds, and the rates that were reached.
struct Seen {
    before: Vec<f64>,
    during: Vec<f64>,
    after: Vec<f64>,
    refreshes_per_second: f64,
    cold_per_second: f64,
    /// Tokens that were due, and are not refreshed long after.
    missing: usize,
}

impl Run<'_> {
    async fn compare(&self, shape: Shape, (warm, cold, due): (&[Step], &[Step], &[Step])) -> Result<Seen> {
        let mut warm = self.client(shape, warm).await?;
        warm.each_once().await?;
        let (cold, due) = (self.client(COLD, cold).await?, self.client(DUE, due).await?);
        let before = self.p99s(&mut warm).await?;

        let (is_over, refreshed_before) = (Cell::new(false), self.refreshed().await?);
        let (clock, rate) = (Clock::System, |per_second: usize| per_second as f64);
        let started = clock.moment();
        let measured = async {
            let during = self.p99s(&mut warm).await;
            is_over.set(true);
            let refreshed = self.refreshed().await;
            during.and_then(|during| Ok((during, refreshed?, clock.moment().since(started))))
        };
        let (measured, cold, due) = tokio::join!(
            measured,
            cold.each_once_at(rate(self.beside.cold_per_second), &is_over),
            due.each_once_at(rate(self.beside.refreshes_per_second), &is_over),
        );
        let ((during, refreshed, elapsed), cold, due) = (measured?, cold?, due?);
        let missing = self.settle(refreshed_before + due).await?;
        let after = self.p99s(&mut warm).await?;
        let per_second = |count: usize| count as f64 / elapsed.as_secs_f64();
        Ok(Seen {
            before,
            during,
            after,
            refreshes_per_second: per_second(refreshed - refreshed_before),
            cold_per_second: per_second(cold),
            missing,
        })
    }

    /// A client of these instances alone.
    async fn client(&self, shape: Shape, steps: &[Step]) -> Result<Client> {
        let requests: Vec<Vec<u8>> = steps.iter().map(daemon::request).collect();
        // Any length: what is cold says so in another word than what is warm.
        let calls = Calls::new(&requests, self.site.token.expose(), load::MESSAGE_HEAD_BYTES + 1..=usize::MAX)?;
        Client::connect(&self.daemon.unix, shape, Rc::new(calls)).await
    }

    /// One round that is thrown away, then as many as there are to be.
    async fn p99s(&self, client: &mut Client) -> Result<Vec<f64>> {
        client.window(self.pace.window).await?;
        let mut p99s = Vec::with_capacity(self.pace.rounds);
        for _ in 0..self.pace.rounds {
            let mut seen = client.window(self.pace.window).await?;
            p99s.push(percentile(&mut seen.latencies, 0.99).map(f64::from).context("a window without a request")?);
        }
        Ok(p99s)
    }

    /// Waits until `count` refreshes were carried out in all, or for long enough; answers how many are missing then.
    async fn settle(&self, count: usize) -> Result<usize> {
        let (clock, mut missing) = (Clock::System, count.saturating_sub(self.refreshed().await?));
        let started = clock.moment();
        while missing > 0 && clock.moment().since(started) < SETTLE_DEADLINE {
            tokio::time::sleep(SETTLE_POLL).await;
            missing = count.saturating_sub(self.refreshed().await?);
        }
        Ok(missing)
    }

    /// The refreshes that the daemon has carried out.
    async fn refreshed(&self) -> Result<usize> {
        const COUNTER: &str = "credway_token_refreshes_total{outcome=\"success\"} ";
        let address = self.daemon.http.as_deref().context("the daemon names no HTTP address")?;
        let http = reqwest::Client::builder().no_proxy().build()?;
        let told = http.get(format!("http://{address}/metrics")).send().await?.text().await?;
        let count = told.lines().find_map(|line| line.strip_prefix(COUNTER)).context("refreshes are not counted")?;
        Ok(count.parse()?)
    }
}

impl Seen {
    fn tell(&self, case: &str, report: &mut Report) {
        let Self { before, during, after, refreshes_per_second, cold_per_second, missing } = self;
        let quiet: Vec<f64> = before.iter().zip(after).map(|(before, after)| f64::midpoint(*before, *after)).collect();
        let over = |one: &[f64], other: &[f64]| {
            Spread::of(one.iter().zip(other).map(|(one, other)| one / other).collect()).map(|ratio| (ratio, "x"))
        };
        let microseconds = |p99s: &[f64]| Spread::of(p99s.to_vec()).map(|p99| (p99.times(1e-3), "us"));
        let beside =
            format!("beside {refreshes_per_second:.0} refreshes and {cold_per_second:.0} cold resolves a second");
        let lines = [
            (format!("p99 of a warm resolve {beside} / quiet, {case}"), over(during, &quiet), Target::AtMost(1.5)),
            (format!("quiet p99 of a warm resolve after / before, {case}"), over(after, before), Target::None),
            (format!("p99 of a warm resolve, quiet, {case}"), microseconds(&quiet), Target::None),
            (format!("p99 of a warm resolve {beside}, {case}"), microseconds(during), Target::None),
        ];
        for (what, figure, target) in lines {
            if let Some((figure, unit)) = figure {
                report.measured("G9", what, figure, unit, target);
            }
        }
        let what = format!("tokens that were due and not refreshed in the end, {case}");
        report.counted("G9", what, *missing as f64, Target::Exactly(0.0));
    }
}
