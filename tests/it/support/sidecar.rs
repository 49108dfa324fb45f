//! The real daemon on free ports, in this process, with clients for it.

use credway::app::{self, Addresses, Running};
use credway::clock::Clock;
use credway::config::Config;
use credway::config::load::{self, Sources};
use credway::grpc::proto::credential_service_client::CredentialServiceClient;
use tempfile::TempDir;
use tonic::metadata::AsciiMetadataValue;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

/// A running daemon, with the directory it lives in.
pub(crate) struct Sidecar {
    running: Running,
    /// Goes when the daemon goes.
    _dir: TempDir,
}

pub(crate) type Client = CredentialServiceClient<InterceptedService<Channel, Metadata>>;

/// The metadata of each call.
#[derive(Clone, Default)]
pub(crate) struct Metadata(Vec<(&'static str, AsciiMetadataValue)>);

impl tonic::service::Interceptor for Metadata {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        for (name, value) in &self.0 {
            request.metadata_mut().insert(*name, value.clone());
        }
        Ok(request)
    }
}

/// The settings of an embedded daemon in `dir`, with `more` on top.
pub(crate) fn embedded(dir: &TempDir, more: &[(&'static str, String)]) -> Config {
    let path = |name: &str| dir.path().join(name).display().to_string();
    let own = [
        ("data_dir", path("")),
        ("grpc.socket", path("credway.sock")),
        ("grpc.address", "127.0.0.1:0".to_owned()),
        ("http.address", "127.0.0.1:0".to_owned()),
    ];
    let flags = own.iter().chain(more).cloned().collect();
    load::load(&Sources { file: None, environment: Vec::new(), flags }).unwrap().config
}

impl Sidecar {
    /// Starts the daemon that `config` describes.
    pub(crate) async fn start(dir: TempDir, config: Config, clock: Clock) -> Self {
        let running = Box::pin(app::start(&config, clock)).await.unwrap();
        Self { running, _dir: dir }
    }

    pub(crate) fn addresses(&self) -> &Addresses {
        &self.running.addresses
    }

    /// A client over the Unix socket that sends `token`. The daemon has heard of a token made just before, so that nothing it
    /// is about to remember is outdated by that; unless it can hear of nothing, which is not waited for.
    pub(crate) async fn client(&self, token: &str) -> Client {
        let _ = tokio::time::timeout(std::time::Duration::from_millis(500), self.running.caught_up()).await;
        let value = format!("Bearer {token}").parse().unwrap();
        CredentialServiceClient::with_interceptor(self.socket().await, Metadata(vec![("authorization", value)]))
    }

    /// A client that sends just this metadata.
    pub(crate) async fn client_with(&self, metadata: &[(&'static str, &str)]) -> Client {
        let metadata = metadata.iter().map(|(name, value)| (*name, value.parse().unwrap())).collect();
        CredentialServiceClient::with_interceptor(self.socket().await, Metadata(metadata))
    }

    /// A connection to the Unix socket.
    pub(crate) async fn socket(&self) -> Channel {
        let path = self.addresses().socket.as_ref().unwrap();
        Endpoint::from_shared(format!("unix://{}", path.display())).unwrap().connect().await.unwrap()
    }

    /// A connection to the TCP port.
    pub(crate) async fn tcp(&self) -> Channel {
        let address = self.addresses().grpc.unwrap();
        Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap()
    }

    /// Waits until it has heard of every change until now.
    pub(crate) async fn caught_up(&self) {
        tokio::time::timeout(std::time::Duration::from_secs(20), self.running.caught_up()).await.unwrap().unwrap();
    }

    pub(crate) async fn stop(self) -> bool {
        self.running.shutdown().await
    }
}
