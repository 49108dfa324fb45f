//! G8: flat, however many instances there are. The same daemons and the same resolver over stores of very different size,
//! side by side, so that what drifts meets all alike.

use std::rc::Rc;

use anyhow::{Context, Result, ensure};

use crate::daemon;
use crate::inside::{Amount, Inside, nanoseconds};
use crate::load::{Client, Shape};
use crate::process::{Pinned, Side};
use crate::report::{Report, Target};
use crate::rounds::{Contest, Contestant, Pace, Score};
use crate::site::Site;
use crate::stats::{Spread, percentile};
use crate::wire::{CLIENT_CPU, MANY, ONE, SERVER_CPU};

/// Instances that are asked for, of however many there are: the secrets of no more are written, and their answers held.
pub(crate) const ASKED: usize = 1000;

/// Sites of the same kind, the smallest first.
pub(crate) async fn measure(sites: &[Site], cold: Amount, pace: Pace, report: &mut Report) -> Result<()> {
    measure_cold(sites, cold, report).await?;
    measure_warm(sites, pace, report).await
}

async fn measure_cold(sites: &[Site], amount: Amount, report: &mut Report) -> Result<()> {
    let mut insides = Vec::with_capacity(sites.len());
    for site in sites {
        eprintln!("G8: cold, {} with {} instances", site.name, site.instances);
        let inside = Inside::open(site).await?;
        let step = site.steps.first().context("a site without instances")?;
        inside.resolve(step).await?;
        inside.forget(step);
        let trips = inside.trips(inside.resolve(step)).await?;
        ensure!(trips == (1.0, 1.0), "a resolve that should be cold made {trips:?} trips");
        insides.push(inside);
    }
    // p50 in nanoseconds, by round and site.
    let mut p50s: Vec<Vec<f64>> = Vec::with_capacity(amount.rounds);
    // One more round first, which is thrown away.
    for _ in 0..=amount.rounds {
        let mut round = Vec::with_capacity(sites.len());
        for (inside, site) in insides.iter().zip(sites) {
            round.push(cold_p50(inside, site, amount.resolves).await?);
        }
        p50s.push(round);
    }
    let measured = p50s.get(1..).unwrap_or_default();
    for (at, site) in sites.iter().enumerate() {
        if let Some(p50) = Spread::of(measured.iter().map(|round| round[at] * 1e-3).collect()) {
            report.measured("G8", of(site, "p50 of a cold resolve"), p50, "us", Target::None);
        }
        if at > 0
            && let Some(ratio) = Spread::of(measured.iter().map(|round| round[at] / round[0]).collect())
        {
            let what = over(site, sites, "p50 of a cold resolve");
            report.measured("G8", what, ratio, "x", Target::AtMost(1.25));
        }
    }
    Ok(())
}

async fn cold_p50(inside: &Inside<'_>, site: &Site, resolves: usize) -> Result<f64> {
    let mut taken = Vec::with_capacity(resolves);
    // Spread over all there is, so that what the database has in memory is not the same few pages each time.
    let stride = (site.steps.len() / resolves.max(1)).max(1);
    for step in site.steps.iter().step_by(stride).cycle().take(resolves) {
        inside.forget(step);
        taken.push(nanoseconds(inside.timed(inside.resolve(step)).await?));
    }
    percentile(&mut taken, 0.5).map(f64::from).context("a round without a resolve")
}

async fn measure_warm(sites: &[Site], pace: Pace, report: &mut Report) -> Result<()> {
    let daemons = sites.iter().map(daemon::start).collect::<Result<Vec<Side>>>()?;
    let many = contest(&daemons, sites, (MANY, CLIENT_CPU), pace).await?;
    let one = contest(&daemons, sites, (ONE, SERVER_CPU), pace).await?;
    tell(&one, |score| score.p50, "p50 of a warm resolve, 1 in flight", sites, report);
    tell(&many, |score| score.cpu_per_request, "server CPU per warm resolve, 64 in flight", sites, report);
    Ok(())
}

fn tell(contest: &Contest, figure: fn(&Score) -> f64, what: &str, sites: &[Site], report: &mut Report) {
    for (at, site) in sites.iter().enumerate() {
        report.measured("G8", of(site, what), contest.figure(at, figure).times(1e-3), "us", Target::None);
        if at > 0 {
            let ratio = contest.ratio(at, 0, figure);
            report.measured("G8", over(site, sites, what), ratio, "x", Target::AtMost(1.10));
        }
    }
}

async fn contest(daemons: &[Side], sites: &[Site], (shape, cpu): (Shape, usize), pace: Pace) -> Result<Contest> {
    eprintln!("G8: warm, {} in flight", shape.connections * shape.streams);
    let _pinned = Pinned::to(cpu)?;
    let mut contestants = Vec::with_capacity(daemons.len());
    for (daemon, site) in daemons.iter().zip(sites) {
        daemon.server.pin(SERVER_CPU)?;
        let (_, calls) = crate::calls(site, daemon).await?;
        let client = Client::connect(&daemon.unix, shape, Rc::clone(&calls)).await?;
        client.each_once().await?;
        contestants.push(Contestant { server: &daemon.server, client: Box::new(client) });
    }
    Contest::run(&mut contestants, pace).await
}

fn of(site: &Site, what: &str) -> String {
    format!("{what}, {} instances, {}", site.instances, site.name)
}

fn over(site: &Site, sites: &[Site], what: &str) -> String {
    let least = sites.first().map_or(0, |site| site.instances);
    format!("{what}, {} instances / {least}, {}", site.instances, site.name)
}
