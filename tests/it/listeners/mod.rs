//! The data plane's listeners from outside: who gets in, what they are told, and how it ends.

mod tls;
mod unix;

use std::convert::Infallible;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use credway::clock::Clock;
use credway::config::{Grpc, UnixSocket};
use credway::grpc::hot::AnswerBody;
use credway::grpc::listen::{Calls, ListenError, Listener, LocalAddress, Peer, ServeContext, TlsReloader, Workers};
use credway::limits;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Code;
use tonic::service::Routes;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tower::{Service, ServiceExt, service_fn};

use crate::support::daemon::Home;

/// Longer than anything here takes on a busy machine; shorter than a person's patience with a test that hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// A tower service that answers a listener's calls, told of their peer as the real one is.
#[derive(Clone)]
struct ByTower<S>(S);

impl<S> Calls for ByTower<S>
where
    S: Service<Request<Incoming>, Response = Response<tonic::body::Body>, Error = Infallible>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    type Answering = BoxFuture<'static, Response<AnswerBody>>;

    fn answer(&self, mut request: Request<Incoming>, peer: &Peer) -> Self::Answering {
        request.extensions_mut().insert(peer.clone());
        let answered = self.0.clone().oneshot(request);
        Box::pin(async move {
            let response = answered.await.unwrap_or_else(|never| match never {});
            response.map(AnswerBody::Made)
        })
    }
}

/// A listener that is served.
struct Served {
    address: LocalAddress,
    tls: Option<Arc<TlsReloader>>,
    context: ServeContext,
}

impl Served {
    /// Binds and serves the one listener that is configured.
    fn start<S>(config: &Grpc, service: S) -> Self
    where
        S: Service<Request<Incoming>, Response = Response<tonic::body::Body>, Error = Infallible>,
        S: Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
    {
        let listener = Listener::bind(config).unwrap().remove(0);
        let tracker = TaskTracker::new();
        let (drain, cut) = (CancellationToken::new(), CancellationToken::new());
        let workers = Workers::start(&CancellationToken::new()).unwrap();
        let context = ServeContext { tracker, drain, cut, workers, clock: Clock::System };
        let served = Self { address: listener.local_address().clone(), tls: listener.tls(), context: context.clone() };
        served.context.tracker.spawn(listener.serve(ByTower(service), context));
        served
    }

    fn tcp(&self) -> SocketAddr {
        match &self.address {
            LocalAddress::Tcp(address) => *address,
            LocalAddress::Unix(path) => panic!("{} is not TCP", path.display()),
        }
    }

    fn endpoint(&self) -> Endpoint {
        endpoint(&self.address)
    }

    async fn client(&self) -> HealthClient<Channel> {
        HealthClient::new(self.endpoint().connect().await.unwrap())
    }

    /// Begins the drain.
    fn drain(&self) {
        self.context.drain.cancel();
        self.context.tracker.close();
    }

    /// Waits until the listener and all its connections have ended.
    async fn ended(&self) {
        tokio::time::timeout(PATIENCE, self.context.tracker.wait()).await.expect("it should have ended");
    }
}

fn endpoint(address: &LocalAddress) -> Endpoint {
    let uri = match address {
        LocalAddress::Unix(path) => format!("unix://{}", path.display()),
        LocalAddress::Tcp(address) => format!("http://{address}"),
    };
    Endpoint::from_shared(uri).unwrap().connect_timeout(PATIENCE).timeout(PATIENCE)
}

/// The health service: the smallest that a client can ask.
fn routes() -> Routes {
    let (_, health) = tonic_health::server::health_reporter();
    Routes::new(health)
}

async fn ask(client: &mut HealthClient<Channel>) -> Result<(), tonic::Status> {
    client.check(HealthCheckRequest { service: String::new() }).await.map(drop)
}

fn config() -> Grpc {
    Grpc { socket: None, address: None, tls: None, calls_in_flight_max: 16, call_deadline: Duration::from_secs(1) }
}

fn on_loopback() -> Grpc {
    Grpc { address: Some("127.0.0.1:0".parse().unwrap()), ..config() }
}

fn on_socket(path: impl Into<PathBuf>) -> Grpc {
    Grpc { socket: Some(socket(path)), ..config() }
}

fn socket(path: impl Into<PathBuf>) -> UnixSocket {
    UnixSocket { path: path.into(), mode: 0o660, owner: None, group: None }
}

fn refusal(config: &Grpc) -> ListenError {
    Listener::bind(config).map(|_| ()).unwrap_err()
}

/// The service, and who calls it.
fn routes_that_tell_peers() -> (
    impl Service<
        Request<Incoming>,
        Response = Response<tonic::body::Body>,
        Error = Infallible,
        Future = impl Send + 'static,
    > + Clone
    + Send
    + Sync
    + 'static,
    mpsc::UnboundedReceiver<Peer>,
) {
    let (tell, told) = mpsc::unbounded_channel();
    let service = routes().map_request(move |request: Request<Incoming>| {
        tell.send(request.extensions().get::<Peer>().unwrap().clone()).unwrap();
        request
    });
    (service, told)
}

/// Calls that arrive, and are answered when the test lets them.
#[derive(Clone)]
struct Gate {
    arrived: Arc<Semaphore>,
    opened: Arc<Semaphore>,
}

impl Gate {
    fn new() -> Self {
        Self { arrived: Arc::new(Semaphore::new(0)), opened: Arc::new(Semaphore::new(0)) }
    }

    async fn call_arrived(&self) {
        tokio::time::timeout(PATIENCE, self.arrived.acquire()).await.unwrap().unwrap().forget();
    }

    fn open(&self) {
        self.opened.add_permits(1);
    }

    async fn pass(&self) {
        self.arrived.add_permits(1);
        self.opened.acquire().await.unwrap().forget();
    }
}

/// A call in flight on a served loopback listener.
async fn call_in_flight(gate: &Gate) -> (Served, tokio::task::JoinHandle<Result<(), tonic::Status>>) {
    let own = gate.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let (gate, mut routes) = (own.clone(), routes());
        async move {
            gate.pass().await;
            routes.call(request).await
        }
    });
    let served = Served::start(&on_loopback(), service);
    let mut client = served.client().await;
    let call = tokio::spawn(async move { ask(&mut client).await });
    gate.call_arrived().await;
    (served, call)
}

#[tokio::test]
async fn a_call_on_loopback_is_answered_and_its_address_known() {
    let (service, mut peers) = routes_that_tell_peers();
    let served = Served::start(&on_loopback(), service);
    ask(&mut served.client().await).await.unwrap();
    let Some(Peer::Tcp { address }) = peers.recv().await else { panic!("not a TCP peer") };
    assert!(address.ip().is_loopback());
}

#[tokio::test]
async fn every_configured_listener_is_bound_before_any_is_served() {
    let directory = tempfile::tempdir().unwrap();
    let both = Grpc { address: on_loopback().address, ..on_socket(directory.path().join("s.sock")) };
    let listeners = Listener::bind(&both).unwrap();
    let addresses: Vec<_> = listeners.iter().map(|listener| listener.local_address().to_string()).collect();
    assert_eq!(addresses[0], format!("unix:{}", directory.path().join("s.sock").display()));
    assert!(addresses[1].starts_with("127.0.0.1:") && !addresses[1].ends_with(":0"));
}

#[tokio::test]
async fn plaintext_off_loopback_is_refused() {
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0", "[::ffff:192.0.2.1]:0"] {
        let refusal = refusal(&Grpc { address: Some(address.parse().unwrap()), ..config() });
        assert!(matches!(refusal, ListenError::PlaintextOffLoopback { .. }), "{refusal}");
        assert!(refusal.to_string().ends_with("set `grpc.tls`, or listen on 127.0.0.1 or [::1]"));
    }
}

#[tokio::test]
async fn nothing_to_listen_on_is_refused() {
    assert!(matches!(refusal(&config()), ListenError::Nothing));
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let first = Listener::bind(&on_loopback()).unwrap();
    let LocalAddress::Tcp(address) = *first[0].local_address() else { panic!("not TCP") };
    let refusal = refusal(&Grpc { address: Some(address), ..config() });
    assert_eq!(refusal.to_string(), format!("cannot listen on {address}: choose a free address of this machine"));
}

#[tokio::test]
async fn http_1_gets_no_answer() {
    let served = Served::start(&on_loopback(), routes());
    let mut stream = TcpStream::connect(served.tcp()).await.unwrap();
    stream.write_all(b"POST /grpc.health.v1.Health/Check HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    // Closed or reset: both are silence.
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("it should have been closed");
    assert_eq!(answer, b"");
}

#[tokio::test]
async fn a_drain_lets_the_call_in_flight_finish_and_nobody_in() {
    let gate = Gate::new();
    let (served, call) = call_in_flight(&gate).await;
    let idle = served.client().await;

    served.drain();
    while TcpStream::connect(served.tcp()).await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(!call.is_finished());
    assert!(!served.context.tracker.is_empty());

    gate.open();
    call.await.unwrap().unwrap();
    served.ended().await;
    drop(idle);
}

#[tokio::test]
async fn a_drain_without_calls_ends_at_once() {
    let served = Served::start(&on_loopback(), routes());
    let mut client = served.client().await;
    ask(&mut client).await.unwrap();
    let _silent = TcpStream::connect(served.tcp()).await.unwrap();
    served.drain();
    served.ended().await;
    assert_eq!(ask(&mut client).await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn a_cut_ends_the_calls_that_do_not_finish() {
    let (served, call) = call_in_flight(&Gate::new()).await;
    served.drain();
    served.context.cut.cancel();
    served.ended().await;
    assert!(call.await.unwrap().is_err());
}

/// The path of a directory's entries, sorted.
fn entries(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        directory.read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Linux counts niceness by thread (`/proc/PID/task/TID/stat`, field 19).
#[tokio::test]
async fn the_threads_that_answer_from_memory_come_before_all_others() {
    let home = Home::new();
    home.config(&[]);
    let daemon = home.start().await;
    let niceness = || {
        let tasks = fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap().flatten();
        let stats = tasks.filter_map(|task| fs::read_to_string(task.path().join("stat")).ok());
        let told = stats.map(|stat| {
            let (name, rest) = stat.split_once('(').and_then(|(_, rest)| rest.rsplit_once(") ")).unwrap();
            (name.to_owned(), rest.split(' ').nth(16).unwrap().parse::<i32>().unwrap())
        });
        told.collect::<Vec<_>>()
    };
    let of = |kind: &str| niceness().into_iter().filter(|(name, _)| name.starts_with(kind)).collect::<Vec<_>>();
    let (listeners, workers) = (of("grpc-"), of("tokio"));
    assert!(!listeners.is_empty() && listeners.iter().all(|(_, nice)| *nice == 0), "{listeners:?}");
    assert!(!workers.is_empty() && workers.iter().all(|(_, nice)| *nice == limits::BACKGROUND_NICENESS), "{workers:?}");
}
