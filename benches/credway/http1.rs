//! Load over HTTP/1.1: one request in flight on each connection, and nothing more than it takes to check its answer.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures_util::future::{LocalBoxFuture, try_join_all};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::load::{self, Load, Window};

/// An answer holds one secret, or one config, with what belongs to it.
const ANSWER_BYTES_MAX: usize = 8 * 1024;

/// Sends requests in turn, one in flight on each connection.
pub(crate) struct Client {
    connections: Vec<Connection>,
    requests: Vec<Vec<u8>>,
    next: Rc<Cell<usize>>,
}

impl Client {
    pub(crate) async fn connect(address: &str, connections: usize, requests: Vec<Vec<u8>>) -> Result<Self> {
        let connections = try_join_all((0..connections).map(|_| Connection::open(address))).await?;
        Ok(Self { connections, requests, next: Rc::default() })
    }

    /// Every request there is, once: what the server caches is cached then.
    pub(crate) async fn each_once(&mut self) -> Result<()> {
        let connection = self.connections.first_mut().context("a client without a connection")?;
        for request in &self.requests {
            connection.exchange(request).await?;
        }
        Ok(())
    }
}

impl Load for Client {
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

pub(crate) struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Connection {
    pub(crate) async fn open(address: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, received: Vec::with_capacity(ANSWER_BYTES_MAX) })
    }

    /// Sends `request` and reads its answer, which must be a good one with a body as long as it says.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> Result<()> {
        self.stream.write_all(request).await?;
        self.received.clear();
        loop {
            ensure!(self.stream.read_buf(&mut self.received).await? > 0, "the server hung up");
            if let Some(length) = answer_length(&self.received)? {
                ensure!(self.received.len() <= length, "the server answers more than it was asked");
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
        bail!("the server answers {:?}", head.lines().next());
    }
    let value = head.lines().find_map(|line| {
        let (name, value) = line.split_at_checked(LENGTH.len())?;
        name.eq_ignore_ascii_case(LENGTH).then_some(value)
    });
    let body: usize = value.context("an answer without a length")?.trim().parse()?;
    Ok(Some(end + END.len() + body))
}
