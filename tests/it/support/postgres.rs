//! Real PostgreSQL: one server a run with a fresh database for each test, and servers of their own for tests that hurt them.
//!
//! Each server ends with the test process, however that ends: it hangs on a pipe that closes then.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::{Pid, Signal, getuid, kill_process};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection, postgres::PgConnectOptions};

/// The role that tests work as. It needs no password; `LOCKED` does.
const OWNER: &str = "credway";

/// A role that must give its password.
pub(crate) const LOCKED: &str = "locked";

/// The group of the roles that Vault makes. They must give their passwords.
pub(crate) const LEASED: &str = "leased";

/// The password of `LOCKED`.
pub(crate) const LOCKED_PASSWORD: &str = "canary-pg-password";

static SHARED: LazyLock<Postgres> = LazyLock::new(Postgres::start_new);
static COUNT: AtomicU32 = AtomicU32::new(0);

/// One PostgreSQL server.
pub(crate) struct Postgres {
    directory: PathBuf,
    port: u16,
    running: Option<(Child, ChildStdin)>,
}

impl Postgres {
    /// The URL of a new, empty database on the server that all tests share.
    pub(crate) async fn fresh_database() -> String {
        let shared = tokio::task::spawn_blocking(|| &*SHARED).await.unwrap();
        shared.database().await
    }

    /// A server of the test's own, which it may stop, kill and pause.
    pub(crate) async fn own() -> Self {
        tokio::task::spawn_blocking(Self::start_new).await.unwrap()
    }

    /// The URL of a new, empty database.
    pub(crate) async fn database(&self) -> String {
        let name = format!("t{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let mut connection = self.connect("postgres").await;
        let create = format!("CREATE DATABASE {name}");
        sqlx::raw_sql(AssertSqlSafe(create)).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        self.url(OWNER, &name)
    }

    /// A server of the test's own, on which `LOCKED` may log in to the database `postgres` by its password.
    pub(crate) async fn locked() -> Self {
        let server = Self::own().await;
        let mut connection = server.connect("postgres").await;
        let create = format!("CREATE ROLE {LOCKED} LOGIN PASSWORD '{LOCKED_PASSWORD}'");
        sqlx::raw_sql(AssertSqlSafe(create)).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        server
    }

    /// Restarts it with TLS, for those who ask for it.
    pub(crate) fn serve_tls(&mut self, certificate: &str, key: &str) {
        self.stop();
        for (name, text) in [("server.crt", certificate), ("server.key", key)] {
            let file = self.data().join(name);
            fs::write(&file, text).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
            chown(&file, server_user(), None).unwrap();
        }
        fs::write(self.data().join("postgresql.auto.conf"), "ssl = on\n").unwrap();
        self.start();
    }

    /// The URL by which `user` reaches `database`.
    pub(crate) fn url(&self, user: &str, database: &str) -> String {
        format!("postgres://{user}@127.0.0.1:{}/{database}", self.port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    async fn connect(&self, database: &str) -> PgConnection {
        let options: PgConnectOptions = self.url(OWNER, database).parse().unwrap();
        options.connect().await.unwrap()
    }

    /// Shuts the server down and waits until it is gone. Its data stays.
    pub(crate) fn stop(&mut self) {
        self.resume();
        if let Some((mut child, mut stdin)) = self.running.take() {
            let _ = stdin.write_all(b"\n");
            let _ = child.wait();
        }
    }

    /// Ends the server without a chance to say goodbye (kill -9), and waits until it is gone. Its data stays.
    pub(crate) fn kill(&mut self) {
        for pid in self.processes() {
            let _ = kill_process(pid, Signal::KILL);
        }
        self.stop();
    }

    /// Starts a stopped server on the port it had.
    pub(crate) fn start(&mut self) {
        self.running = Some(launch(&self.directory, self.port));
    }

    /// Stops every process of the server where it stands: it keeps its sockets and answers nothing.
    pub(crate) fn pause(&self) {
        for pid in self.processes() {
            let _ = kill_process(pid, Signal::STOP);
        }
    }

    /// Lets a paused server go on.
    pub(crate) fn resume(&self) {
        for pid in self.processes() {
            let _ = kill_process(pid, Signal::CONT);
        }
    }

    /// The postmaster and its children.
    pub(crate) fn processes(&self) -> Vec<Pid> {
        let pid_file = fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
        let Some(postmaster) = pid_file.lines().next().and_then(|pid| pid.parse::<i32>().ok()) else {
            return Vec::new();
        };
        let children = fs::read_to_string(format!("/proc/{postmaster}/task/{postmaster}/children")).unwrap_or_default();
        let children = children.split_whitespace().map(|pid| pid.parse().unwrap());
        std::iter::once(postmaster).chain(children).filter_map(Pid::from_raw).collect()
    }

    fn start_new() -> Self {
        let directory = new_directory("postgres");
        let data = directory.join("data");
        let initialised = tool("initdb")
            .args(["--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C.UTF-8", "-U", OWNER, "-D"])
            .arg(&data)
            .output()
            .unwrap();
        assert!(initialised.status.success(), "initdb: {}", String::from_utf8_lossy(&initialised.stderr));
        let rules = format!("host all {LOCKED},+{LEASED} all scram-sha-256\nhost all all 127.0.0.1/32 trust\n");
        fs::write(data.join("pg_hba.conf"), rules).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let running = Some(launch(&directory, port));
        Self { directory, port, running }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Starts the server and waits until it says that it is ready. At the end of its stdin it stops, and removes its data
/// unless a line was written first.
fn launch(directory: &Path, port: u16) -> (Child, ChildStdin) {
    const UNTIL_STDIN_ENDS: &str = r#""$@" & server=$!; read -r _; keep=$?; kill -CONT $server; kill -INT $server; wait $server; [ $keep = 0 ] || rm -rf "$0""#;
    let server = tool("postgres");
    let mut command = as_server_user(Command::new("sh"));
    command.args(["-c", UNTIL_STDIN_ENDS]).arg(directory).arg(server.get_program());
    command.arg("-F").args(["-p", &port.to_string()]).arg("-D").arg(directory.join("data"));
    // Commits are written at once, so that a server that is killed forgets none; nothing waits for the disk (-F).
    for setting in ["listen_addresses=127.0.0.1", "unix_socket_directories=", "max_connections=200"] {
        command.args(["-c", setting]);
    }
    let mut child = command
        .current_dir(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut said = String::new();
    while !said.contains("ready to accept connections") {
        assert!(log.read_line(&mut said).unwrap() > 0, "PostgreSQL did not start: {said}");
    }
    // It must never wait for someone to read on.
    std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
    let stdin = child.stdin.take().unwrap();
    (child, stdin)
}

/// A directory of the server's user, for a server of this kind. What earlier runs left behind goes.
pub(crate) fn new_directory(kind: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join(kind);
    fs::create_dir_all(&root).unwrap();
    for left in fs::read_dir(&root).unwrap().flatten() {
        let name = left.file_name().into_string().unwrap_or_default();
        let process = name.split('-').next().unwrap_or_default();
        if !Path::new("/proc").join(process).exists() {
            let _ = fs::remove_dir_all(left.path());
        }
    }
    let directory = root.join(format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
    fs::create_dir(&directory).unwrap();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).unwrap();
    if let Some(user) = server_user() {
        chown(&directory, Some(user), None).unwrap();
    }
    directory
}

fn tool(name: &str) -> Command {
    as_server_user(Command::new(binaries().join(name)))
}

/// Database servers refuse to run as root.
pub(crate) fn as_server_user(mut command: Command) -> Command {
    if let Some(user) = server_user() {
        command.uid(user);
    }
    command.env("LC_ALL", "C.UTF-8");
    command
}

fn server_user() -> Option<u32> {
    if !getuid().is_root() {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let nobody = users.lines().find(|line| line.starts_with("nobody:")).expect("there is a user nobody");
    Some(nobody.split(':').nth(2).unwrap().parse().unwrap())
}

/// `$CREDWAY_TEST_PG_BIN`, or where Debian installs it (the newest), or the `PATH`.
fn binaries() -> PathBuf {
    if let Some(directory) = std::env::var_os("CREDWAY_TEST_PG_BIN") {
        return directory.into();
    }
    let installed =
        fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|entry| entry.path().join("bin"));
    let version = |path: &PathBuf| -> Option<u32> { path.parent()?.file_name()?.to_str()?.parse().ok() };
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    installed
        .filter(|path| path.join("initdb").exists())
        .max_by_key(version)
        .or_else(|| std::env::split_paths(&on_path).find(|path| path.join("initdb").exists()))
        .expect("no PostgreSQL here: `tests/run install` brings it (Debian package: postgresql)")
}
