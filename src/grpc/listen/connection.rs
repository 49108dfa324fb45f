//! One connection of the data plane, from its first byte to its last: HTTP/2, and nothing else.

use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use futures_util::FutureExt as _;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::timeout;
use tracing::debug;

use super::{Calls, Peer, ServeContext};
use crate::limits;

/// What every HTTP/2 client sends first (RFC 9113, section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Serves calls until the peer leaves, or until those in flight are answered once the drain begins or its time is over.
pub(super) async fn serve<T>(stream: T, peer: Peer, calls: impl Calls, context: &ServeContext)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let wire = tokio::select! {
        wire = meet(stream) => wire,
        () = context.drain.cancelled() => return,
    };
    let wire = match wire {
        Ok(wire) => wire,
        Err(error) => return debug!(?peer, %error, "a peer connected, but does not talk HTTP/2"),
    };

    let caller = peer.clone();
    let service = service_fn(move |request| calls.answer(request, &caller).map(Ok::<_, Infallible>));
    let mut connection = pin!(http2_settings().serve_connection(TokioIo::new(wire), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        () = context.drain.cancelled() => None,
        () = aged(&peer) => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                ended = connection => ended,
                () = context.cut.cancelled() => return debug!(?peer, "connection was cut with calls in flight"),
            }
        }
    };
    if let Err(error) = ended {
        debug!(?peer, error = &error as &dyn std::error::Error, "connection broke");
    }
}

/// Returns when a connection is to be made anew, so that its client certificate is looked at again.
async fn aged(peer: &Peer) {
    match peer {
        Peer::Tls { .. } => tokio::time::sleep(limits::TLS_CONNECTION_AGE_MAX).await,
        Peer::Unix { .. } | Peer::Tcp { .. } => std::future::pending().await,
    }
}

fn http2_settings() -> http2::Builder<TokioExecutor> {
    // The tasks that hyper spawns, one a call, end with their connection, whose own task is tracked.
    let mut settings = http2::Builder::new(TokioExecutor::new());
    settings
        .timer(TokioTimer::new())
        .keep_alive_interval(limits::KEEPALIVE_INTERVAL)
        .keep_alive_timeout(limits::KEEPALIVE_TIMEOUT)
        .max_concurrent_streams(limits::STREAMS_PER_CONNECTION_MAX)
        .max_header_list_size(limits::HEADER_LIST_BYTES_MAX)
        // gRPC has no use for it, and it would be formatted and sent with every answer.
        .auto_date_header(false);
    settings
}

/// Waits for the client's preface. hyper would wait for it without end, and hold a place for someone who never speaks.
async fn meet<T: AsyncRead + Unpin>(mut stream: T) -> io::Result<Wire<T>> {
    let read = async {
        let mut received = [0; PREFACE.len()];
        let mut filled = 0;
        while filled < PREFACE.len() {
            let count = stream.read(&mut received[filled..]).await?;
            let expected = &PREFACE[filled..filled + count];
            if count == 0 || received[filled..filled + count] != *expected {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "it does not begin with the HTTP/2 preface"));
            }
            filled += count;
        }
        Ok(())
    };
    timeout(limits::HTTP2_PREFACE_DEADLINE, read).await??;
    Ok(Wire { stream, replayed: 0 })
}

/// A stream as hyper is to see it. The preface that we have read is read again. And it offers no vectored writes: h2 then
/// gathers small answers in its buffer and sends them with one system call, instead of one for each.
struct Wire<T> {
    stream: T,
    /// How much of the preface hyper has read.
    replayed: usize,
}

impl<T: AsyncRead + Unpin> AsyncRead for Wire<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let rest = &PREFACE[self.replayed..];
        if rest.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let count = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..count]);
        self.replayed += count;
        Poll::Ready(Ok(()))
    }
}

/// The vectored methods are left to their defaults, which offer nothing.
impl<T: AsyncWrite + Unpin> AsyncWrite for Wire<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use http::{Request, Response};
    use hyper::body::Incoming;
    use tokio::io::AsyncWriteExt;
    use tokio_util::sync::CancellationToken;
    use tokio_util::task::TaskTracker;

    use super::*;
    use crate::clock::Clock;
    use crate::grpc::hot::AnswerBody;
    use crate::grpc::listen::Workers;

    #[derive(Clone)]
    struct NoCalls;

    impl Calls for NoCalls {
        type Answering = std::future::Pending<Response<AnswerBody>>;

        fn answer(&self, _: Request<Incoming>, _: &Peer) -> Self::Answering {
            unreachable!("nothing is called")
        }
    }

    #[tokio::test]
    async fn a_preface_in_pieces_is_read_again_whole() {
        let (mut client, server) = tokio::io::duplex(64);
        let speak = async {
            for byte in PREFACE {
                client.write_all(&[*byte]).await.unwrap();
            }
            client.write_all(b"and more").await.unwrap();
        };
        let (wire, ()) = tokio::join!(meet(server), speak);
        let mut heard = [0; PREFACE.len() + 8];
        wire.unwrap().read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard[..PREFACE.len()], PREFACE);
        assert_eq!(&heard[PREFACE.len()..], b"and more");
    }

    #[tokio::test]
    async fn http_1_is_refused_at_its_first_byte() {
        let (mut client, server) = tokio::io::duplex(64);
        client.write_all(b"G").await.unwrap();
        assert!(meet(server).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_peer_is_given_up() {
        let (_client, server) = tokio::io::duplex(64);
        let error = meet(server).await.err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_no_longer_answers_is_let_go() {
        let (mut client, server) = tokio::io::duplex(1024);
        let empty_settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        client.write_all(PREFACE).await.unwrap();
        client.write_all(&empty_settings).await.unwrap();
        let peer = Peer::Unix { uid: 1000, gid: 1000, pid: None };
        let patience = limits::KEEPALIVE_INTERVAL + 2 * limits::KEEPALIVE_TIMEOUT;
        let context = ServeContext {
            tracker: TaskTracker::new(),
            drain: CancellationToken::new(),
            cut: CancellationToken::new(),
            workers: Workers::start(&CancellationToken::new()).unwrap(),
            clock: Clock::System,
        };
        timeout(patience, serve(server, peer, NoCalls, &context)).await.unwrap();
    }

    #[test]
    fn a_wire_offers_no_vectored_writes() {
        let (_client, server) = tokio::io::duplex(64);
        assert!(server.is_write_vectored());
        assert!(!Wire { stream: server, replayed: 0 }.is_write_vectored());
    }
}
