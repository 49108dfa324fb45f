//! The real binary: a home for its files, commands run to their end, and daemons that end with the test.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use credway::grpc::proto::config_entry::Value as Typed;
use credway::grpc::proto::credential_service_client::CredentialServiceClient;
use credway::grpc::proto::{ResolveCredentialsRequest, ResolveCredentialsResponse};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use tonic::metadata::AsciiMetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

use super::openbao::{Bao, fresh_name, until};

/// How long a command may take, and a daemon until it is ready.
const PATIENCE: Duration = Duration::from_secs(30);

/// A directory with a daemon's config, data, manifests and logs.
pub(crate) struct Home {
    dir: TempDir,
}

/// A command that has ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A running `credway serve`. Dropped, it is killed.
pub(crate) struct Daemon {
    child: Child,
    ready: Value,
    log: PathBuf,
}

/// What an error said: its code, the reason in its ErrorInfo, and when a retry may help.
#[derive(Debug, PartialEq)]
pub(crate) struct Refused {
    pub(crate) code: Code,
    pub(crate) reason: String,
    pub(crate) retry: Option<Duration>,
}

pub(crate) type Client = CredentialServiceClient<InterceptedService<Channel, Bearer>>;

/// Sends a token with each call.
#[derive(Clone)]
pub(crate) struct Bearer(AsciiMetadataValue);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

impl Home {
    pub(crate) fn new() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let home = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir(home.path("data")).unwrap();
        fs::create_dir(home.path("cwd")).unwrap();
        home
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Writes a file for the owner alone, and returns its path.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    /// Writes `credway.toml`: free ports, socket and data in here, and `more` on top.
    pub(crate) fn config(&self, more: &[(&str, &str)]) -> PathBuf {
        let own = [
            ("data_dir", self.text("data")),
            ("grpc.address", "127.0.0.1:0".to_owned()),
            ("grpc.socket", self.text("credway.sock")),
            ("http.address", "127.0.0.1:0".to_owned()),
            ("shutdown.linger", "0s".to_owned()),
        ];
        let more = more.iter().map(|(key, value)| (*key, (*value).to_owned()));
        let settings: BTreeMap<&str, String> = own.into_iter().chain(more).collect();
        let lines: Vec<String> = settings.iter().map(|(key, value)| format!("{key} = {}\n", json!(value))).collect();
        self.write("credway.toml", lines.concat())
    }

    /// Writes `manifest.yaml`: the project acme/pay with, for each name, a connection that holds the key and an instance that
    /// is wired to it; and a token in the file `token`.
    pub(crate) fn manifest(&self, keys: &[(&str, &str)]) -> PathBuf {
        let connection = |(name, key): &(&str, &str)| json!({ "name": name, "template": "generic-api-key", "credentials": { "api_key": { "value": key } } });
        let instance = |(name, _): &(&str, &str)| {
            let wiring = json!({ "API_KEY": { "connection": name, "credential": "api_key" } });
            let profile = json!({ "name": "default", "wiring": wiring });
            json!({ "name": name, "server": "echo", "active": "default", "profiles": [profile] })
        };
        let field = json!({ "type": "string", "required": true, "secret": true });
        let project = json!({
            "project": "pay",
            "servers": [{ "service": "echo", "url": "https://mcp.example.com/echo", "config": { "API_KEY": field } }],
            "connections": keys.iter().map(connection).collect::<Vec<_>>(),
            "instances": keys.iter().map(instance).collect::<Vec<_>>(),
            "tokens": [{ "name": "tests", "role": "project_contributor", "scopes": ["mcp:execute"], "file": "token" }],
        });
        // YAML, since all JSON is.
        self.write("manifest.yaml", json!({ "tenant": "acme", "projects": [project] }).to_string())
    }

    /// The token that `manifest` declares, once it was applied.
    pub(crate) fn token(&self) -> String {
        fs::read_to_string(self.path("token")).unwrap().trim().to_owned()
    }

    /// The command with nothing of this process's environment; it dies with this test's thread.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", env!("CARGO_BIN_EXE_credway")]).args(args);
        command.env_clear().env("XDG_RUNTIME_DIR", self.dir.path()).env("PATH", std::env::var_os("PATH").unwrap());
        command.current_dir(self.path("cwd")).stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    pub(crate) async fn run(&self, args: &[&str]) -> Ran {
        finish(self.command(args)).await
    }

    /// `credway apply` of `manifest.yaml` by `credway.toml`.
    pub(crate) async fn apply(&self) -> Ran {
        self.run(&["apply", "--config", &self.text("credway.toml"), "--file", &self.text("manifest.yaml")]).await
    }

    /// Tries to run the daemon, for starts that fail.
    pub(crate) async fn serve(&self) -> Ran {
        self.run(&["serve", "--config", &self.text("credway.toml")]).await
    }

    /// Starts the daemon by `credway.toml` and waits until it is ready.
    pub(crate) async fn start(&self) -> Daemon {
        self.start_by(|_| {}).await
    }

    /// As `start`, with a change to its command.
    pub(crate) async fn start_by(&self, change: impl FnOnce(&mut Command)) -> Daemon {
        let ready_file = self.path("ready.json");
        let _ = fs::remove_file(&ready_file);
        let mut daemon = self.spawn(change);
        daemon.until_it("is ready", || fs::read(&ready_file).ok()).await;
        daemon
    }

    /// Starts the daemon and waits until it listens: what it needs may be down.
    pub(crate) async fn start_unready(&self) -> Daemon {
        let text = |log: &PathBuf| fs::read_to_string(log).unwrap_or_default();
        // Earlier daemons wrote to the same log.
        let before = text(&self.path("daemon.log")).len();
        let mut daemon = self.spawn(|_| {});
        let log = daemon.log.clone();
        let listens = || {
            let text = text(&log);
            text[before..].lines().find(|line| line.contains(" listens\"")).map(|line| line.as_bytes().to_vec())
        };
        daemon.until_it("listens", listens).await;
        daemon
    }

    fn spawn(&self, change: impl FnOnce(&mut Command)) -> Daemon {
        let (config, ready_file, log) = (self.text("credway.toml"), self.text("ready.json"), self.path("daemon.log"));
        let mut command = self.command(&["serve", "--config", &config, "--ready-file", &ready_file]);
        command.stdout(Stdio::null()).stderr(File::options().create(true).append(true).open(&log).unwrap());
        change(&mut command);
        Daemon { child: command.spawn().expect("setpriv runs: it is in util-linux"), ready: json!(null), log }
    }
}

/// Runs a command to its end.
pub(crate) async fn finish(command: Command) -> Ran {
    let mut command = tokio::process::Command::from(command);
    let output = tokio::time::timeout(PATIENCE, command.kill_on_drop(true).output()).await;
    let output =
        output.unwrap_or_else(|_| panic!("{command:?} took too long")).expect("setpriv runs: it is in util-linux");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ran { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

impl Ran {
    /// Passes on what it printed if it went well.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.stdout
    }

    /// The text of a failure with this exit code, which says all of `fragments`.
    #[track_caller]
    pub(crate) fn refused(self, code: i32, fragments: &[&str]) -> String {
        assert_eq!(self.code, Some(code), "{self:?}");
        for fragment in fragments {
            assert!(self.stderr.contains(fragment), "{fragment:?} is not in {}", self.stderr);
        }
        self.stderr
    }
}

impl Daemon {
    /// Waits for the JSON that tells where it is reached.
    async fn until_it(&mut self, what: &str, said: impl Fn() -> Option<Vec<u8>>) {
        until(&format!("the daemon {what}"), async || {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the daemon ended ({status}): {}", self.log());
            }
            // Half a line is none yet.
            let addresses = said().and_then(|addresses| serde_json::from_slice(&addresses).ok());
            addresses.is_some_and(|addresses| {
                self.ready = addresses;
                true
            })
        })
        .await;
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything it logged, and those that ran here before it.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until what is logged after the first `offset` bytes holds `fragment`.
    pub(crate) async fn until_log(&self, offset: usize, fragment: &str) {
        until(&format!("the log says {fragment:?}"), async || self.log()[offset..].contains(fragment)).await;
    }

    /// `http`, `grpc` or `socket`, as the ready file says.
    pub(crate) fn address(&self, of: &str) -> &str {
        self.ready[of].as_str().unwrap_or_else(|| panic!("it does not listen on {of}: {}", self.ready))
    }

    pub(crate) async fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("unix://{}", self.address("socket"))).unwrap();
        endpoint.timeout(PATIENCE).connect().await.unwrap()
    }

    pub(crate) async fn client(&self, token: &str) -> Client {
        client_over(self.channel().await, token)
    }

    /// Status and body of `path` on the HTTP port.
    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        let http = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
        let answer = http.get(format!("http://{}{path}", self.address("http"))).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    /// Waits until readiness answers `status`, and returns what it says then.
    pub(crate) async fn until_readiness(&self, status: u16) -> String {
        let mut said = String::new();
        until(&format!("/readyz answers {status}"), async || {
            let (code, text) = self.get("/readyz?verbose").await;
            said = text;
            code == status
        })
        .await;
        said
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid().cast_signed()).expect("a pid");
        kill_process(pid, signal).unwrap();
    }

    /// Stops it where it stands, until it gets `Signal::CONT`.
    pub(crate) fn pause(&self) {
        self.signal(Signal::STOP);
        // The signal takes a moment to reach all threads.
        let stat = format!("/proc/{}/stat", self.pid());
        while !fs::read_to_string(&stat).unwrap().contains(") T ") {
            std::thread::yield_now();
        }
    }

    /// Ends it at once, as `kill -9` does.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Ends it as a supervisor does, and waits until it is gone.
    pub(crate) async fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.ended().await
    }

    /// Waits until it has ended by itself.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let mut ended = None;
        until("the daemon has ended", async || {
            ended = self.child.try_wait().unwrap();
            ended.is_some()
        })
        .await;
        ended.unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the daemon's log:\n{}", self.log());
        }
        self.kill();
    }
}

pub(crate) fn client_over(channel: Channel, token: &str) -> Client {
    let bearer = Bearer(format!("Bearer {token}").parse().unwrap());
    CredentialServiceClient::with_interceptor(channel, bearer)
}

/// Resolves an instance by its name, without a workflow.
pub(crate) async fn resolve(client: &mut Client, instance: &str) -> Result<ResolveCredentialsResponse, Status> {
    let request = ResolveCredentialsRequest { instance_id: instance.to_owned(), ..Default::default() };
    Ok(client.resolve_credentials(request).await?.into_inner())
}

/// The `API_KEY` that an instance resolves to, or why not.
pub(crate) async fn key_of(client: &mut Client, instance: &str) -> Result<String, Refused> {
    let answer = resolve(client, instance).await.map_err(|status| refused(&status))?;
    match answer.config.into_iter().find(|entry| entry.key == "API_KEY").and_then(|entry| entry.value) {
        Some(Typed::StringValue(text)) => Ok(text),
        _ => panic!("there is no text"),
    }
}

pub(crate) fn refused(status: &Status) -> Refused {
    let details = status.get_error_details();
    let reason = details.error_info().map(|info| info.reason.clone()).unwrap_or_default();
    let retry = details.retry_info().and_then(|info| info.retry_delay);
    Refused { code: status.code(), reason, retry }
}

/// The settings of PostgreSQL at `url` and of `bao`, by a token file, with a new mount.
pub(crate) async fn on_servers(home: &Home, url: &str, bao: &Bao) -> Vec<(&'static str, String)> {
    let mount = bao.fresh_mount().await;
    let token_file = home.write("vault-token", bao.root_token());
    let mut settings = servers(home, url, bao, mount);
    settings.push(("secret_store.vault.auth.method", "token_file".to_owned()));
    settings.push(("secret_store.vault.auth.token_file", token_file.display().to_string()));
    settings
}

/// The same with a login by AppRole that may do what `deploy/vault-policy.hcl` says. Returns the login's mount too.
pub(crate) async fn on_servers_by_app_role(home: &Home, url: &str, bao: &Bao) -> (Vec<(&'static str, String)>, String) {
    let (mount, auth, policy) = (bao.fresh_mount().await, fresh_name("approle"), fresh_name("policy"));
    let rules = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/vault-policy.hcl")).unwrap();
    let rules = rules.replace("secret/data", &format!("{mount}/data")).replace("secret/meta", &format!("{mount}/meta"));
    let rules = rules.replace("mounts/secret", &format!("mounts/{mount}"));
    bao.must("PUT", &format!("sys/policies/acl/{policy}"), json!({ "policy": rules })).await;
    bao.must("POST", &format!("sys/auth/{auth}"), json!({ "type": "approle" })).await;
    bao.must("POST", &format!("auth/{auth}/role/credway"), json!({ "token_policies": [policy] })).await;
    let id = bao.must("GET", &format!("auth/{auth}/role/credway/role-id"), json!(null)).await;
    let secret = bao.must("POST", &format!("auth/{auth}/role/credway/secret-id"), json!({})).await;
    let secret_id_file = home.write("secret-id", secret["data"]["secret_id"].as_str().unwrap());
    let mut settings = servers(home, url, bao, mount);
    settings.push(("secret_store.vault.auth.method", "approle".to_owned()));
    settings.push(("secret_store.vault.auth.mount", auth.clone()));
    settings.push(("secret_store.vault.auth.role_id", id["data"]["role_id"].as_str().unwrap().to_owned()));
    settings.push(("secret_store.vault.auth.secret_id_file", secret_id_file.display().to_string()));
    (settings, auth)
}

fn servers(home: &Home, url: &str, bao: &Bao, mount: String) -> Vec<(&'static str, String)> {
    let url_file = home.write("database-url", url);
    vec![
        ("database.url_file", url_file.display().to_string()),
        ("secret_store.kind", "vault".to_owned()),
        ("secret_store.vault.address", bao.url().to_owned()),
        ("secret_store.vault.mount", mount),
    ]
}

/// Settings as `Home::config` takes them.
pub(crate) fn lent<'a>(settings: &'a [(&'static str, String)]) -> Vec<(&'static str, &'a str)> {
    settings.iter().map(|(key, value)| (*key, value.as_str())).collect()
}
