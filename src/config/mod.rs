//! Settings as plain values. Reading them from file, environment and flags is in `load.rs`; this file names no other module
//! but the domain's, so that every module may be configured by it.

mod assemble;
mod callers;
mod clients;
mod document;
pub mod load;
mod mistakes;
mod reader;
mod settings;
mod values;
mod webhooks;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

use crate::limits;
use crate::model::caller::{Role, ScopeSet};
use crate::model::event::{EventKind, WebhookSecret};
use crate::model::name::Slug;
use crate::model::secret::LeasePattern;
use crate::model::server::CanonicalUrl;

pub use values::is_log_filter;

/// Everything that a daemon is told.
#[derive(Clone, Debug)]
pub struct Config {
    pub role: ServeRole,
    /// Where database, master key and socket lie unless told otherwise.
    pub data_dir: PathBuf,
    pub database: Database,
    pub secret_store: SecretStore,
    pub cache: Cache,
    pub grpc: Grpc,
    pub http: Http,
    /// Callers known by who they are instead of by a token.
    pub known_callers: Vec<KnownCaller>,
    pub audit: Audit,
    /// A directory of connection templates beside the built-in ones.
    pub template_dir: Option<PathBuf>,
    /// Below which URL the platform's MCP servers are reached.
    pub catalogue_base_url: CanonicalUrl,
    pub egress: Egress,
    pub oauth: OAuth,
    pub webhooks: Vec<Webhook>,
    pub telemetry: Telemetry,
    pub shutdown: Shutdown,
}

/// Which of credway's two jobs a daemon does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServeRole {
    #[default]
    All,
    /// Answers executors and MCP processes.
    Sidecar,
    /// Serves the people and scripts that manage what is resolved.
    Control,
}

impl ServeRole {
    pub const ALL: [(Self, &'static str); 3] =
        [(Self::All, "all"), (Self::Sidecar, "sidecar"), (Self::Control, "control")];

    pub fn is_sidecar(self) -> bool {
        self != Self::Control
    }

    pub fn is_control(self) -> bool {
        self != Self::Sidecar
    }
}

impl fmt::Display for ServeRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::ALL[*self as usize].1)
    }
}

/// The database of connections, instances and wiring.
#[derive(Clone, Debug)]
pub enum Database {
    /// One file, for one host.
    Sqlite { path: PathBuf },
    /// `postgres://user:password@host/database`.
    Postgres { url: SecretString },
}

/// Where secrets lie.
#[derive(Clone, Debug)]
pub enum SecretStore {
    /// In the database, sealed under the master key in this file.
    Sealed {
        master_key_file: PathBuf,
    },
    Vault(Box<Vault>),
}

impl SecretStore {
    /// What connections may be leased from; everything if there is none.
    pub fn lease_paths(&self) -> &[LeasePattern] {
        match self {
            Self::Sealed { .. } => &[],
            Self::Vault(vault) => &vault.lease_paths,
        }
    }
}

/// Vault or OpenBao, KV version 2.
#[derive(Clone, Debug)]
pub struct Vault {
    /// `https://vault.example.com:8200`.
    pub address: url::Url,
    pub namespace: Option<String>,
    /// The KV version 2 mount: `secret`.
    pub mount: String,
    /// The first part of every secret's path: `credway`.
    pub prefix: String,
    /// Trusted instead of the system's certificate authorities, when given.
    pub ca_file: Option<PathBuf>,
    /// What connections may be leased from; all that Vault's policy gives us if there is none.
    pub lease_paths: Vec<LeasePattern>,
    pub auth: VaultAuth,
}

/// How we prove to Vault who we are. Files are read again at each login, so that they may be rotated.
#[derive(Clone, Debug)]
pub enum VaultAuth {
    Token { token: SecretString },
    TokenFile { path: PathBuf },
    AppRole { mount: String, role_id: String, secret_id_file: PathBuf },
    Kubernetes { mount: String, role: String, token_file: PathBuf },
    Certificate { mount: String, role: Option<String>, cert_file: PathBuf, key_file: PathBuf },
}

/// How long secrets are kept in memory, and how many.
#[derive(Clone, Debug)]
pub struct Cache {
    pub secret_ttl: Duration,
    /// How long after it was read a secret is served while the secret store is down.
    pub max_stale: Duration,
    pub policy: CachePolicy,
    /// The policies of connections made from these templates, where they differ.
    pub policies: BTreeMap<String, CachePolicy>,
    pub entries_max: u64,
    pub bytes_max: u64,
    /// How long wiring is served from memory while the database cannot be asked whether it changed.
    pub config_max_stale: Duration,
}

/// What counts more when the secret store is slow or down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CachePolicy {
    /// An answer: a value past its time to live is served, and said to be stale, until `max_stale`.
    #[default]
    Availability,
    /// The right answer: past its time to live no value is served that was not read anew.
    Fidelity,
}

impl CachePolicy {
    pub const ALL: [(Self, &'static str); 2] = [(Self::Availability, "availability"), (Self::Fidelity, "fidelity")];
}

impl fmt::Display for CachePolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::ALL[*self as usize].1)
    }
}

impl Cache {
    /// The policy for connections made from this template.
    pub fn policy_of(&self, template: &str) -> CachePolicy {
        self.policies.get(template).copied().unwrap_or(self.policy)
    }
}

/// The listeners of the data plane. Each may be absent; none at all is a mistake of who answers executors.
#[derive(Clone, Debug)]
pub struct Grpc {
    pub socket: Option<UnixSocket>,
    /// TCP; without TLS it must be a loopback address.
    pub address: Option<SocketAddr>,
    pub tls: Option<MutualTls>,
    pub calls_in_flight_max: usize,
    pub call_deadline: Duration,
}

/// A Unix socket, and who may open it.
#[derive(Clone, Debug)]
pub struct UnixSocket {
    pub path: PathBuf,
    /// Permission bits: 0o660.
    pub mode: u32,
    /// The owner, as uid or name; ours if absent.
    pub owner: Option<String>,
    /// The group, as gid or name; ours if absent.
    pub group: Option<String>,
}

/// TLS with client certificates. The files are read again on SIGHUP.
#[derive(Clone, Debug)]
pub struct MutualTls {
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
    /// The authorities that sign client certificates.
    pub client_ca_file: PathBuf,
}

/// The HTTP listener: metrics, probes, and for callers on this machine the config of MCP processes.
#[derive(Clone, Debug)]
pub struct Http {
    pub address: Option<SocketAddr>,
    /// Whether processes of this machine may end the daemon by `POST /quit`.
    pub quit: bool,
}

/// A caller known by its uid on the Unix socket or by a name in its client certificate.
#[derive(Clone, Debug)]
pub struct KnownCaller {
    pub identity: Identity,
    pub tenant: Slug,
    /// The one project it is limited to; `None` for all of the tenant.
    pub project: Option<Slug>,
    pub role: Role,
    pub scopes: ScopeSet,
}

/// By what a known caller is recognised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    Uid(u32),
    /// A DNS or URI subject alternative name, compared whole.
    CertificateName(String),
}

/// The record of every resolve.
#[derive(Clone, Debug)]
pub struct Audit {
    /// `None`: nothing is recorded.
    pub file: Option<PathBuf>,
    pub when_full: WhenFull,
    /// The file is renamed when it would grow beyond this.
    pub bytes_max: u64,
}

/// What becomes of a call of which no record can be kept, because the disk is full, fails, or is too slow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// It is answered; the record is lost, and counted.
    #[default]
    Drop,
    /// It is refused.
    Refuse,
}

impl WhenFull {
    pub const ALL: [(Self, &'static str); 2] = [(Self::Drop, "drop"), (Self::Refuse, "refuse")];
}

impl fmt::Display for WhenFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::ALL[*self as usize].1)
    }
}

/// Where the daemon connects to when users say where.
#[derive(Clone, Debug, Default)]
pub struct Egress {
    /// What is reached although it is not on the public internet.
    pub allow: Vec<EgressRule>,
    /// Authorities trusted beside the system's.
    pub ca_file: Option<PathBuf>,
    /// Where hosts are that DNS is not asked for. No setting gives any: tests stand in for providers by it.
    pub hosts: BTreeMap<String, SocketAddr>,
}

/// One exception from the rule that only public addresses are reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EgressRule {
    Network(ipnet::IpNet),
    /// Whatever private address a host of this name has, in lower case.
    Host(String),
}

/// Who we are to providers of OAuth, and where they send people back to.
#[derive(Clone, Debug, Default)]
pub struct OAuth {
    /// Where browsers reach this daemon: `https://credway.example.com`.
    pub public_url: Option<url::Url>,
    /// By template.
    pub clients: BTreeMap<String, OAuthClient>,
}

/// A client that was registered with a provider.
#[derive(Clone, Debug)]
pub struct OAuthClient {
    pub id: String,
    pub secret: Option<SecretString>,
    pub key: Option<OAuthKey>,
}

/// A private key by which a client shows who it is.
#[derive(Clone, Debug)]
pub struct OAuthKey {
    pub pem: SecretString,
    /// By which the provider finds the public key.
    pub id: Option<String>,
}

/// Who is told what happens to connections.
#[derive(Clone)]
pub struct Webhook {
    /// It may hold a key of the receiver's: it is never shown.
    pub url: url::Url,
    pub secret: WebhookSecret,
    pub events: BTreeSet<EventKind>,
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook")
            .field("host", &self.url.host_str())
            .field("events", &self.events)
            .finish_non_exhaustive()
    }
}

/// Logs and traces.
#[derive(Clone, Debug)]
pub struct Telemetry {
    /// A filter of tracing-subscriber: `info`, `credway=debug`.
    pub log_level: String,
    pub log_format: LogFormat,
    /// An OTLP/gRPC collector: `http://127.0.0.1:4317`.
    pub otlp_endpoint: Option<String>,
    /// The share of calls traced when the caller has not decided: 0.0 to 1.0.
    pub trace_sample_ratio: f64,
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Json,
    Text,
}

/// How the daemon ends.
#[derive(Clone, Debug)]
pub struct Shutdown {
    /// How long calls are still taken after readiness is off.
    pub linger: Duration,
    /// How long calls in flight may take to finish.
    pub drain: Duration,
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            secret_ttl: limits::SECRET_TTL_DEFAULT,
            max_stale: limits::SECRET_MAX_STALE_DEFAULT,
            policy: CachePolicy::default(),
            policies: BTreeMap::new(),
            entries_max: limits::SECRET_CACHE_ENTRIES,
            bytes_max: limits::SECRET_CACHE_BYTES,
            config_max_stale: limits::CONFIG_MAX_STALE,
        }
    }
}

impl Default for Telemetry {
    fn default() -> Self {
        Self { log_level: "info".into(), log_format: LogFormat::Json, otlp_endpoint: None, trace_sample_ratio: 0.0 }
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { linger: limits::LINGER, drain: limits::DRAIN_DEADLINE }
    }
}
