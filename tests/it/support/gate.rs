//! A gate on the way to a server, for HTTP/1.1 without TLS: it counts the requests that name something, and does to them and to
//! their answers whatever a network or an overloaded server does, while all others pass.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::net::sockopt::set_socket_linger;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::openbao::until;

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Pass,
    /// It waits at the gate, all of it; the server has seen nothing.
    HoldRequest,
    /// The server has its last byte; what it answers waits, unread.
    HoldSent,
    /// The server has answered all it has to say, of which nothing is passed on yet.
    HoldAnswer,
    /// The server's answer is passed on so much later.
    Late(Duration),
    /// The connection is reset before the server sees anything.
    CutRequest,
    /// The connection is reset once the server has answered.
    CutAnswer,
    /// The gate answers in the server's place, with a Retry-After if one is given.
    Refuse {
        status: u16,
        retry_after: Option<u32>,
    },
    /// The gate answers 200 with this JSON, and the server sees nothing.
    Answer(&'static str),
    /// Nothing is passed on, nothing is answered, and nothing is closed.
    Swallow,
}

/// A gate, closed at first: every request that holds the name waits, as by `Fate::HoldRequest`.
pub(crate) struct Gate {
    pub(crate) url: url::Url,
    inner: Arc<Inner>,
    _accepting: AbortOnDropHandle<()>,
}

struct Inner {
    server: SocketAddr,
    name: String,
    state: Mutex<State>,
    /// How often what waited was let go on or reset.
    orders: watch::Sender<Orders>,
}

#[derive(Default)]
struct State {
    standing: Option<Fate>,
    /// Of the next requests, one each: of those that hold the text, if there is one.
    next: VecDeque<(Option<String>, Fate)>,
    came: usize,
    reached: usize,
    held: usize,
    /// By the refresh token's hash.
    sends: BTreeMap<String, usize>,
}

#[derive(Clone, Copy, Default)]
struct Orders {
    requests: usize,
    answers: usize,
    cut: usize,
}

impl Orders {
    /// Whether what came before `since` and waits by this fate was let go on.
    fn let_go(&self, fate: Fate, since: Orders) -> bool {
        if fate == Fate::HoldRequest { self.requests > since.requests } else { self.answers > since.answers }
    }
}

impl Gate {
    /// Before the server at `url`, for requests that hold `name`.
    pub(crate) async fn before(url: &str, name: impl std::fmt::Display) -> Self {
        let server = url.trim_start_matches("http://").trim_end_matches('/').parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let (state, orders) = (Mutex::default(), watch::Sender::default());
        let inner = Arc::new(Inner { server, name: name.to_string(), state, orders });
        let gate = Arc::clone(&inner);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let gate = Arc::clone(&gate);
                tokio::spawn(async move { gate.pass(client).await });
            }
        });
        Self { url, inner, _accepting: AbortOnDropHandle::new(accepting) }
    }

    /// Lets through what waits, and all that comes.
    pub(crate) fn open(&self) {
        self.let_be(Fate::Pass);
        self.release();
    }

    /// Holds back again what comes from now on.
    pub(crate) fn close(&self) {
        self.let_be(Fate::HoldRequest);
    }

    /// What becomes of what comes from now on.
    pub(crate) fn let_be(&self, fate: Fate) {
        self.inner.state.lock().unwrap().standing = Some(fate);
    }

    /// What becomes of the next requests, one each, before what stands holds again.
    pub(crate) fn next(&self, fates: impl IntoIterator<Item = Fate>) {
        self.inner.state.lock().unwrap().next.extend(fates.into_iter().map(|fate| (None, fate)));
    }

    /// The same for the next requests that hold this text as well.
    pub(crate) fn next_of(&self, text: &str, fates: impl IntoIterator<Item = Fate>) {
        let fates = fates.into_iter().map(|fate| (Some(text.to_owned()), fate));
        self.inner.state.lock().unwrap().next.extend(fates);
    }

    /// Lets what waits go on its way. What comes then is treated as before.
    pub(crate) fn release(&self) {
        self.release_requests();
        self.release_answers();
    }

    /// The same for what the server has not seen.
    pub(crate) fn release_requests(&self) {
        self.order(|orders| orders.requests += 1);
    }

    /// The same for what the server has.
    pub(crate) fn release_answers(&self) {
        self.order(|orders| orders.answers += 1);
    }

    /// Resets the connections of what waits.
    pub(crate) fn cut(&self) {
        self.order(|orders| orders.cut += 1);
    }

    /// The requests that came and hold the name.
    pub(crate) fn requests(&self) -> usize {
        self.inner.state.lock().unwrap().came
    }

    /// Those of them that the server has got, to their last byte.
    pub(crate) fn reached(&self) -> usize {
        self.inner.state.lock().unwrap().reached
    }

    /// Returns once so many wait, wherever on their way.
    pub(crate) async fn until_held(&self, count: usize) {
        until("requests wait at the gate", async || self.inner.state.lock().unwrap().held == count).await;
    }

    /// How often this refresh token was sent.
    pub(crate) fn sends_of(&self, token: &str) -> usize {
        self.inner.state.lock().unwrap().sends.get(&hash(token.as_bytes())).copied().unwrap_or_default()
    }

    /// How often each refresh token was sent, in no order that means something.
    pub(crate) fn sends(&self) -> Vec<usize> {
        self.inner.state.lock().unwrap().sends.values().copied().collect()
    }

    fn order(&self, order: impl FnOnce(&mut Orders)) {
        // With the state locked: who has just learned that it is to wait hears of it.
        let _state = self.inner.state.lock().unwrap();
        self.inner.orders.send_modify(order);
    }
}

impl Inner {
    /// One connection, which is closed after one request: an answer is whole when the server closes.
    async fn pass(&self, mut client: TcpStream) {
        let Some(request) = Request::read(&mut client).await else { return };
        let (fate, orders) = self.meet(&request);
        let is_counted = request.holds(&self.name);
        match fate {
            Fate::Swallow => {
                let _ = tokio::io::copy(&mut client, &mut tokio::io::sink()).await;
                return;
            }
            Fate::CutRequest => return reset(&client),
            Fate::Refuse { status, retry_after } => {
                let _ = client.write_all(refusal(status, retry_after).as_bytes()).await;
                return;
            }
            Fate::Answer(json) => {
                let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n";
                let answer = format!("{head}content-length: {}\r\n\r\n{json}", json.len());
                let _ = client.write_all(answer.as_bytes()).await;
                return;
            }
            Fate::HoldRequest if !self.may_go_on(fate, orders).await => return reset(&client),
            _ => {}
        }
        let Ok(mut server) = TcpStream::connect(self.server).await else { return };
        if server.write_all(&request.alone()).await.is_err() {
            return;
        }
        if is_counted {
            self.state.lock().unwrap().reached += 1;
        }
        if fate == Fate::HoldSent && !self.may_go_on(fate, orders).await {
            return reset(&client);
        }
        let mut answer = Vec::new();
        if server.read_to_end(&mut answer).await.is_err() || fate == Fate::CutAnswer {
            return reset(&client);
        }
        if fate == Fate::HoldAnswer && !self.may_go_on(fate, orders).await {
            return reset(&client);
        }
        if let Fate::Late(pause) = fate {
            tokio::time::sleep(pause).await;
        }
        let _ = client.write_all(&answer).await;
        let _ = client.shutdown().await;
    }

    /// Counts a request, and decides what becomes of it.
    fn meet(&self, request: &Request) -> (Fate, Orders) {
        let mut state = self.state.lock().unwrap();
        let orders = *self.orders.borrow();
        if !request.holds(&self.name) {
            return (Fate::Pass, orders);
        }
        state.came += 1;
        if let Some(token) = request.refresh_token() {
            *state.sends.entry(hash(token.as_bytes())).or_default() += 1;
        }
        let standing = state.standing.unwrap_or(Fate::HoldRequest);
        let is_meant = |(text, _): &(Option<String>, Fate)| text.as_ref().is_none_or(|text| request.holds(text));
        let next = state.next.iter().position(is_meant).and_then(|at| state.next.remove(at));
        (next.map_or(standing, |(_, fate)| fate), orders)
    }

    /// Waits for an order; `false` if it is to be reset, or the gate is gone.
    async fn may_go_on(&self, fate: Fate, since: Orders) -> bool {
        self.state.lock().unwrap().held += 1;
        let mut orders = self.orders.subscribe();
        let heard = orders.wait_for(|now| now.let_go(fate, since) || now.cut > since.cut).await;
        let may = heard.is_ok_and(|now| now.let_go(fate, since));
        self.state.lock().unwrap().held -= 1;
        may
    }
}

/// One request, whole.
struct Request {
    bytes: Vec<u8>,
    head: usize,
}

impl Request {
    async fn read(client: &mut TcpStream) -> Option<Self> {
        const END: &[u8] = b"\r\n\r\n";
        let mut bytes = Vec::new();
        loop {
            if let Some(at) = bytes.windows(END.len()).position(|window| window == END) {
                let request = Self { bytes, head: at + END.len() };
                if request.bytes.len() >= request.head + request.body_length() {
                    return Some(request);
                }
                bytes = request.bytes;
            }
            if !matches!(client.read_buf(&mut bytes).await, Ok(1..)) {
                return None;
            }
        }
    }

    fn body_length(&self) -> usize {
        let head = String::from_utf8_lossy(&self.bytes[..self.head]).to_lowercase();
        assert!(!head.contains("transfer-encoding"), "the gate reads no request in chunks");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
        length.map_or(0, |length| length.trim().parse().unwrap())
    }

    fn holds(&self, name: &str) -> bool {
        String::from_utf8_lossy(&self.bytes).contains(name)
    }

    /// The `refresh_token` of its form.
    fn refresh_token(&self) -> Option<String> {
        let form = url::form_urlencoded::parse(&self.bytes[self.head..]);
        form.into_owned().find_map(|(name, value)| (name == "refresh_token").then_some(value))
    }

    /// The same as the only one of its connection.
    fn alone(&self) -> Vec<u8> {
        let (head, body) = self.bytes.split_at(self.head - 2);
        [head, b"connection: close\r\n", body].concat()
    }
}

fn refusal(status: u16, retry_after: Option<u32>) -> String {
    let retry_after = retry_after.map(|seconds| format!("retry-after: {seconds}\r\n")).unwrap_or_default();
    format!("HTTP/1.1 {status} Refused\r\n{retry_after}content-length: 0\r\nconnection: close\r\n\r\n")
}

/// Dropped, the connection is then reset instead of closed.
fn reset(client: &TcpStream) {
    set_socket_linger(client, Some(Duration::ZERO)).unwrap();
}

fn hash(token: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(&Sha256::digest(token))
}
