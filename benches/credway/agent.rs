//! G2: the server's CPU for one request, over gRPC and for an MCP process, against the cached GET of the AWS Secrets Manager
//! Agent, where one runs.

use std::env::{VarError, var};
use std::rc::Rc;

use anyhow::{Context, Result};
use credway::grpc::proto::{IssueRunTokenRequest, IssueRunTokenResponse};
use prost::Message;

use crate::http1;
use crate::load::{self, Calls, Client, Load};
use crate::process::{Pinned, Server, Side};
use crate::report::{Report, Target};
use crate::rounds::{Contest, Contestant, Pace};
use crate::site::Site;
use crate::wire::{CLIENT_CPU, MANY, SERVER_CPU};

/// MCP processes that ask in turn, each by a run token of its own.
const PROCESSES: usize = 64;

const ISSUE_RUN_TOKEN: &str = "/credway.v1.CredentialService/IssueRunToken";

/// Who takes part, in this order.
const GRPC: usize = 0;
const MCP_CONFIG: usize = 1;
const AGENT: usize = 2;

/// An agent that runs already.
struct Agent {
    server: Server,
    address: String,
    request: Vec<u8>,
}

impl Agent {
    /// `CREDWAY_BENCH_AGENT=127.0.0.1:2773/secretsmanager/get?secretId=bench`, with its token and the id of its process beside.
    fn told() -> Result<Option<Self>> {
        let url = match var("CREDWAY_BENCH_AGENT") {
            Ok(url) => url,
            Err(VarError::NotPresent) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let id = var("CREDWAY_BENCH_AGENT_PID").context("CREDWAY_BENCH_AGENT_PID is to name the agent's process")?;
        let token =
            var("CREDWAY_BENCH_AGENT_TOKEN").context("CREDWAY_BENCH_AGENT_TOKEN is to hold the agent's token")?;
        let (address, path) = url.split_once('/').context("CREDWAY_BENCH_AGENT is host:port/path")?;
        let request =
            format!("GET /{path} HTTP/1.1\r\nHost: {address}\r\nX-Aws-Parameters-Secrets-Token: {token}\r\n\r\n");
        let server = Server::running(id.parse().context("CREDWAY_BENCH_AGENT_PID is a number")?);
        Ok(Some(Self { server, address: address.to_owned(), request: request.into_bytes() }))
    }
}

/// The daemon asked in both ways, and the agent; 64 in flight each.
pub(crate) async fn compare(
    daemon: &Side,
    site: &Site,
    calls: &Rc<Calls>,
    pace: Pace,
    report: &mut Report,
) -> Result<()> {
    eprintln!("G2: 64 in flight");
    let agent = Agent::told()?;
    let _pinned = Pinned::to(CLIENT_CPU)?;
    daemon.server.pin(SERVER_CPU)?;
    let resolves = Client::connect(&daemon.tcp, MANY, Rc::clone(calls)).await?;
    resolves.each_once().await?;
    let in_flight = MANY.connections * MANY.streams;
    let http = daemon.http.as_deref().context("the daemon names no HTTP address")?;
    let mut configs = http1::Client::connect(http, in_flight, mcp_requests(daemon, site, http).await?).await?;
    configs.each_once().await?;
    let side = |server, client: Box<dyn Load>| Contestant { server, client };
    let mut contestants = vec![side(&daemon.server, Box::new(resolves)), side(&daemon.server, Box::new(configs))];
    if let Some(agent) = &agent {
        agent.server.pin(SERVER_CPU)?;
        let mut reads = http1::Client::connect(&agent.address, in_flight, vec![agent.request.clone()]).await?;
        reads.each_once().await?;
        contestants.push(side(&agent.server, Box::new(reads)));
    }
    let contest = Contest::run(&mut contestants, pace).await?;
    tell(&contest, agent.is_some(), report);
    Ok(())
}

/// What each process sends: the config of its instance, all six keys of it.
async fn mcp_requests(daemon: &Side, site: &Site, address: &str) -> Result<Vec<Vec<u8>>> {
    let mut requests = Vec::with_capacity(PROCESSES);
    let keys: Vec<String> = site.keys().map(|key| format!("{key:?}:{{\"type\":\"string\"}}")).collect();
    let body = format!("{{\"config_schema\":{{{}}}}}", keys.join(","));
    for step in site.steps.iter().cycle().take(PROCESSES) {
        let asked = IssueRunTokenRequest { instance_id: step.instance.to_string(), ..Default::default() };
        let issued = load::call_once(&daemon.tcp, ISSUE_RUN_TOKEN, &asked.encode_to_vec(), site.token.expose()).await?;
        let token = IssueRunTokenResponse::decode(issued)?.token;
        let head = format!(
            "POST /mcp/config HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        requests.push((head + &body).into_bytes());
    }
    Ok(requests)
}

fn tell(contest: &Contest, has_agent: bool, report: &mut Report) {
    let sides = [
        (GRPC, "a gRPC resolve, 8 connections x 8 streams", Target::AtMost(0.70)),
        (MCP_CONFIG, "POST /mcp/config with a run token", Target::AtMost(0.85)),
    ];
    for (position, what, target) in sides {
        let own = contest.figure(position, |score| score.cpu_per_request).times(1e-3);
        report.measured("G2", format!("server CPU per request, {what}"), own, "us", Target::None);
        let compared = format!("server CPU per request / AWS Secrets Manager Agent's cached GET, {what}");
        if has_agent {
            let ratio = contest.ratio(position, AGENT, |score| score.cpu_per_request);
            report.measured("G2", compared, ratio, "x", target);
        } else {
            report.skipped("G2", compared, "no agent here: start one and name it in CREDWAY_BENCH_AGENT");
        }
    }
}
