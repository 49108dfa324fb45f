//! TCP with mutual TLS: whose certificate lets them in, and certificates changed under way.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use credway::config::{Grpc, MutualTls};
use credway::grpc::listen::{ListenError, Peer, TlsError};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig};
use tonic_health::pb::health_client::HealthClient;

use super::{Served, ask, config, on_loopback, refusal, routes, routes_that_tell_peers};
use crate::support::tls::{Authority, Leaf};

/// The authorities of servers and clients, and the server's files.
struct Pki {
    servers: Authority,
    clients: Authority,
    directory: TempDir,
}

impl Pki {
    fn new() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (servers, clients) = (Authority::named("servers"), Authority::named("clients"));
        let directory = tempfile::tempdir().unwrap();
        servers.server().write_as_server(directory.path());
        std::fs::write(directory.path().join("clients.pem"), &clients.pem).unwrap();
        Self { servers, clients, directory }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn config(&self) -> Grpc {
        let tls = MutualTls {
            cert_file: self.path().join("server.pem"),
            key_file: self.path().join("server.key"),
            client_ca_file: self.path().join("clients.pem"),
        };
        Grpc { tls: Some(tls), ..on_loopback() }
    }

    fn executor(&self) -> Leaf {
        self.clients.client(&["executor.example.com"], &["spiffe://example.com/executor"])
    }
}

/// A client that trusts `servers` and shows `leaf`.
async fn client(
    served: &Served,
    servers: &Authority,
    leaf: Option<&Leaf>,
) -> Result<HealthClient<Channel>, tonic::transport::Error> {
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&servers.pem)).domain_name("localhost");
    if let Some(leaf) = leaf {
        tls = tls.identity(leaf.identity());
    }
    let endpoint = tonic::transport::Endpoint::from_shared(format!("https://{}", served.tcp())).unwrap();
    Ok(HealthClient::new(endpoint.tls_config(tls).unwrap().timeout(super::PATIENCE).connect().await?))
}

/// Whether a client with this certificate gets an answer.
async fn is_let_in(served: &Served, servers: &Authority, leaf: Option<&Leaf>) -> bool {
    match client(served, servers, leaf).await {
        Ok(mut client) => ask(&mut client).await.is_ok(),
        Err(_) => false,
    }
}

#[tokio::test]
async fn a_client_is_known_by_the_names_in_its_certificate() {
    let pki = Pki::new();
    let (service, mut peers) = routes_that_tell_peers();
    let served = Served::start(&pki.config(), service);
    ask(&mut client(&served, &pki.servers, Some(&pki.executor())).await.unwrap()).await.unwrap();
    let Some(Peer::Tls { names, .. }) = peers.recv().await else { panic!("not a TLS peer") };
    assert_eq!(*names, ["executor.example.com".to_owned(), "spiffe://example.com/executor".to_owned()]);
}

#[tokio::test]
async fn without_a_valid_client_certificate_nobody_gets_in() {
    let pki = Pki::new();
    let (service, mut peers) = routes_that_tell_peers();
    let served = Served::start(&pki.config(), service);
    let foreign = Authority::named("clients").client(&["executor.example.com"], &[]);
    let expired = pki.clients.expired_client(&["executor.example.com"]);
    let server_as_client = pki.servers.server();
    for (who, leaf) in [
        ("no certificate", None),
        ("foreign authority", Some(&foreign)),
        ("expired", Some(&expired)),
        ("a server's certificate", Some(&server_as_client)),
    ] {
        assert!(!is_let_in(&served, &pki.servers, leaf).await, "{who}");
    }
    assert!(peers.try_recv().is_err(), "no call came through");
    assert!(is_let_in(&served, &pki.servers, Some(&pki.executor())).await);
}

#[tokio::test]
async fn plaintext_on_the_tls_port_gets_nothing() {
    let pki = Pki::new();
    let served = Served::start(&pki.config(), routes());
    let answer = match served.endpoint().connect().await {
        Ok(channel) => ask(&mut HealthClient::new(channel)).await.ok(),
        Err(_) => None,
    };
    assert!(answer.is_none());
}

#[tokio::test]
async fn stuck_handshakes_hold_up_nobody() {
    let pki = Pki::new();
    let served = Served::start(&pki.config(), routes());
    let mut stuck = Vec::new();
    for _ in 0..100 {
        stuck.push(TcpStream::connect(served.tcp()).await.unwrap());
    }
    assert!(is_let_in(&served, &pki.servers, Some(&pki.executor())).await);
    served.drain();
    served.ended().await;
}

#[tokio::test]
async fn a_reload_changes_the_certificate_and_drops_no_connection() {
    let pki = Pki::new();
    let served = Served::start(&pki.config(), routes());
    let executor = pki.executor();
    let mut before = client(&served, &pki.servers, Some(&executor)).await.unwrap();
    ask(&mut before).await.unwrap();

    let successor = Authority::named("servers, next year");
    successor.server().write_as_server(pki.path());
    served.tls.as_ref().unwrap().reload().unwrap();

    ask(&mut before).await.unwrap();
    assert!(is_let_in(&served, &successor, Some(&executor)).await);
    assert!(!is_let_in(&served, &pki.servers, Some(&executor)).await);
}

#[tokio::test]
async fn a_reload_of_the_client_authority_shuts_out_those_it_no_longer_signs() {
    let pki = Pki::new();
    let served = Served::start(&pki.config(), routes());
    let executor = pki.executor();
    assert!(is_let_in(&served, &pki.servers, Some(&executor)).await);
    std::fs::write(pki.path().join("clients.pem"), Authority::named("others").pem).unwrap();
    served.tls.as_ref().unwrap().reload().unwrap();
    assert!(!is_let_in(&served, &pki.servers, Some(&executor)).await);
}

#[tokio::test]
async fn a_bad_reload_names_the_file_and_keeps_the_old_certificate() {
    let pki = Pki::new();
    let served = Served::start(&pki.config(), routes());
    let executor = pki.executor();
    let broken: [(&str, &str); 5] = [
        ("server.pem", "not a certificate"),
        ("server.pem", &Authority::named("servers").server().certificate),
        ("server.key", "-----BEGIN PRIVATE KEY----- S3CR3TKEY -----END PRIVATE KEY-----"),
        ("server.key", "-----BEGIN PRIVATE KEY-----\n???S3CR3TKEY???\n-----END PRIVATE KEY-----\n"),
        ("clients.pem", ""),
    ];
    for (file, content) in broken {
        let path = pki.path().join(file);
        let good = std::fs::read(&path).unwrap();
        std::fs::write(&path, content).unwrap();
        let error = served.tls.as_ref().unwrap().reload().unwrap_err();
        assert!(error.to_string().contains(file), "{error}");
        assert!(!format!("{error} {error:?}").contains("S3CR3TKEY"), "{error:?}");
        assert!(is_let_in(&served, &pki.servers, Some(&executor)).await, "after {error}");
        std::fs::write(&path, good).unwrap();
    }
    served.tls.as_ref().unwrap().reload().unwrap();
}

#[tokio::test]
async fn a_key_file_open_to_all_is_refused_with_the_remedy() {
    let pki = Pki::new();
    let key_file = pki.path().join("server.key");
    std::fs::set_permissions(&key_file, Permissions::from_mode(0o644)).unwrap();
    let refusal = refusal(&pki.config());
    assert!(matches!(refusal, ListenError::Tls(TlsError::KeyOpenToAll { mode: 0o644, .. })), "{refusal}");
    assert!(refusal.to_string().contains(&format!("`chmod o= {}`", key_file.display())), "{refusal}");
}

#[tokio::test]
async fn tls_without_an_address_is_refused() {
    let pki = Pki::new();
    assert!(matches!(refusal(&Grpc { tls: pki.config().tls, ..config() }), ListenError::TlsWithoutAddress));
}
