//! The load: a client that speaks HTTP/2 by the `h2` crate alone, as tonic's own would cost more than the server it measures.
//!
//! Every answer is checked: status 0, and as long as it must be.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use credway::clock::Clock;
use futures_util::future::{LocalBoxFuture, try_join_all};
use h2::RecvStream;
use h2::client::SendRequest;
use http::{HeaderMap, Request};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// The method under load.
pub(crate) const RESOLVE: &str = "/credway.v1.CredentialService/ResolveCredentials";

/// What gRPC puts before a message: a flag and its length.
pub(crate) const MESSAGE_HEAD_BYTES: usize = 5;

/// Where a server listens.
#[derive(Clone, Debug)]
pub(crate) enum Endpoint {
    Tcp(String),
    Unix(PathBuf),
}

/// Requests of a fast window: room for their latencies, so that no window waits for memory.
const LATENCIES: usize = 1 << 18;

/// How many connections there are, and how many requests are in flight on each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub connections: usize,
    pub streams: usize,
}

/// The requests of one method, ready to be sent, and how long an answer is.
pub(crate) struct Calls {
    head: Request<()>,
    bodies: Vec<Bytes>,
    answer_bytes: RangeInclusive<usize>,
    next: Cell<usize>,
}

impl Calls {
    /// Sends each of `messages` in turn, with `token`. Answers are `answer_bytes` long.
    pub(crate) fn new(messages: &[Vec<u8>], token: &str, answer_bytes: RangeInclusive<usize>) -> Result<Self> {
        Self::of(RESOLVE, messages, token, answer_bytes)
    }

    fn of(method: &str, messages: &[Vec<u8>], token: &str, answer_bytes: RangeInclusive<usize>) -> Result<Self> {
        let head = Request::post(format!("http://credway{method}"))
            .header("te", "trailers")
            .header("content-type", "application/grpc")
            .header("authorization", format!("Bearer {token}"))
            .body(())?;
        let bodies = messages.iter().map(|message| framed(message)).collect();
        Ok(Self { head, bodies, answer_bytes, next: Cell::new(0) })
    }

    fn next_body(&self) -> Bytes {
        let at = self.next.get();
        self.next.set((at + 1) % self.bodies.len());
        self.bodies[at].clone()
    }
}

fn framed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(MESSAGE_HEAD_BYTES + message.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).expect("a request of some hundred bytes"));
    frame.put_slice(message);
    frame.freeze()
}

/// What one window saw.
#[derive(Debug, Default)]
pub(crate) struct Window {
    /// Nanoseconds, one for each request.
    pub latencies: Vec<u32>,
    pub elapsed: Duration,
}

/// Someone who keeps a server busy.
pub(crate) trait Load {
    /// As many requests as the server answers in `length`, always as many in flight as there can be; the last ones are
    /// waited for.
    fn window(&mut self, length: Duration) -> LocalBoxFuture<'_, Result<Window>>;
}

/// A window of workers, each with one request in flight.
pub(crate) async fn window<W: AsyncFnMut() -> Result<()>>(
    length: Duration,
    workers: impl Iterator<Item = W>,
) -> Result<Window> {
    let clock = Clock::System;
    let latencies = RefCell::new(Vec::with_capacity(LATENCIES));
    let started = clock.moment();
    let end = started + length;
    let work = async |mut request: W| {
        let mut before = clock.moment();
        while before < end {
            request().await?;
            let after = clock.moment();
            let nanoseconds = u32::try_from(after.since(before).as_nanos()).unwrap_or(u32::MAX);
            latencies.borrow_mut().push(nanoseconds);
            before = after;
        }
        anyhow::Ok(())
    };
    try_join_all(workers.map(work)).await?;
    let elapsed = clock.moment().since(started);
    Ok(Window { latencies: latencies.into_inner(), elapsed })
}

/// Connections to one server that speaks gRPC.
pub(crate) struct Client {
    senders: Vec<SendRequest<Bytes>>,
    streams: usize,
    calls: Rc<Calls>,
}

impl Load for Client {
    fn window(&mut self, length: Duration) -> LocalBoxFuture<'_, Result<Window>> {
        let streams = self.streams().map(|mut sender| {
            let calls = Rc::clone(&self.calls);
            async move || call(&mut sender, &calls).await
        });
        Box::pin(window(length, streams))
    }
}

impl Client {
    /// Connects to `endpoint`. Must be called on a runtime that lives as long as the client.
    pub(crate) async fn connect(endpoint: &Endpoint, shape: Shape, calls: Rc<Calls>) -> Result<Self> {
        let senders = try_join_all((0..shape.connections).map(|_| connect(endpoint))).await?;
        Ok(Self { senders, streams: shape.streams, calls })
    }

    /// `rounds` times, all requests at once and then all answers awaited: the server has a full set of answers ready each
    /// time. Answers how many requests that were.
    pub(crate) async fn bursts(&self, rounds: usize) -> Result<usize> {
        for _ in 0..rounds {
            try_join_all(self.streams().map(async |mut sender| call(&mut sender, &self.calls).await)).await?;
        }
        Ok(rounds * self.streams().count())
    }

    /// Every request there is, once: what the server caches is cached then.
    pub(crate) async fn each_once(&self) -> Result<()> {
        let rounds = self.calls.bodies.len().div_ceil(self.streams().count());
        self.bursts(rounds).await.map(drop)
    }

    /// Every request there is, once, so many a second if the server keeps up with them, until `is_over` says so. Answers how many
    /// were answered.
    pub(crate) async fn each_once_at(&self, per_second: f64, is_over: &Cell<bool>) -> Result<usize> {
        let (clock, next, answered) = (Clock::System, Cell::new(0), Cell::new(0));
        let started = clock.moment();
        let work = async |mut sender: SendRequest<Bytes>| {
            while next.get() < self.calls.bodies.len() && !is_over.get() {
                let at = next.replace(next.get() + 1);
                let due = Duration::from_secs_f64(at as f64 / per_second);
                tokio::time::sleep(due.saturating_sub(clock.moment().since(started))).await;
                call(&mut sender, &self.calls).await?;
                answered.set(answered.get() + 1);
            }
            anyhow::Ok(())
        };
        try_join_all(self.streams().map(work)).await?;
        Ok(answered.get())
    }

    /// A sender for each request that may be in flight.
    fn streams(&self) -> impl Iterator<Item = SendRequest<Bytes>> {
        self.senders.iter().flat_map(|sender| std::iter::repeat_n(sender, self.streams)).cloned()
    }
}

async fn call(sender: &mut SendRequest<Bytes>, calls: &Calls) -> Result<()> {
    let received = exchange(sender, &calls.head, calls.next_body(), |_| ()).await?;
    let expected = &calls.answer_bytes;
    ensure!(expected.contains(&received), "an answer of {received} bytes instead of {expected:?}");
    Ok(())
}

/// The message that one call under load is answered with.
pub(crate) async fn answer_of(endpoint: &Endpoint, message: &[u8], token: &str) -> Result<Bytes> {
    call_once(endpoint, RESOLVE, message, token).await
}

/// The message that one call of any method is answered with.
pub(crate) async fn call_once(endpoint: &Endpoint, method: &str, message: &[u8], token: &str) -> Result<Bytes> {
    let calls = Calls::of(method, &[message.to_vec()], token, 0..=usize::MAX)?;
    let mut sender = connect(endpoint).await?;
    let mut answer = BytesMut::new();
    exchange(&mut sender, &calls.head, calls.next_body(), |chunk| answer.extend_from_slice(chunk)).await?;
    ensure!(answer.len() >= MESSAGE_HEAD_BYTES, "an answer without a message");
    Ok(answer.freeze().slice(MESSAGE_HEAD_BYTES..))
}

/// One call; the number of bytes it was answered with, gRPC's own included.
async fn exchange(
    sender: &mut SendRequest<Bytes>,
    head: &Request<()>,
    body: Bytes,
    mut take: impl FnMut(&[u8]),
) -> Result<usize> {
    poll_fn(|cx| sender.poll_ready(cx)).await?;
    let (response, mut stream) = sender.send_request(head.clone(), false)?;
    stream.send_data(body, true)?;
    let (head, mut body) = response.await?.into_parts();
    ensure!(head.status == 200, "HTTP status {}", head.status);
    let received = drain(&mut body, &mut take).await?;
    let trailers = body.trailers().await?;
    check_status(trailers.as_ref().unwrap_or(&head.headers))?;
    Ok(received)
}

async fn drain(body: &mut RecvStream, take: &mut impl FnMut(&[u8])) -> Result<usize> {
    let mut received = 0;
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        take(&chunk);
        received += chunk.len();
        body.flow_control().release_capacity(chunk.len())?;
    }
    Ok(received)
}

fn check_status(headers: &HeaderMap) -> Result<()> {
    let status = headers.get("grpc-status").context("an answer without grpc-status")?;
    if status != "0" {
        bail!("grpc-status {status:?}: {:?}", headers.get("grpc-message"));
    }
    Ok(())
}

async fn connect(endpoint: &Endpoint) -> Result<SendRequest<Bytes>> {
    match endpoint {
        Endpoint::Tcp(address) => {
            let stream = TcpStream::connect(address).await.with_context(|| format!("cannot connect to {address}"))?;
            stream.set_nodelay(true)?;
            shake_hands(stream).await
        }
        Endpoint::Unix(path) => {
            let stream = UnixStream::connect(path).await;
            shake_hands(stream.with_context(|| format!("cannot connect to {}", path.display()))?).await
        }
    }
}

async fn shake_hands(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<SendRequest<Bytes>> {
    const WINDOW_BYTES: u32 = 16 * 1024 * 1024;
    let mut settings = h2::client::Builder::new();
    // Wide windows: what is measured are answers, not window updates.
    settings.initial_window_size(WINDOW_BYTES).initial_connection_window_size(WINDOW_BYTES);
    let (sender, connection) = settings.handshake(Gathering(stream)).await?;
    tokio::spawn(async move {
        // A connection that breaks is told by the calls on it.
        let _ = connection.await;
    });
    Ok(sender)
}

/// A stream that offers no vectored writes, so that h2 gathers small frames into one write. The client uses it to be light,
/// the tuned echo because the daemon does so.
pub(crate) struct Gathering<T>(pub T);

impl<T: AsyncRead + Unpin> AsyncRead for Gathering<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

/// The vectored methods are left to their defaults, which offer nothing.
impl<T: AsyncWrite + Unpin> AsyncWrite for Gathering<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
