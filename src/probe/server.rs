//! The checks of one MCP server, from its address to its tools' schemas.

use std::sync::Arc;

use jiff::Timestamp;
use reqwest::{Client, StatusCode, header};
use rustls::ClientConfig;
use url::Url;

use super::egress::Egress;
use super::mcp;
use super::reach::{self, Place};
use super::report::{Finding, Found, Kind, Run};
use super::tools;
use crate::limits;
use crate::model::server::McpTool;

/// What is seen of a server.
#[derive(Debug, Default)]
pub struct Seen {
    /// Its tools; `None` if they could not be listed.
    pub tools: Option<Vec<McpTool>>,
    /// The version of the protocol that was agreed on.
    pub protocol: Option<String>,
}

/// Looks at the server at `url`.
pub(super) async fn look(url: &Url, egress: &Egress, tls: &Arc<ClientConfig>, now: Timestamp, run: &mut Run) -> Seen {
    let Some(place) = Place::of(url) else { return Seen::default() };
    let checked = reach::find(egress, &place, run).await;
    let handshake = async {
        let checked = checked.as_ref().ok_or_else(|| Finding::skipped("there is no address"))?;
        reach::tls(url, checked, Arc::clone(tls), now).await
    };
    run.check(Kind::Tls, limits::PROBE_TLS_DEADLINE, handshake).await;
    let asked = async {
        let checked = checked.as_ref().ok_or_else(|| Finding::skipped("there is no address"))?;
        ask(url, reach::client(&place, checked, tls, limits::PROBE_DEADLINE)?, egress).await
    };
    let client = run.check(Kind::Http, limits::PROBE_HTTP_DEADLINE, asked).await;
    let greeting = async {
        let client = client.ok_or_else(|| Finding::skipped("there is no client"))?;
        mcp::greet(&client, url).await
    };
    let deadline = limits::PROBE_HANDSHAKE_DEADLINE + limits::PROBE_SECOND_ERA_DEADLINE;
    let greeted = run.check(Kind::Protocol, deadline, Box::pin(greeting)).await;
    let listing = async {
        let greeted = greeted.as_ref().ok_or_else(|| Finding::skipped("there is no session"))?;
        let (tools, _) = greeted.tools().await?;
        tools::check_names(tools)
    };
    let tools = run.check(Kind::Tools, limits::PROBE_TOOLS_DEADLINE, listing).await;
    let protocol = greeted.as_ref().map(|greeted| greeted.version.clone());
    if let Some(greeted) = greeted {
        greeted.leave().await;
    }
    run.check(Kind::Schemas, limits::PROBE_TOOLS_DEADLINE, async {
        tools::check_schemas(tools.as_deref().unwrap_or_default())
    })
    .await;
    Seen { tools, protocol }
}

/// The check of HTTP: whether something answers that could be an MCP server. It is not asked to do anything.
async fn ask(url: &Url, client: Client, egress: &Egress) -> Found<Client> {
    let request = client.get(url.clone()).header(header::ACCEPT, "text/event-stream, application/json");
    let response = request.send().await.map_err(|error| reach::unreachable(error.is_connect()))?;
    let status = response.status();
    if status.is_redirection() {
        return Err(redirected(url, &response, egress));
    }
    if status.is_server_error() {
        let reason = format!("it answers with {}", named(status));
        return Err(Finding::fail("HTTP_FAILED", reason, "see the log of the server, or of the proxy before it"));
    }
    let kind = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let finding = match status {
        // Servers without streams of their own refuse GET; those with sessions want to be greeted first.
        _ if kind.starts_with("text/html") && status.is_success() => Finding::warning(
            "it answers with a web page",
            "give the URL of the MCP endpoint itself, which often ends in /mcp",
        ),
        StatusCode::NOT_FOUND => {
            Finding::warning("there is nothing at this path (404)", "check the path: MCP endpoints often end in /mcp")
        }
        _ => Finding::pass(format!("it answers with {}", named(status))),
    };
    Ok((client, finding))
}

fn named(status: StatusCode) -> String {
    status.canonical_reason().map_or_else(|| status.as_u16().to_string(), |name| format!("{} {name}", status.as_u16()))
}

/// Only what kind of place it leads to is told: the rest of a location may hold anything.
fn redirected(url: &Url, response: &reqwest::Response, egress: &Egress) -> Finding {
    let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
    let target = location.and_then(|location| url.join(location).ok());
    let literal = target.as_ref().and_then(|target| match target.host()? {
        url::Host::Ipv4(address) => Some(address.into()),
        url::Host::Ipv6(address) => Some(address.into()),
        url::Host::Domain(_) => None,
    });
    let place = match literal.and_then(|address| egress.refuses(None, address)) {
        Some(inner) => format!(" to {}", inner.word()),
        None => String::new(),
    };
    let reason = format!("it answers with a redirect{place} ({}), which is not followed", response.status().as_u16());
    Finding::fail("REDIRECT", reason, "give the URL where the MCP endpoint is")
}
