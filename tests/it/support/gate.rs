//! A gate on the way to a server: holds back the requests that name something, and counts them, while all others pass.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// A gate, closed at first. It is for HTTP/1.1 without TLS.
pub(crate) struct Gate {
    pub(crate) url: url::Url,
    requests: Arc<AtomicUsize>,
    is_open: watch::Sender<bool>,
    _accepting: AbortOnDropHandle<()>,
}

impl Gate {
    /// Before the server at `url`, for requests that hold `name`.
    pub(crate) async fn before(url: &str, name: impl std::fmt::Display) -> Self {
        let server: SocketAddr = url.trim_start_matches("http://").parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let (requests, name) = (Arc::new(AtomicUsize::new(0)), name.to_string());
        let (is_open, opening) = watch::channel(false);
        let counter = Arc::clone(&requests);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, server, name.clone(), Arc::clone(&counter), opening.clone()));
            }
        });
        Self { url, requests, is_open, _accepting: AbortOnDropHandle::new(accepting) }
    }

    /// Lets through what waits, and all that comes.
    pub(crate) fn open(&self) {
        self.is_open.send_replace(true);
    }

    /// Holds back again what comes from now on.
    pub(crate) fn close(&self) {
        self.is_open.send_replace(false);
    }

    /// The requests that came and hold the name.
    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

/// One connection. It ends with either side, or with the gate.
async fn pass(
    client: TcpStream,
    server: SocketAddr,
    name: String,
    requests: Arc<AtomicUsize>,
    mut opening: watch::Receiver<bool>,
) {
    let Ok(server) = TcpStream::connect(server).await else { return };
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let asking = async {
        let mut chunk = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = from_client.read(&mut chunk).await {
            // A request's head is written at once by the client, so that it arrives in one piece on loopback.
            if String::from_utf8_lossy(&chunk[..count]).contains(&name) {
                requests.fetch_add(1, Ordering::SeqCst);
                if opening.wait_for(|is_open| *is_open).await.is_err() {
                    return;
                }
            }
            if to_server.write_all(&chunk[..count]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = asking => {}
        _ = tokio::io::copy(&mut from_server, &mut to_client) => {}
    }
}
