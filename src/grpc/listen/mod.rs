//! The listeners of the data plane: a Unix socket, TCP on loopback, TCP with mutual TLS. All are bound before any is served.
//! Who connects is proved here and told to the service as [`Peer`]; what that peer may do is not decided here.
//!
//! hyper serves the connections, not tonic's `Server`: that one answers an expired deadline with `CANCELLED`, and cannot
//! take new certificates.

mod accept;
mod connection;
mod owner;
mod peer;
mod tls;
mod unix;
mod workers;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;
use tokio::net::{TcpSocket, UnixListener};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info};

use self::accept::{Complaints, Socket};
pub use self::owner::OwnerError;
pub use self::peer::Peer;
pub use self::tls::{TlsError, TlsReloader};
pub use self::unix::{Access, SocketError};
pub use self::workers::Workers;
use super::hot::AnswerBody;
use crate::clock::Clock;
use crate::{config, limits};

/// Why a listener could not be bound.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("there is nothing to listen on: set `grpc.socket` or `grpc.address`")]
    Nothing,
    #[error("`grpc.tls` is set, but no TCP listener: set `grpc.address` too, or leave TLS out")]
    TlsWithoutAddress,
    #[error(
        "{address} is not a loopback address, where credentials would travel in the clear: \
         set `grpc.tls`, or listen on 127.0.0.1 or [::1]"
    )]
    PlaintextOffLoopback { address: SocketAddr },
    #[error("cannot listen on {address}: choose a free address of this machine")]
    Tcp { address: SocketAddr, source: io::Error },
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error("cannot start to accept on socket {}", path.display())]
    Accept { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// What answers the calls on a listener's connections.
pub trait Calls: Clone + Send + Sync + 'static {
    type Answering: Future<Output = Response<AnswerBody>> + Send + 'static;

    /// Answers `request`, which came from `peer`.
    fn answer(&self, request: Request<Incoming>, peer: &Peer) -> Self::Answering;
}

/// Where a listener is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalAddress {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

impl fmt::Display for LocalAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LocalAddress::Unix(path) => write!(f, "unix:{}", path.display()),
            LocalAddress::Tcp(address) => address.fmt(f),
        }
    }
}

/// What serving needs beside the service.
#[derive(Clone, Debug)]
pub struct ServeContext {
    /// Counts the connections: whoever drains waits for it.
    pub tracker: TaskTracker,
    /// Cancelled when the listeners are to stop accepting, and the connections to end with their calls in flight.
    pub drain: CancellationToken,
    /// Cancelled when the drain has taken too long: what is still open is closed.
    pub cut: CancellationToken,
    /// On which the connections are served.
    pub workers: Workers,
    /// By which a listener does not complain of the same thing too often.
    pub clock: Clock,
}

/// A bound listener. Clients may already connect, and wait until it is served.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    address: LocalAddress,
}

impl Listener {
    /// Binds every listener that is configured, or none. To be called inside a tokio runtime.
    pub fn bind(config: &config::Grpc) -> Result<Vec<Listener>, ListenError> {
        let tcp = match (config.address, &config.tls) {
            (None, Some(_)) => return Err(ListenError::TlsWithoutAddress),
            (None, None) if config.socket.is_none() => return Err(ListenError::Nothing),
            (None, None) => None,
            (Some(address), tls) => Some(bind_tcp(address, tls.as_ref())?),
        };
        let unix = config.socket.as_ref().map(bind_unix).transpose()?;
        Ok(unix.into_iter().chain(tcp).collect())
    }

    /// Where it is reached, with the port that the system chose if 0 was asked for.
    pub fn local_address(&self) -> &LocalAddress {
        &self.address
    }

    /// What reads the TLS files again, if this listener offers TLS.
    pub fn tls(&self) -> Option<Arc<TlsReloader>> {
        match &self.socket {
            Socket::Tls { tls, .. } => Some(Arc::clone(tls)),
            Socket::Unix { .. } | Socket::Tcp(_) => None,
        }
    }

    /// Accepts connections until the drain begins, each served in a task of its own. The listener is closed, and its socket
    /// file gone, when this returns; the connections may outlive it.
    ///
    /// When all [`limits::CONNECTIONS_PER_LISTENER_MAX`] places are taken, further peers wait in the system's queue: a burst
    /// passes without an error for anyone, and dead peers make room within a keepalive.
    pub async fn serve(self, calls: impl Calls, context: ServeContext) {
        info!("gRPC is served on {}", self.address);
        let places = Arc::new(Semaphore::new(limits::CONNECTIONS_PER_LISTENER_MAX));
        let mut complaints = Complaints::none(context.clock.clone());
        loop {
            let (opening, place) = tokio::select! {
                biased;
                () = context.drain.cancelled() => break,
                accepted = self.socket.accept(&self.address, &places, &mut complaints) => accepted,
            };
            let (calls, own_context) = (calls.clone(), context.clone());
            let serve = async move {
                opening.serve(calls, &own_context).await;
                drop(place);
            };
            context.tracker.spawn_on(serve, context.workers.next());
        }
        debug!("gRPC is no longer accepted on {}", self.address);
    }
}

fn bind_unix(config: &config::UnixSocket) -> Result<Listener, ListenError> {
    let (listener, file) = unix::bind(config)?;
    let accept = |source| ListenError::Accept { path: config.path.clone(), source };
    let listener = UnixListener::from_std(listener).map_err(accept)?;
    Ok(Listener { address: LocalAddress::Unix(file.path().to_owned()), socket: Socket::Unix { _file: file, listener } })
}

fn bind_tcp(address: SocketAddr, tls: Option<&config::MutualTls>) -> Result<Listener, ListenError> {
    if tls.is_none() && !address.ip().to_canonical().is_loopback() {
        return Err(ListenError::PlaintextOffLoopback { address });
    }
    let tls = tls.cloned().map(TlsReloader::load).transpose()?.map(Arc::new);
    let bind = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // A restart must not wait for the old connections' last packets.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let listener = socket.listen(limits::TCP_BACKLOG)?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    let (listener, local) = bind().map_err(|source| ListenError::Tcp { address, source })?;
    let socket = match tls {
        Some(tls) => Socket::Tls { listener, tls },
        None => Socket::Tcp(listener),
    };
    Ok(Listener { socket, address: LocalAddress::Tcp(local) })
}
