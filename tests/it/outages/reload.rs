//! SIGHUP: new certificates and log level without a dropped connection; what is bad keeps the old and says so.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

use crate::support::daemon::{Daemon, Home, client_over, key_of};
use crate::support::openbao::until;
use crate::support::tls::{Authority, Leaf};

/// A daemon behind mutual TLS, with the instance `a`.
struct Behind {
    home: Home,
    daemon: Daemon,
    client: Leaf,
}

impl Behind {
    async fn tls(servers: &Authority, more: &[(&str, &str)]) -> Self {
        let home = Home::new();
        let clients = Authority::named("clients");
        servers.server().write_as_server(&home.path(""));
        home.write("clients.pem", &clients.pem);
        let (cert, key, ca) = (home.text("server.pem"), home.text("server.key"), home.text("clients.pem"));
        let tls = [("grpc.tls.cert_file", &*cert), ("grpc.tls.key_file", &key), ("grpc.tls.client_ca_file", &ca)];
        home.config(&[&tls, more].concat());
        home.manifest(&[("a", "key-a")]);
        home.apply().await.ok();
        let daemon = home.start().await;
        Self { home, daemon, client: clients.client(&["executor.example.com"], &[]) }
    }

    /// A new connection to a server whose certificate `servers` must have signed.
    async fn connect(&self, servers: &Authority) -> Result<Channel, tonic::transport::Error> {
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&servers.pem)).domain_name("localhost");
        let endpoint = Endpoint::from_shared(format!("https://{}", self.daemon.address("grpc"))).unwrap();
        endpoint.tls_config(tls.identity(self.client.identity())).unwrap().connect().await
    }

    /// Sends SIGHUP and waits until the log says `fragment`.
    async fn reload(&self, fragment: &str) {
        let offset = self.daemon.log().len();
        self.daemon.signal(Signal::HUP);
        self.daemon.until_log(offset, fragment).await;
    }
}

#[tokio::test]
async fn f3_new_certificates_are_served_and_live_connections_stay() {
    let (old, new) = (Authority::named("old"), Authority::named("new"));
    let behind = Behind::tls(&old, &[]).await;
    let mut live = client_over(behind.connect(&old).await.unwrap(), &behind.home.token());
    assert_eq!(key_of(&mut live, "a").await.unwrap(), "key-a");

    new.server().write_as_server(&behind.home.path(""));
    assert!(behind.connect(&new).await.is_err(), "it is served before anybody said so");
    behind.reload("reloaded on SIGHUP").await;
    assert!(behind.connect(&old).await.is_err(), "the old certificate is still served");
    let mut fresh = client_over(behind.connect(&new).await.unwrap(), &behind.home.token());
    assert_eq!(key_of(&mut fresh, "a").await.unwrap(), "key-a");
    assert_eq!(key_of(&mut live, "a").await.unwrap(), "key-a", "the live connection was dropped");
}

#[tokio::test]
async fn f3_bad_certificates_and_settings_keep_the_old_and_are_named() {
    let servers = Authority::named("servers");
    let behind = Behind::tls(&servers, &[]).await;
    let mut client = client_over(behind.connect(&servers).await.unwrap(), &behind.home.token());
    let (stop, mut caller, answered) = (CancellationToken::new(), client.clone(), Arc::new(AtomicUsize::new(0)));
    let (stopped, counted) = (stop.clone(), Arc::clone(&answered));
    let calls = tokio::spawn(async move {
        while !stopped.is_cancelled() {
            assert_eq!(key_of(&mut caller, "a").await.unwrap(), "key-a");
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    until("calls are answered", async || answered.load(Ordering::Relaxed) > 10).await;
    behind.home.write("server.pem", "no certificate at all");
    behind.reload("the certificates in use are kept: ").await;
    assert!(behind.daemon.log().contains(&behind.home.text("server.pem")), "it does not say which file");

    behind.home.write("credway.toml", "telemetry.log_level = \"loud\"\ngrpc.adress = \"x\"\n");
    behind.reload("the settings in use are kept: ").await;
    let log = behind.daemon.log();
    assert!(log.contains("telemetry.log_level") && log.contains("did you mean grpc.address?"), "{log}");

    let until_now = answered.load(Ordering::Relaxed);
    until("they go on", async || answered.load(Ordering::Relaxed) > until_now + 10).await;
    stop.cancel();
    calls.await.expect("a call failed");
    client = client_over(behind.connect(&servers).await.unwrap(), &behind.home.token());
    assert_eq!(key_of(&mut client, "a").await.unwrap(), "key-a");
}

#[tokio::test]
async fn f3_the_log_level_changes_while_the_daemon_runs() {
    const DEBUG: &str = r#""level":"DEBUG""#;
    let behind = Behind::tls(&Authority::named("servers"), &[("telemetry.log_level", "info")]).await;
    talk_nonsense(&behind.daemon).await;
    assert!(!behind.daemon.log().contains(DEBUG));
    let config = fs::read_to_string(behind.home.path("credway.toml")).unwrap();
    behind.home.write("credway.toml", config.replace(r#"log_level = "info""#, r#"log_level = "debug""#));
    behind.reload("reloaded on SIGHUP").await;

    let offset = behind.daemon.log().len();
    talk_nonsense(&behind.daemon).await;
    behind.daemon.until_log(offset, DEBUG).await;
}

/// What is told at level debug only: a peer on the HTTP port that does not speak HTTP.
async fn talk_nonsense(daemon: &Daemon) {
    let mut peer = TcpStream::connect(daemon.address("http")).await.unwrap();
    peer.write_all(b"good morning\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    peer.read_to_end(&mut answer).await.unwrap();
}
