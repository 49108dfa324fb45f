//! Makes the [`Config`] of what the sources gave, with its defaults, and checks what no single setting can show.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::SignedDuration;
use url::Url;

use super::document::{self, Tables, Unreadable};
use super::mistakes::Source;
use super::reader::Reader;
use super::settings::POLICIES;
use super::values::{self, AuthMethod, Listener, StoreKind};
use super::{
    Audit, Cache, Config, Database, Egress, Grpc, Http, LogFormat, MutualTls, OAuth, SecretStore, ServeRole, Shutdown,
    Telemetry, UnixSocket, Vault, VaultAuth, WhenFull, callers, clients, webhooks,
};
use crate::limits;
use crate::model::server::CanonicalUrl;

/// Where a packaged daemon keeps what is its own.
const DATA_DIR: &str = "/var/lib/credway";

/// Where metrics and probes are, unless told otherwise.
const HTTP_ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8420);

/// Where the platform's servers are, unless told otherwise: a name that no DNS knows, so that nothing is sent to a stranger.
const CATALOGUE_BASE_URL: &str = "https://mcp.credway.invalid";

/// Where Kubernetes puts the token of a pod's service account.
const SERVICE_ACCOUNT_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// The whole config; `None` only if a mistake was noted. Every part is read before any is given up, so that all
/// mistakes are found.
pub(super) fn config(reader: &mut Reader, tables: &Tables) -> Option<Config> {
    let role = reader.defaulted("role", values::role, ServeRole::All, ServeRole::All);
    let data_dir = reader.defaulted("data_dir", values::path, PathBuf::from(DATA_DIR), DATA_DIR);
    let database = database(reader, &data_dir);
    let secret_store = secret_store(reader, &data_dir);
    let cache = cache(reader);
    let grpc = grpc(reader, &data_dir, role);
    let http = http(reader, role);
    let known_callers = callers::known(reader, &tables.callers);
    let audit = audit(reader, &data_dir, role);
    let template_dir = reader.optional("templates.dir", values::path);
    let catalogue_base_url = catalogue_base_url(reader);
    let egress = egress(reader);
    let oauth = OAuth {
        public_url: reader.optional("oauth.public_url", values::public_url),
        clients: clients::known(reader, &tables.clients),
    };
    let webhooks = webhooks::known(reader, &tables.webhooks);
    let telemetry = telemetry(reader);
    let linger = bounded(reader, "shutdown.linger", limits::LINGER, limits::DRAIN_DEADLINE_MAX);
    let drain = bounded(reader, "shutdown.drain", limits::DRAIN_DEADLINE, limits::DRAIN_DEADLINE_MAX);
    Some(Config {
        role,
        data_dir,
        database: database?,
        secret_store: secret_store?,
        cache,
        grpc,
        http,
        known_callers,
        audit,
        template_dir,
        catalogue_base_url,
        egress,
        oauth,
        webhooks,
        telemetry,
        shutdown: Shutdown { linger, drain },
    })
}

fn database(reader: &mut Reader, data_dir: &Path) -> Option<Database> {
    reader.choose("database.url", "database.url_file");
    if !reader.is_given("database.url_file") {
        let path = data_dir.join("credway.db");
        let text = format!("sqlite:{}", path.display());
        return Some(reader.defaulted("database.url", values::database, Database::Sqlite { path }, text));
    }
    let file = reader.optional("database.url_file", values::path)?;
    match document::content(&file) {
        Ok(text) => match values::database(text.trim()) {
            Ok(database) => return Some(database),
            Err(wrong) => reader.mistake("database.url_file", format!("holds what {}", wrong.problem), wrong.remedy),
        },
        Err(Unreadable { problem, .. }) => reader.mistake("database.url_file", problem, "name a readable file"),
    }
    None
}

fn secret_store(reader: &mut Reader, data_dir: &Path) -> Option<SecretStore> {
    let is_vault_described = reader.is_given("secret_store.vault.address");
    if is_vault_described && !reader.is_given("secret_store.kind") {
        let remedy = r#"write kind = "vault" in [secret_store] if secrets lie there, or leave the address out"#;
        reader.mistake("secret_store.vault.address", "is given, but the kind of the secret store is not", remedy);
    }
    match reader.defaulted("secret_store.kind", values::store_kind, StoreKind::Sealed, "sealed") {
        StoreKind::Sealed => {
            let default = data_dir.join("master.key");
            let text = default.display().to_string();
            let master_key_file = reader.defaulted("secret_store.master_key_file", values::path, default, text);
            Some(SecretStore::Sealed { master_key_file })
        }
        StoreKind::Vault => vault(reader).map(|vault| SecretStore::Vault(Box::new(vault))),
    }
}

fn vault(reader: &mut Reader) -> Option<Vault> {
    let why = "a secret store of kind vault needs its address and a way to log in";
    let address = reader.required("secret_store.vault.address", values::web_url, why);
    let namespace = reader.optional("secret_store.vault.namespace", values::vault_path);
    let mount = reader.defaulted("secret_store.vault.mount", values::vault_path, "secret".into(), "secret");
    let prefix = reader.defaulted("secret_store.vault.prefix", values::vault_path, "credway".into(), "credway");
    let ca_file = reader.optional("secret_store.vault.ca_file", values::path);
    let lease_paths = reader.defaulted("secret_store.vault.lease_paths", values::lease_paths, Vec::new(), "all");
    let auth = match reader.required("secret_store.vault.auth.method", values::auth_method, why) {
        Some(method) => vault_auth(reader, method),
        None => None,
    };
    Some(Vault { address: address?, namespace, mount, prefix, ca_file, lease_paths, auth: auth? })
}

fn vault_auth(reader: &mut Reader, method: AuthMethod) -> Option<VaultAuth> {
    const TOKEN_FILE: &str = "secret_store.vault.auth.token_file";
    let mount = |reader: &mut Reader, default: &str| {
        reader.defaulted("secret_store.vault.auth.mount", values::vault_path, default.to_owned(), default)
    };
    match method {
        AuthMethod::Token => {
            reader.choose("secret_store.vault.auth.token", TOKEN_FILE);
            if reader.is_given(TOKEN_FILE) {
                return reader.optional(TOKEN_FILE, values::path).map(|path| VaultAuth::TokenFile { path });
            }
            let why = "the method token needs it, or token_file";
            let token = reader.required("secret_store.vault.auth.token", values::secret, why)?;
            Some(VaultAuth::Token { token })
        }
        AuthMethod::TokenFile => {
            let path = reader.required(TOKEN_FILE, values::path, "the method token_file needs it")?;
            Some(VaultAuth::TokenFile { path })
        }
        AuthMethod::AppRole => {
            let why = "the method approle needs role_id and secret_id_file";
            let mount = mount(reader, "approle");
            let role_id = reader.required("secret_store.vault.auth.role_id", values::text, why);
            let secret_id_file = reader.required("secret_store.vault.auth.secret_id_file", values::path, why);
            Some(VaultAuth::AppRole { mount, role_id: role_id?, secret_id_file: secret_id_file? })
        }
        AuthMethod::Kubernetes => {
            let mount = mount(reader, "kubernetes");
            let role = reader.required("secret_store.vault.auth.role", values::text, "the method kubernetes needs it");
            let default = PathBuf::from(SERVICE_ACCOUNT_TOKEN);
            let token_file = reader.defaulted(TOKEN_FILE, values::path, default, SERVICE_ACCOUNT_TOKEN);
            Some(VaultAuth::Kubernetes { mount, role: role?, token_file })
        }
        AuthMethod::Cert => {
            let why = "the method cert needs cert_file and key_file";
            let mount = mount(reader, "cert");
            let role = reader.optional("secret_store.vault.auth.role", values::text);
            let cert_file = reader.required("secret_store.vault.auth.cert_file", values::path, why);
            let key_file = reader.required("secret_store.vault.auth.key_file", values::path, why);
            Some(VaultAuth::Certificate { mount, role, cert_file: cert_file?, key_file: key_file? })
        }
    }
}

fn cache(reader: &mut Reader) -> Cache {
    let default = Cache::default();
    let cache = Cache {
        secret_ttl: bounded(reader, "cache.secret_ttl", default.secret_ttl, limits::SECRET_TTL_MAX),
        config_max_stale: bounded(
            reader,
            "cache.config_max_stale",
            default.config_max_stale,
            limits::CONFIG_MAX_STALE_LIMIT,
        ),
        max_stale: bounded(reader, "cache.max_stale", default.max_stale, limits::SECRET_MAX_STALE_MAX),
        policy: reader.defaulted("cache.policy", values::cache_policy, default.policy, default.policy),
        policies: reader.defaulted(POLICIES, values::cache_policies, default.policies, "none"),
        entries_max: reader.defaulted("cache.entries_max", values::count, default.entries_max, default.entries_max),
        bytes_max: {
            let text = values::size_text(default.bytes_max);
            reader.defaulted("cache.bytes_max", values::size, default.bytes_max, text)
        },
    };
    for (path, value) in [("cache.entries_max", cache.entries_max), ("cache.bytes_max", cache.bytes_max)] {
        if value == 0 {
            reader.mistake(path, "leaves no room for a single secret", r#"to keep none, write secret_ttl = "0s""#);
        }
    }
    cache
}

/// A daemon of role `control` may be given the listeners of those beside it, and has none.
fn grpc(reader: &mut Reader, data_dir: &Path, role: ServeRole) -> Grpc {
    let address = match reader.optional("grpc.address", values::tcp_listener) {
        Some(Listener::On(address)) => Some(address),
        Some(Listener::Off) | None => None,
    };
    let socket = socket(reader, data_dir, address.is_some() || !role.is_sidecar());
    let tls = tls(reader, address);
    if socket.is_none() && address.is_none() && role.is_sidecar() {
        let remedy = "give grpc.address, or leave grpc.socket out to listen in data_dir";
        reader.mistake("grpc.socket", "is off, and there is no other listener", remedy);
    }
    let in_flight = limits::CALLS_IN_FLIGHT_MAX as u64;
    let calls_in_flight = reader.defaulted("grpc.calls_in_flight_max", values::count, in_flight, in_flight);
    let calls_in_flight_max = usize::try_from(calls_in_flight).unwrap_or(usize::MAX);
    if !(1..=limits::CALLS_IN_FLIGHT_LIMIT).contains(&calls_in_flight_max) {
        let problem = format!("is not between 1 and {}", limits::CALLS_IN_FLIGHT_LIMIT);
        reader.mistake("grpc.calls_in_flight_max", problem, format!("the default is {in_flight}"));
    }
    let call_deadline = bounded(reader, "grpc.call_deadline", limits::CALL_DEADLINE_DEFAULT, limits::CALL_DEADLINE_MAX);
    if call_deadline.is_zero() {
        reader.mistake("grpc.call_deadline", "leaves calls no time", "give it some seconds");
    }
    let (socket, address, tls) = if role.is_sidecar() { (socket, address, tls) } else { (None, None, None) };
    Grpc { socket, address, tls, calls_in_flight_max, call_deadline }
}

/// The socket that is asked for; the one in the data directory if no listener is, unless none is needed.
fn socket(reader: &mut Reader, data_dir: &Path, may_be_none: bool) -> Option<UnixSocket> {
    let path = if reader.is_given("grpc.socket") || may_be_none {
        match reader.optional("grpc.socket", values::socket_listener)? {
            Listener::On(path) => path,
            Listener::Off => return None,
        }
    } else {
        let path = data_dir.join("credway.sock");
        let text = path.display().to_string();
        if let Err(wrong) = values::socket_listener(&text) {
            reader.mistake_at("grpc.socket", Source::Default, format!("in data_dir {}", wrong.problem), wrong.remedy);
        }
        reader.defaulted("grpc.socket", values::path, path, text)
    };
    let mode = reader.defaulted("grpc.socket_mode", values::mode, 0o660, "0660");
    let owner = reader.optional("grpc.socket_owner", values::text);
    let group = reader.optional("grpc.socket_group", values::text);
    Some(UnixSocket { path, mode, owner, group })
}

fn tls(reader: &mut Reader, address: Option<SocketAddr>) -> Option<MutualTls> {
    const FILES: [&str; 3] = ["grpc.tls.cert_file", "grpc.tls.key_file", "grpc.tls.client_ca_file"];
    let Some(given) = FILES.into_iter().find(|path| reader.is_given(path)) else {
        if address.is_some_and(|address| !address.ip().is_loopback()) {
            let problem = "is off loopback and needs [grpc.tls]: credentials never cross a network in the clear";
            reader.mistake("grpc.address", problem, "give [grpc.tls] its three files, or listen on 127.0.0.1");
        }
        return None;
    };
    if address.is_none() && !reader.is_given("grpc.address") {
        reader.mistake(given, "is given, but nothing listens with it", "give grpc.address, or leave [grpc.tls] out");
    }
    let why = "TLS needs cert_file, key_file and client_ca_file";
    let [cert_file, key_file, client_ca_file] = FILES.map(|path| reader.required(path, values::path, why));
    Some(MutualTls { cert_file: cert_file?, key_file: key_file?, client_ca_file: client_ca_file? })
}

fn http(reader: &mut Reader, role: ServeRole) -> Http {
    let default = Listener::On(HTTP_ADDRESS);
    let address = match reader.defaulted("http.address", values::tcp_listener, default, HTTP_ADDRESS) {
        Listener::On(address) => Some(address),
        Listener::Off => None,
    };
    if address.is_none() && role == ServeRole::Control {
        reader.mistake(
            "http.address",
            "is off, and a daemon of role control listens nowhere else",
            "give it an address",
        );
    }
    Http { address, quit: reader.defaulted("http.quit", values::flag, false, false) }
}

fn audit(reader: &mut Reader, data_dir: &Path, role: ServeRole) -> Audit {
    let file = data_dir.join("audit.jsonl");
    let text = file.display().to_string();
    let file = reader.defaulted("audit.file", values::path_or_off, Some(file), text);
    let when_full = reader.defaulted("audit.when_full", values::when_full, WhenFull::Drop, WhenFull::Drop);
    let bytes_max = limits::AUDIT_FILE_BYTES_DEFAULT;
    let bytes_max = reader.defaulted("audit.bytes_max", values::size, bytes_max, values::size_text(bytes_max));
    if bytes_max < limits::AUDIT_FILE_BYTES_MIN {
        reader.mistake("audit.bytes_max", "is less than 64KiB", r#"give it room, like "256MiB""#);
    }
    // Who answers no executor has nothing to record, and would rename the file of the daemon that does.
    Audit { file: file.filter(|_| role.is_sidecar()), when_full, bytes_max }
}

fn egress(reader: &mut Reader) -> Egress {
    Egress {
        allow: reader.defaulted("egress.allow", values::egress_rules, Vec::new(), "none"),
        ca_file: reader.optional("egress.ca_file", values::path),
        hosts: BTreeMap::new(),
    }
}

fn catalogue_base_url(reader: &mut Reader) -> CanonicalUrl {
    let default = CATALOGUE_BASE_URL.parse().expect("our own URL is one");
    reader.defaulted("catalogue.base_url", values::server_url, default, CATALOGUE_BASE_URL)
}

fn telemetry(reader: &mut Reader) -> Telemetry {
    let default = Telemetry::default();
    let ratio = default.trace_sample_ratio;
    let level_text = default.log_level.clone();
    Telemetry {
        log_level: reader.defaulted("telemetry.log_level", values::log_level, default.log_level, level_text),
        log_format: reader.defaulted("telemetry.log_format", values::log_format, LogFormat::Json, "json"),
        otlp_endpoint: reader.optional("telemetry.otlp_endpoint", values::web_url).map(Url::into),
        trace_sample_ratio: reader.defaulted("telemetry.trace_sample_ratio", values::ratio, ratio, ratio),
    }
}

/// A duration that may not be longer than `most`.
fn bounded(reader: &mut Reader, path: &'static str, default: Duration, most: Duration) -> Duration {
    let span = reader.defaulted(path, values::duration, default, friendly(default));
    if span > most {
        reader.mistake(path, format!("is longer than {}", friendly(most)), "shorten it");
    }
    span
}

fn friendly(span: Duration) -> String {
    SignedDuration::try_from(span).map_or_else(|_| format!("{span:?}"), |span| format!("{span:#}"))
}
