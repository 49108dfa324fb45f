//! From a bound socket to connections whose peer is known.

use std::io;
use std::mem::replace;
use std::net::SocketAddr;
use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tower::{BoxError, Service};
use tracing::{debug, info, warn};

use super::unix::SocketFile;
use super::{LocalAddress, Peer, ServeContext, TlsReloader, connection, peer};
use crate::limits;

/// What a listener accepts from.
#[derive(Debug)]
pub(super) enum Socket {
    // In this order: while the listener is open its file's inode is taken, so that the file we remove is surely ours.
    Unix { _file: SocketFile, listener: UnixListener },
    Tcp(TcpListener),
    Tls { listener: TcpListener, tls: Arc<TlsReloader> },
}

/// What has been logged about a listener, and is not again until it was well in between.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    is_full: bool,
    is_failing: bool,
}

impl Socket {
    /// The next connection, when there is a place for it.
    pub(super) async fn accept(
        &self,
        address: &LocalAddress,
        places: &Arc<Semaphore>,
        trouble: &mut Trouble,
    ) -> (Opening, OwnedSemaphorePermit) {
        let free = places.available_permits();
        if free > limits::CONNECTIONS_PER_LISTENER_MAX / 2 {
            trouble.is_full = false;
        } else if free == 0 && !replace(&mut trouble.is_full, true) {
            warn!("{address} has {} connections, its most: further ones wait", limits::CONNECTIONS_PER_LISTENER_MAX);
        }
        let place = Arc::clone(places).acquire_owned().await.expect("this semaphore is never closed");
        loop {
            match self.accept_one().await {
                Ok(opening) => {
                    trouble.is_failing = false;
                    return (opening, place);
                }
                Err(error) if is_of_one_peer(&error) => debug!(%error, "a peer left before it was accepted"),
                Err(error) => {
                    if !replace(&mut trouble.is_failing, true) {
                        warn!(%error, "cannot accept on {address}, trying again until it works");
                    }
                    sleep(limits::ACCEPT_RETRY_PAUSE).await;
                }
            }
        }
    }

    async fn accept_one(&self) -> io::Result<Opening> {
        match self {
            Socket::Unix { listener, .. } => Ok(Opening::Unix(listener.accept().await?.0)),
            Socket::Tcp(listener) => {
                let (stream, address) = accept_tcp(listener).await?;
                Ok(Opening::Tcp { stream, address })
            }
            Socket::Tls { listener, tls } => {
                let (stream, address) = accept_tcp(listener).await?;
                Ok(Opening::Tls { stream, address, acceptor: TlsAcceptor::from(tls.current()) })
            }
        }
    }
}

async fn accept_tcp(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let (stream, address) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok((stream, address))
}

/// Errors of the one connection that was next; the listener is well. (`accept` also tells what befell it in the queue.)
fn is_of_one_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, InvalidInput};
    // InvalidInput is what setting TCP_NODELAY answers on some systems for a peer that has already left.
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | InvalidInput)
}

/// An accepted connection, of whose peer nothing is known yet.
pub(super) enum Opening {
    Unix(UnixStream),
    Tcp { stream: TcpStream, address: SocketAddr },
    Tls { stream: TcpStream, address: SocketAddr, acceptor: TlsAcceptor },
}

impl Opening {
    /// Learns who the peer is, then serves its calls.
    pub(super) async fn serve<S>(self, service: S, context: &ServeContext)
    where
        S: Service<Request<Incoming>, Response = Response<tonic::body::Body>> + Clone + Send + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send + 'static,
    {
        match self {
            Opening::Unix(stream) => match unix_peer(&stream) {
                Ok(peer) => connection::serve(stream, peer, service, context).await,
                Err(error) => debug!(%error, "a peer left before it could be asked who it is"),
            },
            Opening::Tcp { stream, address } => {
                connection::serve(stream, Peer::Tcp { address }, service, context).await;
            }
            Opening::Tls { stream, address, acceptor } => {
                let stream = tokio::select! {
                    stream = shake_hands(acceptor, stream) => stream,
                    () = context.drain.cancelled() => return,
                };
                match stream {
                    Ok(stream) => {
                        let peer = tls_peer(&stream, address);
                        // Boxed, as the TLS state makes it many times larger than the others.
                        Box::pin(connection::serve(stream, peer, service, context)).await;
                    }
                    Err(error) => info!(%error, "TLS handshake with {address} failed"),
                }
            }
        }
    }
}

fn unix_peer(stream: &UnixStream) -> io::Result<Peer> {
    let peer = stream.peer_cred()?;
    Ok(Peer::Unix { uid: peer.uid(), gid: peer.gid(), pid: peer.pid() })
}

async fn shake_hands(acceptor: TlsAcceptor, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
    timeout(limits::TLS_HANDSHAKE_DEADLINE, acceptor.accept(stream)).await?
}

fn tls_peer(stream: &TlsStream<TcpStream>, address: SocketAddr) -> Peer {
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let names = chain.first().map_or_else(|| Arc::new([]) as Arc<[String]>, peer::certificate_names);
    Peer::Tls { address, names }
}
