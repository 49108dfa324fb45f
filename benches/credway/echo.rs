//! The yardstick: a bare tonic call that answers with the bytes of a real resolution, whatever it is asked.
//!
//! It runs in a process of its own, this binary started again, in one of two kinds.

use std::convert::Infallible;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::task::{Context as TaskContext, Poll};

use anyhow::{Context, Result, bail};
use bytes::{Buf, BufMut, Bytes};
use futures_util::future::{BoxFuture, Ready, ready};
use futures_util::stream;
use http::{Request, Response};
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tonic::Status;
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::server::{NamedService, UnaryService};
use tonic::service::Routes;
use tonic::transport::server::TcpIncoming;

use crate::load::{Endpoint, Gathering};
use crate::process::{Reached, Server, Side};

/// How the echo is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// As tonic serves by default: its own server on a multi-thread runtime.
    Default,
    /// As the daemon serves: hyper over a stream without vectored writes, on a current-thread runtime.
    Tuned,
}

impl Kind {
    fn argument(self) -> &'static str {
        match self {
            Self::Default => "echo-default",
            Self::Tuned => "echo-tuned",
        }
    }
}

/// Starts this binary again, as an echo that answers `answer`; what it needs lies in `dir`.
pub(crate) fn start(kind: Kind, answer: &[u8], dir: &Path) -> Result<Side> {
    let path = |extension: &str| dir.join(kind.argument()).with_extension(extension);
    fs::write(path("answer"), answer)?;
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(kind.argument()).args([path("answer"), path("sock"), path("ready")]);
    let mut server = Server::spawn(&mut command)?;
    let reached = server.reached(&path("ready"))?;
    let tcp = Endpoint::Tcp(reached.grpc.context("the echo names no address")?);
    Ok(Side { server, tcp, unix: Endpoint::Unix(path("sock")), http: None })
}

/// What the binary does when it was started as an echo: serves until it is killed. `None` if it was not.
pub(crate) fn role(arguments: &[String]) -> Option<Result<()>> {
    let kind = [Kind::Default, Kind::Tuned]
        .into_iter()
        .find(|kind| arguments.first().is_some_and(|a| a == kind.argument()))?;
    Some(match arguments {
        [_, answer, socket, ready_file] => serve(kind, Path::new(answer), Path::new(socket), Path::new(ready_file)),
        _ => Err(anyhow::anyhow!("an echo takes the files of its answer, its socket and its readiness")),
    })
}

fn serve(kind: Kind, answer: &Path, socket: &Path, ready_file: &Path) -> Result<()> {
    // Not to outlive a bench that was killed.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))?;
    let echo = EchoService { answer: fs::read(answer)?.into() };
    let mut runtime = match kind {
        Kind::Default => tokio::runtime::Builder::new_multi_thread(),
        Kind::Tuned => tokio::runtime::Builder::new_current_thread(),
    };
    runtime.enable_all().build()?.block_on(async {
        let tcp = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await?;
        let unix = UnixListener::bind(socket)?;
        let grpc = Some(tcp.local_addr()?.to_string());
        write_whole(ready_file, &serde_json::to_vec(&Reached { grpc, ..Reached::default() })?)?;
        match kind {
            Kind::Default => serve_default(tcp, unix, echo).await,
            Kind::Tuned => serve_tuned(tcp, unix, echo).await,
        }
    })
}

pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let part: PathBuf = path.with_extension("part");
    fs::write(&part, bytes)?;
    Ok(fs::rename(part, path)?)
}

/// Two of tonic's own servers, with nothing set.
async fn serve_default(tcp: TcpListener, unix: UnixListener, echo: EchoService) -> Result<()> {
    let tcp = TcpIncoming::from(tcp).with_nodelay(Some(true));
    let unix = stream::try_unfold(unix, |listener| async {
        let (stream, _) = listener.accept().await?;
        std::io::Result::Ok(Some((stream, listener)))
    });
    let server = || tonic::transport::Server::builder().add_service(echo.clone());
    tokio::try_join!(server().serve_with_incoming(tcp), server().serve_with_incoming(unix))?;
    bail!("an echo's listener ended")
}

/// One accept loop for each listener, and for each connection what `src/grpc/listen/connection.rs` does.
async fn serve_tuned(tcp: TcpListener, unix: UnixListener, echo: EchoService) -> Result<()> {
    let routes = Routes::new(echo).prepare();
    loop {
        tokio::select! {
            accepted = tcp.accept() => {
                let (stream, _) = accepted?;
                stream.set_nodelay(true)?;
                tokio::spawn(serve_connection(stream, routes.clone()));
            }
            accepted = unix.accept() => {
                tokio::spawn(serve_connection(accepted?.0, routes.clone()));
            }
        }
    }
}

async fn serve_connection(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, routes: Routes) {
    use credway::limits;
    let served = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(limits::KEEPALIVE_INTERVAL)
        .keep_alive_timeout(limits::KEEPALIVE_TIMEOUT)
        .max_concurrent_streams(limits::STREAMS_PER_CONNECTION_MAX)
        .auto_date_header(false)
        .serve_connection(TokioIo::new(Gathering(stream)), TowerToHyperService::new(routes));
    // It ends when the bench hangs up.
    let _ = served.await;
}

/// The whole service: one answer.
#[derive(Clone)]
struct EchoService {
    answer: Bytes,
}

impl NamedService for EchoService {
    const NAME: &'static str = "credway.v1.CredentialService";
}

impl tower::Service<Request<Body>> for EchoService {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    // As tonic's generated code does it, with a codec for bytes.
    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let method = EchoMethod { answer: self.answer.clone() };
        Box::pin(async move { Ok(tonic::server::Grpc::new(BytesCodec).unary(method, request).await) })
    }
}

struct EchoMethod {
    answer: Bytes,
}

impl UnaryService<Bytes> for EchoMethod {
    type Response = Bytes;
    type Future = Ready<Result<tonic::Response<Bytes>, Status>>;

    fn call(&mut self, _: tonic::Request<Bytes>) -> Self::Future {
        ready(Ok(tonic::Response::new(self.answer.clone())))
    }
}

/// Messages as the bytes they are on the wire.
struct BytesCodec;

impl Codec for BytesCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for BytesCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for BytesCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}
