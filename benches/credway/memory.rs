//! G6: what a held answer costs in memory beyond its own bytes, that there is a bound, and what an idle daemon takes.
//!
//! What is counted is counted in a process of its own, this binary started again: nothing else lives on its heap.

use std::ops::Range;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use credway::config;
use credway::grpc::proto::ResolveCredentialsRequest;
use serde::{Deserialize, Serialize};

use crate::daemon;
use crate::inside::Inside;
use crate::process::memory_of;
use crate::report::{Report, Target};
use crate::site::Site;
use crate::stats::Spread;

const ROLE: &str = "memory";

/// Between a daemon's start and the look at its memory, for what the start itself has left behind.
const SETTLE: Duration = Duration::from_secs(1);

/// How many answers.
#[derive(Clone, Copy)]
pub(crate) struct Amount {
    /// With room for all of them.
    pub held: usize,
    /// With room for `held` of them.
    pub asked: usize,
}

/// What the other process saw.
#[derive(Deserialize, Serialize)]
struct Figures {
    /// Live bytes per answer over its payload and key.
    overhead: f64,
    /// Of the whole process.
    rss_per_live: f64,
    /// Answers held after more were made than there is room for.
    bounded: f64,
    /// Live bytes of the cache then.
    bounded_bytes: f64,
}

pub(crate) fn measure(amount: Amount, dir: &Path, report: &mut Report) -> Result<()> {
    eprintln!("G6: {} answers, then {}", amount.held, amount.asked);
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(ROLE).arg(dir.join(ROLE)).args([amount.held, amount.asked].map(|count| count.to_string()));
    let output = command.stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "the process that counts memory failed: {}", output.status);
    let seen: Figures = serde_json::from_slice(&output.stdout)?;
    let Amount { held, asked } = amount;
    let what = format!("live bytes per held answer over payload and key, {held} answers");
    report.counted("G6", what, seen.overhead.round(), Target::AtMost(256.0));
    report.measured(
        "G6",
        format!("RSS / live bytes, {held} answers"),
        once(seen.rss_per_live),
        "x",
        Target::AtMost(1.15),
    );
    let what = format!("answers held after {asked}, with room for {held}");
    report.counted("G6", what, seen.bounded, Target::AtMost(held as f64));
    let mebibytes = once(seen.bounded_bytes / f64::from(1 << 20));
    report.measured("G6", format!("live bytes of all caches after {asked} answers"), mebibytes, "MiB", Target::None);
    Ok(())
}

/// A daemon that nobody has asked for anything.
pub(crate) async fn idle(site: &Site, report: &mut Report) -> Result<()> {
    let daemon = daemon::start(site)?;
    tokio::time::sleep(SETTLE).await;
    let mebibytes = once(daemon.server.memory("VmRSS")? / f64::from(1 << 20));
    report.measured("G6", "RSS of an idle daemon", mebibytes, "MiB", Target::AtMost(32.0));
    daemon.server.stop()
}

/// What the binary does when it was started to count. `None` if it was not.
pub(crate) fn role(arguments: &[String]) -> Option<Result<()>> {
    (arguments.first()? == ROLE).then(|| {
        live_bytes::begin();
        let [_, dir, held, asked] = arguments else { anyhow::bail!("it takes a directory and two counts") };
        let amount = Amount { held: held.parse()?, asked: asked.parse()? };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let figures = runtime.block_on(count(Path::new(dir), amount))?;
        println!("{}", serde_json::to_string(&figures)?);
        Ok(())
    })
}

async fn count(dir: &Path, Amount { held, asked }: Amount) -> Result<Figures> {
    let site = Site::embedded(dir.to_owned(), 1).await?;
    let default = site.config.cache.clone();
    let entries_max = held as u64;
    // An entry weighs no less than its share, and the shares of a map are never quite even: twice the room holds all.
    let roomy = config::Cache { entries_max: 2 * entries_max, bytes_max: 2 * default.bytes_max, ..default.clone() };
    let inside = Inside::open_with(&site, &roomy).await?;
    // What there is once and for all, as the room for audit records that wait: before the first answer, and with it.
    hold(&inside, &site, 0..1).await?;
    let before = live_bytes::live();
    let own_bytes = hold(&inside, &site, 1..held).await?;
    ensure!(inside.answers_held() == held as f64, "{} answers are held", inside.answers_held());
    let live = live_bytes::live();
    let overhead = ((live - before) as f64 - own_bytes as f64) / (held - 1) as f64;
    let rss_per_live = memory_of("self", "RssAnon")? / live as f64;
    drop(inside);

    let before = live_bytes::live();
    let inside = Inside::open_with(&site, &config::Cache { entries_max, ..default }).await?;
    hold(&inside, &site, 0..asked).await?;
    let (bounded, bounded_bytes) = (inside.answers_held(), (live_bytes::live() - before) as f64);
    Ok(Figures { overhead, rss_per_live, bounded, bounded_bytes })
}

/// Has different questions answered, one for each number, and returns the bytes of keys and answers together. They differ in the
/// life that they ask for, so that there is one wiring and one secret behind all of them.
async fn hold(inside: &Inside<'_>, site: &Site, numbers: Range<usize>) -> Result<usize> {
    /// What a key holds before the message: the kind of claim, its hash, and the length of the project's name, which is none.
    const KEY_HEAD_BYTES: usize = 1 + 32 + 8;
    let step = site.steps.first().context("a site without instances")?;
    let service = inside.service();
    let mut bytes = 0;
    for number in numbers {
        let request = ResolveCredentialsRequest {
            instance_id: step.instance.to_string(),
            min_token_ttl: Some(prost_types::Duration { seconds: 60, nanos: i32::try_from(number)? }),
            ..Default::default()
        };
        let call = inside.keep(&service, request).await?;
        bytes += KEY_HEAD_BYTES + call.message.len() + crate::load::MESSAGE_HEAD_BYTES + call.answer_bytes;
    }
    Ok(bytes)
}

fn once(figure: f64) -> Spread {
    Spread { median: figure, min: figure, max: figure }
}
