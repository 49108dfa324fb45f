//! F4: a network that swallows every packet for a while, and is whole again: what is dead is noticed, what is alive comes back.
//!
//! The daemon lives in a network namespace of its own; a wrong hardware address at both ends of the wire is the silence.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::support::daemon::{Daemon, Home, client_over, key_of, lent, on_servers};
use crate::support::openbao::{Bao, ServerTls, until, until_by};
use crate::support::postgres::Postgres;
use crate::support::tls::{Authority, Leaf};
use crate::support::vitals::{Vitals, connections_at};

/// Clients on the far side of the wire.
const CLIENTS: usize = 20;

/// How long a dead client may go unnoticed, and how long the way back to health may take.
const DETECTED: Duration = Duration::from_secs(10);
const HEALED: Duration = Duration::from_secs(5);

/// What the pool of database connections and the client of Vault may hold more or less than at first.
const FDS_SPARE: usize = 10;

/// A namespace, and the wire to it.
struct Wire {
    namespace: String,
    near: String,
    far: String,
    here: String,
    there: String,
}

impl Wire {
    fn lay() -> Self {
        let id = std::process::id();
        // 198.18.0.0/15 is for tests of networks, and nobody's address.
        let subnet = format!("198.18.{}", id % 256);
        let wire = Self {
            namespace: format!("credway-{id}"),
            near: format!("cwn{id}"),
            far: format!("cwf{id}"),
            here: format!("{subnet}.1"),
            there: format!("{subnet}.2"),
        };
        let Self { namespace, near, far, here, there } = &wire;
        ip(&format!("netns add {namespace}"));
        ip(&format!("link add {near} type veth peer name {far} netns {namespace}"));
        ip(&format!("addr add {here}/30 dev {near}"));
        ip(&format!("link set {near} up"));
        ip(&format!("-n {namespace} addr add {there}/30 dev {far}"));
        ip(&format!("-n {namespace} link set {far} up"));
        ip(&format!("-n {namespace} link set lo up"));
        wire
    }

    fn silence(&self) {
        let Self { namespace, near, far, here, there } = self;
        ip(&format!("-n {namespace} neigh replace {here} lladdr 02:00:00:00:00:01 dev {far} nud permanent"));
        ip(&format!("neigh replace {there} lladdr 02:00:00:00:00:01 dev {near} nud permanent"));
    }

    fn heal(&self) {
        let Self { namespace, near, far, here, there } = self;
        ip(&format!("-n {namespace} neigh del {here} dev {far}"));
        ip(&format!("neigh del {there} dev {near}"));
    }

    /// The same command inside the namespace.
    fn inside(&self, command: &Command, log: &std::path::Path) -> Command {
        let mut inside = Command::new("ip");
        inside.args(["netns", "exec", &self.namespace]).arg(command.get_program()).args(command.get_args());
        inside.env_clear().envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        inside.current_dir(command.get_current_dir().unwrap()).stdin(Stdio::null()).stdout(Stdio::null());
        inside.stderr(std::fs::File::options().create(true).append(true).open(log).unwrap());
        inside
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        // The wire goes with it.
        let _ = Command::new("ip").args(["netns", "del", &self.namespace]).status();
    }
}

fn ip(line: &str) {
    let ran = Command::new("ip").args(line.split(' ')).output().expect("no `ip` here: apt install iproute2");
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(
        ran.status.success(),
        "`ip {line}`: {said}; this test needs root with CAP_NET_ADMIN and CAP_SYS_ADMIN, to make a network namespace"
    );
}

/// Takes connections at the near end of the wire to a server of the loopback. Returns where.
async fn passage(here: &str, server: SocketAddr) -> (SocketAddr, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind((here, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let passing = tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let Ok(mut server) = TcpStream::connect(server).await else { return };
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    (address, AbortOnDropHandle::new(passing))
}

/// A daemon beyond the wire, with servers, clients and a neighbour on its Unix socket, which the silence does not reach.
struct Rig {
    daemon: Daemon,
    home: Home,
    authority: Authority,
    leaf: Leaf,
    wire: Wire,
    _servers: (Postgres, Bao, Vec<AbortOnDropHandle<()>>),
}

impl Rig {
    async fn start() -> Self {
        let (wire, home) = (Wire::lay(), Home::new());
        let (servers, clients) = (Authority::named("servers"), Authority::named("clients"));
        servers.server_at(&["localhost", "127.0.0.1", &wire.here]).write_as_server(&home.path(""));
        home.write("servers.pem", &servers.pem);
        home.write("clients.pem", &clients.pem);
        let (cert_file, key_file) = (home.path("server.pem"), home.path("server.key"));
        let tls = ServerTls { cert_file: &cert_file, key_file: &key_file, authority_pem: &servers.pem };
        let (postgres, bao) = (Postgres::own().await, Bao::own_with_tls(&tls).await);
        let url = postgres.database().await;
        let mut direct: BTreeMap<&str, String> = on_servers(&home, &url, &bao).await.into_iter().collect();
        direct.insert("secret_store.vault.ca_file", home.text("servers.pem"));
        let lines = |settings: &BTreeMap<&'static str, String>| -> Vec<(&'static str, String)> {
            settings.iter().map(|(key, value)| (*key, value.clone())).collect()
        };
        home.config(&lent(&lines(&direct)));
        home.manifest(&[("a", "key-a"), ("b", "key-b"), ("c", "key-c")]);
        home.apply().await.ok();

        let database = SocketAddr::from(([127, 0, 0, 1], postgres.port()));
        let (database_here, first) = passage(&wire.here, database).await;
        let vault = bao.url().trim_start_matches("https://").parse().unwrap();
        let (vault_here, second) = passage(&wire.here, vault).await;
        home.write("database-url", url.replace(&database.to_string(), &database_here.to_string()));
        let mut settings = direct;
        settings.insert("secret_store.vault.address", format!("https://{vault_here}"));
        settings.insert("grpc.tls.cert_file", home.text("server.pem"));
        settings.insert("grpc.tls.key_file", home.text("server.key"));
        settings.insert("grpc.tls.client_ca_file", home.text("clients.pem"));
        settings.insert("grpc.address", format!("{}:0", wire.there));
        home.config(&lent(&lines(&settings)));
        let log = home.path("daemon.log");
        let daemon = home.start_by(|command| *command = wire.inside(command, &log)).await;
        let leaf = clients.client(&["executor.example.com"], &[]);
        let _servers = (postgres, bao, vec![first, second]);
        Self { daemon, home, authority: servers, leaf, wire, _servers }
    }

    /// One more client across the wire, which has been answered.
    async fn client(&self) -> Channel {
        let tls =
            ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&self.authority.pem)).domain_name("localhost");
        let endpoint = Endpoint::from_shared(format!("https://{}", self.daemon.address("grpc"))).unwrap();
        let endpoint = endpoint.tls_config(tls.identity(self.leaf.identity())).unwrap();
        let channel = endpoint.connect_timeout(HEALED).connect().await.unwrap();
        let mut client = client_over(channel.clone(), &self.home.token());
        assert_eq!(key_of(&mut client, "a").await.unwrap(), "key-a");
        channel
    }

    async fn clients(&self) -> Vec<Channel> {
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            clients.push(self.client().await);
        }
        clients
    }

    fn connections(&self) -> usize {
        let port = self.daemon.address("grpc").parse::<SocketAddr>().unwrap().port();
        connections_at(self.daemon.pid(), port)
    }

    async fn is(&self, status: ServingStatus) -> bool {
        let mut health = HealthClient::new(self.daemon.channel().await);
        let answer = health.check(HealthCheckRequest::default()).await;
        answer.is_ok_and(|answer| answer.get_ref().status() == status)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f4_a_network_that_falls_silent_is_noticed_and_healed_from() {
    let rig = Rig::start().await;
    let mut neighbour = rig.daemon.client(&rig.home.token()).await;
    let clients = rig.clients().await;
    let before = Vitals::of(rig.daemon.pid());
    assert_eq!(rig.connections(), CLIENTS);

    rig.wire.silence();
    let silent = Instant::now();
    let (mut calls, mut slowest) = (0, Duration::ZERO);
    let mut detected = None;
    let long_enough = silence();
    until_by(long_enough + DETECTED, "the silence is over", async || {
        let began = Instant::now();
        assert_eq!(key_of(&mut neighbour, "a").await.unwrap(), "key-a", "what is in memory is served");
        (calls, slowest) = (calls + 1, slowest.max(began.elapsed()));
        if rig.connections() == 0 {
            detected.get_or_insert_with(|| silent.elapsed());
        }
        let is_told = rig.is(ServingStatus::NotServing).await;
        detected.is_some() && is_told && silent.elapsed() >= long_enough
    })
    .await;
    let detected = detected.unwrap();
    drop(clients);

    rig.wire.heal();
    let whole = Instant::now();
    until("health is back", async || rig.is(ServingStatus::Serving).await).await;
    let healthy = whole.elapsed();
    until("what was never read is served", async || key_of(&mut neighbour, "b").await.is_ok()).await;
    let answered = whole.elapsed();
    let _clients = rig.clients().await;
    until("the dead have left nothing", async || {
        let now = Vitals::of(rig.daemon.pid());
        rig.connections() == CLIENTS && now.fds <= before.fds + FDS_SPARE && now.threads <= before.threads + 1
    })
    .await;
    let after = Vitals::of(rig.daemon.pid());
    eprintln!(
        "f4: {CLIENTS} dead clients closed {detected:?} into the silence; {calls} calls meanwhile, the slowest {slowest:?}; \
         health back {healthy:?} and a cold secret served {answered:?} after it; before {before:?}, after {after:?}"
    );
    assert!(detected <= DETECTED, "dead clients were closed after {detected:?}");
    assert!(answered <= HEALED && healthy <= HEALED, "healthy after {healthy:?}, a cold secret after {answered:?}");
    let in_flight = rig.daemon.log();
    assert!(!in_flight.contains("panicked"), "{in_flight}");
}

/// `CREDWAY_TEST_SILENCE_SECONDS`, or just long enough for everything to be noticed. The contract's own form is 60.
fn silence() -> Duration {
    let told = std::env::var("CREDWAY_TEST_SILENCE_SECONDS").ok();
    Duration::from_secs(told.map_or(12, |seconds| seconds.parse().unwrap()))
}
