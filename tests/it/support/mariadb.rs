//! A real MariaDB of the test's own, which speaks as MySQL does. It ends with the test process, however that ends.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::openbao::free_port;
use super::postgres::{as_server_user, new_directory};

/// A user of `DATABASE` and nothing else, with `PASSWORD`.
pub(crate) const USER: &str = "shop";

/// One that may do everything, with the same password.
pub(crate) const ALLOWED_ALL: &str = "admin";

pub(crate) const PASSWORD: &str = "canary-mysql-password";

pub(crate) const DATABASE: &str = "shop";

/// One server. Dropped, it is killed.
pub(crate) struct MariaDb {
    pub(crate) port: u16,
    directory: PathBuf,
    running: Child,
}

impl MariaDb {
    pub(crate) fn start() -> Self {
        let directory = new_directory("mariadb");
        make_system_tables(&directory);
        let users = format!(
            "CREATE DATABASE {DATABASE};\n\
             CREATE USER '{USER}'@'%' IDENTIFIED BY '{PASSWORD}';\n\
             GRANT SELECT ON {DATABASE}.* TO '{USER}'@'%';\n\
             CREATE USER '{ALLOWED_ALL}'@'%' IDENTIFIED BY '{PASSWORD}';\n\
             GRANT ALL ON *.* TO '{ALLOWED_ALL}'@'%';\n"
        );
        fs::write(directory.join("users.sql"), users).unwrap();
        let port = free_port();
        let mut running = launch(&directory, port);
        let mut log = BufReader::new(running.stderr.take().unwrap());
        let mut said = String::new();
        while !said.contains("ready for connections") {
            assert!(log.read_line(&mut said).unwrap() > 0, "MariaDB did not start: {said}");
        }
        // It must never wait for someone to read on.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Self { port, directory, running }
    }
}

impl Drop for MariaDb {
    fn drop(&mut self) {
        drop(self.running.stdin.take());
        let _ = self.running.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// What every server needs in its data directory, from the files that come with it.
fn make_system_tables(directory: &Path) {
    const FILES: [&str; 3] =
        ["mysql_system_tables.sql", "mysql_performance_tables.sql", "mysql_system_tables_data.sql"];
    let mut bootstrap = server(directory);
    let mut bootstrap =
        bootstrap.arg("--bootstrap").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut stdin = bootstrap.stdin.take().unwrap();
    stdin.write_all(b"CREATE DATABASE mysql;\nUSE mysql;\nSET @auth_root_socket = NULL;\n").unwrap();
    for file in FILES {
        stdin.write_all(&fs::read(Path::new("/usr/share/mysql").join(file)).unwrap()).unwrap();
    }
    drop(stdin);
    assert!(bootstrap.wait().unwrap().success(), "MariaDB did not make its tables");
}

/// Starts the server. At the end of its stdin it is killed, and its data removed.
fn launch(directory: &Path, port: u16) -> Child {
    const UNTIL_STDIN_ENDS: &str = r#""$@" & server=$!; read -r _; kill -KILL $server; wait $server; rm -rf "$0""#;
    let server = server(directory);
    let mut command = as_server_user(Command::new("sh"));
    command.args(["-c", UNTIL_STDIN_ENDS]).arg(directory).arg(server.get_program()).args(server.get_args());
    command.args(["--bind-address=127.0.0.1", "--skip-name-resolve", &format!("--port={port}")]);
    command.arg(format!("--init-file={}", directory.join("users.sql").display()));
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

/// The server's program with what it must always be told. No file of this machine has a say.
fn server(directory: &Path) -> Command {
    let program = Path::new("/usr/sbin/mariadbd");
    assert!(program.exists(), "no MariaDB here: `tests/run install` brings it (apt install mariadb-server-core)");
    let mut command = as_server_user(Command::new(program));
    command.args(["--no-defaults", "--skip-log-bin", "--innodb-flush-log-at-trx-commit=0"]);
    command.args(["--innodb-buffer-pool-size=16M", "--innodb-log-file-size=4M"]);
    for (setting, place) in [("datadir", ""), ("tmpdir", ""), ("socket", "sock"), ("pid-file", "pid")] {
        command.arg(format!("--{setting}={}", directory.join(place).display()));
    }
    command
}
