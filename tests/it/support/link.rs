//! A link to PostgreSQL that can fail for the connections that listen, or for all: silently, by reset, or by losing what the
//! server tells unasked.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::net::sockopt::set_socket_linger;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// What a connection says that listens.
const LISTEN: &[u8] = b"LISTEN ";

/// The kind of a message that tells what was not asked for.
const NOTIFICATION: u8 = b'A';

/// A link, sound at first.
pub(crate) struct Link {
    address: SocketAddr,
    state: watch::Sender<State>,
    _accepting: AbortOnDropHandle<()>,
}

/// What is wrong with it now.
#[derive(Clone, Copy, Default)]
struct State {
    /// How often the connections that listened were silenced: older ones than the last time stay silent.
    silences: u32,
    is_mute: bool,
    is_cut: bool,
    is_down: bool,
}

impl Link {
    /// To the server of this URL, without TLS.
    pub(crate) async fn to(url: &url::Url) -> Self {
        let server = SocketAddr::new("127.0.0.1".parse().unwrap(), url.port().unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (state, seen) = watch::channel(State::default());
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, server, seen.clone()));
            }
        });
        Self { address, state, _accepting: AbortOnDropHandle::new(accepting) }
    }

    /// The URL of the same database by this link.
    pub(crate) fn url(&self, direct: &url::Url) -> String {
        let mut url = direct.clone();
        url.set_port(Some(self.address.port())).unwrap();
        url.set_query(Some("sslmode=disable"));
        url.to_string()
    }

    /// The connections that listen now pass nothing on any more, and are not closed. New ones are sound.
    pub(crate) fn silence_listeners(&self) {
        self.state.send_modify(|state| state.silences += 1);
    }

    /// No connection hears what changed, whenever it was made.
    pub(crate) fn mute(&self) {
        self.state.send_modify(|state| state.is_mute = true);
    }

    /// Connections that listen are reset, and so is who tries to.
    pub(crate) fn cut_listeners(&self, is_cut: bool) {
        self.state.send_modify(|state| state.is_cut = is_cut);
    }

    /// Nothing passes any more, and nothing is closed.
    pub(crate) fn take_down(&self, is_down: bool) {
        self.state.send_modify(|state| state.is_down = is_down);
    }
}

/// One connection.
struct Passing {
    listens: AtomicBool,
    /// The silences ordered before it was made.
    silences: u32,
    state: watch::Receiver<State>,
}

async fn pass(client: TcpStream, server: SocketAddr, state: watch::Receiver<State>) {
    // Dropped, it is reset instead of closed.
    set_socket_linger(&client, Some(Duration::ZERO)).unwrap();
    let Ok(server) = TcpStream::connect(server).await else { return };
    let silences = state.borrow().silences;
    let passing = Passing { listens: AtomicBool::new(false), silences, state };
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    tokio::select! {
        _ = passing.ask(from_client, to_server) => {}
        _ = passing.answer(from_server, to_client) => {}
        () = passing.until(|state, listens| state.is_cut && listens) => {}
    }
}

impl Passing {
    async fn ask(&self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) -> std::io::Result<()> {
        let mut chunk = vec![0; 64 * 1024];
        loop {
            let count = from.read(&mut chunk).await?;
            if chunk[..count].windows(LISTEN.len()).any(|words| words == LISTEN) {
                self.listens.store(true, Ordering::SeqCst);
            }
            self.until_sound().await;
            if count == 0 || self.is_cut() {
                return Ok(());
            }
            to.write_all(&chunk[..count]).await?;
        }
    }

    async fn answer(&self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) -> std::io::Result<()> {
        loop {
            let mut message = vec![0; 5];
            from.read_exact(&mut message).await?;
            let length = u32::from_be_bytes([message[1], message[2], message[3], message[4]]);
            message.resize(1 + usize::try_from(length).unwrap(), 0);
            from.read_exact(&mut message[5..]).await?;
            self.until_sound().await;
            let is_lost = message[0] == NOTIFICATION && self.state.borrow().is_mute;
            if !is_lost {
                to.write_all(&message).await?;
            }
        }
    }

    fn is_cut(&self) -> bool {
        self.state.borrow().is_cut && self.listens.load(Ordering::SeqCst)
    }

    async fn until_sound(&self) {
        let is_silent = |state: State, listens| listens && state.silences > self.silences;
        self.until(|state, listens| !state.is_down && !is_silent(state, listens)).await;
    }

    /// Waits for a state of the link, given whether this connection listens; for ever if the link is gone.
    async fn until(&self, holds: impl Fn(State, bool) -> bool) {
        let listens = || self.listens.load(Ordering::SeqCst);
        if self.state.clone().wait_for(|state| holds(*state, listens())).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
