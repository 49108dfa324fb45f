//! G1: a warm resolve over the wire against a bare tonic echo of the same bytes, all servers on one CPU.

use std::rc::Rc;

use anyhow::Result;

use crate::load::{Calls, Client, Endpoint, Shape};
use crate::process::{Pinned, Side};
use crate::report::{Report, Target};
use crate::rounds::{Contest, Contestant, Pace, Score};
use crate::strace;

/// The CPU of the servers, and that of the client when many requests are in flight.
pub(crate) const SERVER_CPU: usize = 0;
pub(crate) const CLIENT_CPU: usize = 1;

/// Outside of it, a server is not as fast as itself: the machine was not quiet enough to tell anything.
const SELF_RATIO: std::ops::RangeInclusive<f64> = 0.97..=1.03;

/// 64 in flight: 8 connections x 8 streams.
pub(crate) const MANY: Shape = Shape { connections: 8, streams: 8 };
pub(crate) const ONE: Shape = Shape { connections: 1, streams: 1 };

/// Who takes part.
pub(crate) struct Wire<'a> {
    pub daemon: &'a Side,
    pub echo_default: &'a Side,
    pub echo_tuned: &'a Side,
    pub calls: Rc<Calls>,
}

/// The position of each contestant.
const DAEMON: usize = 0;
const DEFAULT: usize = 1;
const TUNED: usize = 2;
const TUNED_AGAIN: usize = 3;

/// One way of asking.
struct Case {
    name: &'static str,
    transport: fn(&Side) -> &Endpoint,
    shape: Shape,
    client_cpu: usize,
}

const MANY_TCP: Case =
    Case { name: "64 in flight, TCP", transport: |side| &side.tcp, shape: MANY, client_cpu: CLIENT_CPU };
const MANY_UNIX: Case = Case { name: "64 in flight, Unix socket", transport: |side| &side.unix, ..MANY_TCP };
const ONE_TCP: Case =
    Case { name: "1 in flight, TCP", transport: |side| &side.tcp, shape: ONE, client_cpu: SERVER_CPU };
const ONE_UNIX: Case = Case { name: "1 in flight, Unix socket", transport: |side| &side.unix, ..ONE_TCP };

impl Wire<'_> {
    /// G1a and G1b.
    pub(crate) async fn compare(&self, pace: Pace, report: &mut Report) -> Result<()> {
        for case in [MANY_TCP, MANY_UNIX] {
            let contest = self.contest(&case, pace).await?;
            tell(&contest, &case, &HELD_MANY, report);
        }
        for case in [ONE_TCP, ONE_UNIX] {
            let contest = self.contest(&case, pace).await?;
            tell(&contest, &case, &HELD_ONE, report);
        }
        Ok(())
    }

    async fn contest(&self, case: &Case, pace: Pace) -> Result<Contest> {
        eprintln!("G1: {}", case.name);
        let _pinned = Pinned::to(case.client_cpu)?;
        let mut contestants = Vec::new();
        for side in [self.daemon, self.echo_default, self.echo_tuned, self.echo_tuned] {
            side.server.pin(SERVER_CPU)?;
            let client = Client::connect((case.transport)(side), case.shape, Rc::clone(&self.calls)).await?;
            client.each_once().await?;
            contestants.push(Contestant { server: &side.server, client: Box::new(client) });
        }
        Contest::run(&mut contestants, pace).await
    }

    /// G1c: how many system calls bring 8 answers to one connection.
    pub(crate) async fn count_writes(&self, bursts: usize, report: &mut Report) -> Result<()> {
        let sides = [
            (self.daemon, "a resolve", Target::AtMost(0.20)),
            (self.echo_tuned, "echo-tuned", Target::None),
            (self.echo_default, "echo-default", Target::None),
        ];
        for (side, name, target) in sides {
            let what = format!("write system calls per request, {name}, 8 ready on a TCP connection");
            let shape = Shape { connections: 1, streams: 8 };
            let client = Client::connect(&side.tcp, shape, Rc::clone(&self.calls)).await?;
            client.bursts(1).await?;
            match strace::writes(side.server.id(), client.bursts(bursts)).await? {
                Ok((writes, requests)) => report.counted("G1c", what, writes as f64 / requests as f64, target),
                Err(reason) => report.skipped("G1c", what, reason),
            }
        }
        Ok(())
    }
}

/// A ratio of the daemon to an echo, and what it must be.
struct Held {
    goal: &'static str,
    what: &'static str,
    other: usize,
    figure: fn(&Score) -> f64,
    target: Target,
}

const HELD_MANY: [Held; 6] = [
    Held { goal: "G1a", what: "requests", other: DEFAULT, figure: rate, target: Target::AtLeast(1.8) },
    Held { goal: "G1a", what: "server CPU per request", other: DEFAULT, figure: cpu, target: Target::AtMost(0.55) },
    Held { goal: "G1a", what: "p99", other: DEFAULT, figure: p99, target: Target::None },
    Held { goal: "G1b", what: "requests", other: TUNED, figure: rate, target: Target::AtLeast(0.94) },
    Held { goal: "G1b", what: "server CPU per request", other: TUNED, figure: cpu, target: Target::AtMost(1.06) },
    Held { goal: "G1b", what: "p99", other: TUNED, figure: p99, target: Target::AtMost(1.10) },
];

const HELD_ONE: [Held; 2] = [
    Held { goal: "G1a", what: "requests", other: DEFAULT, figure: rate, target: Target::AtLeast(1.15) },
    Held { goal: "G1b", what: "requests", other: TUNED, figure: rate, target: Target::None },
];

fn rate(score: &Score) -> f64 {
    score.requests_per_second
}

fn cpu(score: &Score) -> f64 {
    score.cpu_per_request
}

fn p99(score: &Score) -> f64 {
    score.p99
}

/// One line for each ratio. They tell something only if the echo was as fast as itself.
fn tell(contest: &Contest, case: &Case, held: &[Held], report: &mut Report) {
    let itself = contest.ratio(TUNED, TUNED_AGAIN, rate);
    let is_quiet = SELF_RATIO.contains(&itself.median);
    report.measured("G1", format!("echo-tuned / itself, {}", case.name), itself, "x", Target::None);
    for Held { goal, what, other, figure, target } in held {
        let echo = if *other == DEFAULT { "echo-default" } else { "echo-tuned" };
        let what = format!("{what} / {echo}, {}", case.name);
        let ratio = contest.ratio(DAEMON, *other, *figure);
        match is_quiet {
            true => report.measured(goal, what, ratio, "x", *target),
            false => report.inconclusive(goal, what, ratio, "x", *target),
        }
    }
    for (position, name) in [(DAEMON, "a resolve"), (DEFAULT, "echo-default"), (TUNED, "echo-tuned")] {
        let what = format!("server CPU per request of {name}, {}", case.name);
        report.measured("G1", what, contest.figure(position, cpu).times(1e-3), "us", Target::None);
    }
    let what = format!("share of its CPU that echo-tuned used, {}", case.name);
    report.measured("G1", what, contest.figure(TUNED, |score| score.busy), "", Target::None);
}
