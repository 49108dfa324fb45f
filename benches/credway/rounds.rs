//! Rounds: each lets the contestants run one after the other and then in reverse, so that what drifts meets all alike, and
//! compares them within the round.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::load::{Load, Window};
use crate::process::Server;
use crate::stats::{Spread, percentile};

/// How long, and how often.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    pub window: Duration,
    pub rounds: usize,
}

/// One side of a comparison.
pub(crate) struct Contestant<'a> {
    pub server: &'a Server,
    pub client: Box<dyn Load>,
}

/// What one contestant did in one round.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Score {
    pub requests_per_second: f64,
    /// Nanoseconds.
    pub p50: f64,
    /// Nanoseconds.
    pub p99: f64,
    /// Nanoseconds of the server's CPU.
    pub cpu_per_request: f64,
    /// The share of the time in which the server worked. Well below 1, it is the client that was too slow.
    pub busy: f64,
}

/// The scores of every round, by contestant in the order given.
pub(crate) struct Contest {
    rounds: Vec<Vec<Score>>,
}

impl Contest {
    /// Lets them run: one round that is thrown away, then as many as `pace` says.
    pub(crate) async fn run(contestants: &mut [Contestant<'_>], pace: Pace) -> Result<Self> {
        round(contestants, pace.window).await?;
        let mut rounds = Vec::with_capacity(pace.rounds);
        for _ in 0..pace.rounds {
            rounds.push(round(contestants, pace.window).await?);
        }
        Ok(Self { rounds })
    }

    /// `figure` of one contestant over that of another, round by round.
    pub(crate) fn ratio(&self, one: usize, other: usize, figure: fn(&Score) -> f64) -> Spread {
        self.spread(|round| figure(&round[one]) / figure(&round[other]))
    }

    /// `figure` of one contestant.
    pub(crate) fn figure(&self, one: usize, figure: fn(&Score) -> f64) -> Spread {
        self.spread(|round| figure(&round[one]))
    }

    fn spread(&self, of_round: impl Fn(&Vec<Score>) -> f64) -> Spread {
        Spread::of(self.rounds.iter().map(of_round).collect()).expect("a contest has at least one round")
    }
}

async fn round(contestants: &mut [Contestant<'_>], window: Duration) -> Result<Vec<Score>> {
    let mut sums: Vec<Sum> = contestants.iter().map(|_| Sum::default()).collect();
    let there_and_back = (0..contestants.len()).chain((0..contestants.len()).rev());
    for at in there_and_back {
        let contestant = &mut contestants[at];
        let before = contestant.server.cpu_clock()?;
        let seen = contestant.client.window(window).await?;
        let cpu = contestant.server.cpu_clock()?.since(&before);
        sums[at].add(seen, cpu);
    }
    sums.into_iter().map(Sum::score).collect()
}

/// The windows of one contestant in one round.
#[derive(Default)]
struct Sum {
    seen: Window,
    cpu: Duration,
}

impl Sum {
    fn add(&mut self, window: Window, cpu: Duration) {
        self.seen.latencies.extend(window.latencies);
        self.seen.elapsed += window.elapsed;
        self.cpu += cpu;
    }

    fn score(mut self) -> Result<Score> {
        let requests = self.seen.latencies.len() as f64;
        let mut at =
            |share| percentile(&mut self.seen.latencies, share).context("a window without a request").map(f64::from);
        let (p50, p99) = (at(0.5)?, at(0.99)?);
        Ok(Score {
            requests_per_second: requests / self.seen.elapsed.as_secs_f64(),
            p50,
            p99,
            cpu_per_request: self.cpu.as_secs_f64() * 1e9 / requests,
            busy: self.cpu.as_secs_f64() / self.seen.elapsed.as_secs_f64(),
        })
    }
}
