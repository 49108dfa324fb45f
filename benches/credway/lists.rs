//! G8: a page of a list over REST, however long the list is.

use anyhow::{Context, Result};
use credway::clock::Clock;
use data_encoding::BASE64URL_NOPAD;

use crate::daemon;
use crate::http1::Connection;
use crate::report::{Report, Target};
use crate::site::Site;
use crate::stats::Spread;

/// A page of the Console is read by a person.
const MILLISECONDS_MAX: f64 = 50.0;

/// Asks a daemon over each site for pages that cost it differently: one after the other, as a person does.
pub(crate) async fn measure(sites: &[Site], rounds: usize, report: &mut Report) -> Result<()> {
    for site in sites {
        eprintln!("G8: lists, {} with {} instances", site.name, site.instances);
        let daemon = daemon::start(site)?;
        let address = daemon.http.clone().context("the daemon names no HTTP address")?;
        let mut connection = Connection::open(&address).await?;
        for (what, path) in pages(site)? {
            let request = format!(
                "GET {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {}\r\n\r\n",
                site.token.expose()
            );
            // The first one, with which the database comes to know the statement, is not counted.
            connection.exchange(request.as_bytes()).await.with_context(|| what.to_owned())?;
            let mut milliseconds = Vec::with_capacity(rounds);
            for _ in 0..rounds {
                let before = Clock::System.moment();
                connection.exchange(request.as_bytes()).await?;
                milliseconds.push(Clock::System.moment().since(before).as_secs_f64() * 1e3);
            }
            let what = format!("{what}, {} connections, {}", site.instances, site.name);
            if let Some(spread) = Spread::of(milliseconds) {
                report.measured("G8", what, spread, "ms", Target::AtMost(MILLISECONDS_MAX));
            }
        }
        drop(connection);
        tokio::task::spawn_blocking(move || daemon.server.stop()).await??;
    }
    Ok(())
}

/// Pages, each with what it is. The last three find nothing, and so look through all there is.
fn pages(site: &Site) -> Result<Vec<(&'static str, String)>> {
    let middle = site.steps.get(site.steps.len() / 2).context("a site without instances")?;
    let middle = BASE64URL_NOPAD.encode(middle.address.connection.to_string().as_bytes());
    let list = |rest: &str| format!("/v1/connections?page_size=50{rest}");
    Ok(vec![
        ("a page of connections", list("")),
        ("a page in the midst of them", list(&format!("&page_token={middle}"))),
        ("a page of 200", "/v1/connections?page_size=200".to_owned()),
        ("a page of instances", "/v1/mcp/instances?page_size=50".to_owned()),
        ("a page of those in a state", list("&status=reconnect")),
        ("a page of those with a text", list("&q=nowhere")),
        ("a page of those with a text, in a state", list("&q=nowhere&status=active")),
    ])
}
