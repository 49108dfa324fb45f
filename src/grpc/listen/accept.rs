//! From a bound socket to connections whose peer is known.

use std::io;
use std::net::{SocketAddr, TcpStream as DetachedTcp};
use std::os::unix::net::UnixStream as DetachedUnix;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::{debug, info, warn};

use super::unix::SocketFile;
use super::{Calls, LocalAddress, Peer, ServeContext, TlsReloader, connection, peer};
use crate::clock::{Clock, Moment};
use crate::limits;

/// What a listener accepts from.
#[derive(Debug)]
pub(super) enum Socket {
    // In this order: while the listener is open its file's inode is taken, so that the file we remove is surely ours.
    Unix { _file: SocketFile, listener: UnixListener },
    Tcp(TcpListener),
    Tls { listener: TcpListener, tls: Arc<TlsReloader> },
}

/// When a listener last complained of each thing, so that it does not do so for every connection.
#[derive(Debug)]
pub(super) struct Complaints {
    clock: Clock,
    full: Option<Moment>,
    failing: Option<Moment>,
}

impl Complaints {
    pub(super) fn none(clock: Clock) -> Self {
        Self { clock, full: None, failing: None }
    }
}

/// Whether a complaint is due, and if so, notes it.
fn is_due(last: &mut Option<Moment>, now: Moment) -> bool {
    let is_due = last.is_none_or(|last| now.since(last) >= limits::LISTENER_WARNING_INTERVAL);
    if is_due {
        *last = Some(now);
    }
    is_due
}

impl Socket {
    /// The next connection, when there is a place for it.
    pub(super) async fn accept(
        &self,
        address: &LocalAddress,
        places: &Arc<Semaphore>,
        complaints: &mut Complaints,
    ) -> (Opening, OwnedSemaphorePermit) {
        if places.available_permits() == 0 && is_due(&mut complaints.full, complaints.clock.moment()) {
            warn!("{address} has {} connections, its most: further ones wait", limits::CONNECTIONS_PER_LISTENER_MAX);
        }
        let place = Arc::clone(places).acquire_owned().await.expect("this semaphore is never closed");
        loop {
            match self.accept_one().await {
                Ok(opening) => return (opening, place),
                Err(error) if is_of_one_peer(&error) => debug!(%error, "a peer left before it was accepted"),
                Err(error) => {
                    if is_due(&mut complaints.failing, complaints.clock.moment()) {
                        warn!(%error, "cannot accept on {address}, trying again until it works");
                    }
                    sleep(limits::ACCEPT_RETRY_PAUSE).await;
                }
            }
        }
    }

    async fn accept_one(&self) -> io::Result<Opening> {
        match self {
            Socket::Unix { listener, .. } => Ok(Opening::Unix(listener.accept().await?.0.into_std()?)),
            Socket::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                Ok(Opening::Tcp { stream: stream.into_std()?, address })
            }
            Socket::Tls { listener, tls } => {
                let (stream, address) = listener.accept().await?;
                let acceptor = TlsAcceptor::from(tls.current());
                Ok(Opening::Tls { stream: stream.into_std()?, address, acceptor })
            }
        }
    }
}

/// Errors of the one connection that was next; the listener is well. (`accept` also tells what befell it in the queue.)
fn is_of_one_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// An accepted connection, of whose peer nothing is known yet. It belongs to no runtime until it is served.
pub(super) enum Opening {
    Unix(DetachedUnix),
    Tcp { stream: DetachedTcp, address: SocketAddr },
    Tls { stream: DetachedTcp, address: SocketAddr, acceptor: TlsAcceptor },
}

impl Opening {
    /// Learns who the peer is, then serves its calls.
    pub(super) async fn serve(self, calls: impl Calls, context: &ServeContext) {
        match self {
            Opening::Unix(stream) => match unix_peer(stream) {
                Ok((stream, peer)) => connection::serve(stream, peer, calls, context).await,
                Err(error) => debug!(%error, "a peer left before it could be asked who it is"),
            },
            Opening::Tcp { stream, address } => match tcp_stream(stream) {
                Ok(stream) => connection::serve(stream, Peer::Tcp { address }, calls, context).await,
                Err(error) => debug!(%error, "a peer left before it was served"),
            },
            Opening::Tls { stream, address, acceptor } => {
                let stream = tokio::select! {
                    stream = shake_hands(acceptor, stream) => stream,
                    () = context.drain.cancelled() => return,
                };
                match stream {
                    Ok(stream) => {
                        let peer = tls_peer(&stream, address);
                        // Boxed, as the TLS state makes it many times larger than the others.
                        Box::pin(connection::serve(stream, peer, calls, context)).await;
                    }
                    Err(error) => info!(%error, "TLS handshake with {address} failed"),
                }
            }
        }
    }
}

fn tcp_stream(stream: DetachedTcp) -> io::Result<TcpStream> {
    let stream = TcpStream::from_std(stream)?;
    // An answer must not wait for the acknowledgement of the one before.
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn unix_peer(stream: DetachedUnix) -> io::Result<(UnixStream, Peer)> {
    let stream = UnixStream::from_std(stream)?;
    let peer = stream.peer_cred()?;
    let peer = Peer::Unix { uid: peer.uid(), gid: peer.gid(), pid: peer.pid() };
    Ok((stream, peer))
}

async fn shake_hands(acceptor: TlsAcceptor, stream: DetachedTcp) -> io::Result<TlsStream<TcpStream>> {
    timeout(limits::TLS_HANDSHAKE_DEADLINE, acceptor.accept(tcp_stream(stream)?)).await?
}

fn tls_peer(stream: &TlsStream<TcpStream>, address: SocketAddr) -> Peer {
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let names = chain.first().map_or_else(|| Arc::new([]) as Arc<[String]>, peer::certificate_names);
    Peer::Tls { address, names }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::clock::ManualClock;

    #[tokio::test]
    async fn a_peer_without_a_place_waits_until_another_leaves() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let local = listener.local_addr().unwrap();
        let (address, socket) = (LocalAddress::Tcp(local), Socket::Tcp(listener));
        let (places, mut complaints) = (Arc::new(Semaphore::new(1)), Complaints::none(Clock::System));
        let _clients = (TcpStream::connect(local).await.unwrap(), TcpStream::connect(local).await.unwrap());

        let (_first, place) = socket.accept(&address, &places, &mut complaints).await;
        assert!(socket.accept(&address, &places, &mut complaints).now_or_never().is_none());
        assert!(complaints.full.is_some());

        drop(place);
        let (_second, _place) = socket.accept(&address, &places, &mut complaints).await;
    }

    #[test]
    fn a_complaint_is_repeated_only_after_a_while() {
        let clock = ManualClock::at(jiff::Timestamp::UNIX_EPOCH);
        let (now, mut last) = (|| Clock::Manual(clock.clone()).moment(), None);
        assert!(is_due(&mut last, now()));
        assert!(!is_due(&mut last, now()));
        clock.advance(limits::LISTENER_WARNING_INTERVAL);
        assert!(is_due(&mut last, now()));
    }
}
