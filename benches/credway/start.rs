//! G7: from exec to the first answered resolve.

use anyhow::Result;
use credway::clock::Clock;

use crate::daemon;
use crate::load;
use crate::report::{Report, Target};
use crate::site::Site;
use crate::stats::Spread;

/// Starts the daemon `starts` times on a filled site, with nothing warm but the machine's own caches.
pub(crate) async fn measure(site: &Site, starts: usize, target: Target, report: &mut Report) -> Result<()> {
    let mut milliseconds = Vec::with_capacity(starts);
    for step in site.steps.iter().cycle().take(starts) {
        let before = Clock::System.moment();
        let daemon = daemon::start(site)?;
        load::answer_of(&daemon.unix, &daemon::request(step), site.token.expose()).await?;
        milliseconds.push(Clock::System.moment().since(before).as_secs_f64() * 1e3);
        // Awaited beside this runtime: the daemon drains until the connection of the call says that it is closed.
        tokio::task::spawn_blocking(move || daemon.server.stop()).await??;
    }
    if let Some(spread) = Spread::of(milliseconds) {
        report.measured("G7", format!("exec to first resolve, {}", site.name), spread, "ms", target);
    }
    Ok(())
}
