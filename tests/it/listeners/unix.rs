//! The Unix socket: mode and owner as asked or no start, a stale one reclaimed, a live one never stolen.

use std::fs::Permissions;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, Barrier};

use credway::config::UnixSocket;
use credway::grpc::listen::{ListenError, Listener, LocalAddress, Peer, SocketError};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};
use rustix::process::{Resource, Rlimit, setrlimit};

use super::{Served, ask, config, endpoint, entries, on_socket, refusal, routes, routes_that_tell_peers, socket};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const NOBODY: u32 = 65534;

/// A socket on which nobody has ever listened. To listen and stop would not do: a child that another test is just starting
/// would hold a copy of the socket until it executes its program, and so keep it alive.
fn leave_stale_socket(path: &Path) {
    let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
}

#[tokio::test]
async fn a_call_on_a_socket_is_answered_and_its_uid_known() {
    let directory = tempfile::tempdir().unwrap();
    let (service, mut peers) = routes_that_tell_peers();
    let served = Served::start(&on_socket(directory.path().join("credway.sock")), service);
    ask(&mut served.client().await).await.unwrap();
    let expected = Peer::Unix {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        pid: Some(std::process::id().cast_signed()),
    };
    assert_eq!(peers.recv().await.unwrap(), expected);
}

#[tokio::test]
async fn a_socket_has_the_mode_owner_and_group_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("run/credway.sock");
    let wanted = UnixSocket { mode: 0o620, owner: Some("nobody".into()), group: Some("4242".into()), ..socket(&path) };
    let served = Served::start(&credway::config::Grpc { socket: Some(wanted), ..config() }, routes());

    let file = path.symlink_metadata().unwrap();
    assert!(file.file_type().is_socket());
    assert_eq!((file.mode() & 0o7777, file.uid(), file.gid()), (0o620, NOBODY, 4242));
    let parent = path.parent().unwrap().metadata().unwrap();
    assert_eq!((parent.mode() & 0o7777, parent.gid()), (0o750, 4242));
    assert_eq!(entries(path.parent().unwrap()), ["credway.sock", "credway.sock.lock"]);
    ask(&mut served.client().await).await.unwrap();
}

#[tokio::test]
async fn without_an_owner_a_socket_is_ours_even_where_directories_pass_on_their_group() {
    let directory = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(directory.path(), None, Some(4242)).unwrap();
    std::fs::set_permissions(directory.path(), Permissions::from_mode(0o2750)).unwrap();
    let path = directory.path().join("credway.sock");
    let _bound = Listener::bind(&on_socket(&path)).unwrap();
    assert_eq!(path.metadata().unwrap().gid(), rustix::process::getegid().as_raw());
}

#[tokio::test]
async fn an_unknown_group_is_refused_and_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let wanted = UnixSocket { group: Some("no-such-group".into()), ..socket(directory.path().join("credway.sock")) };
    let refusal = refusal(&credway::config::Grpc { socket: Some(wanted), ..config() });
    let cause = std::error::Error::source(&refusal).unwrap().to_string();
    assert!(cause.starts_with("there is no group \"no-such-group\" in /etc/group"), "{cause}");
    assert!(entries(directory.path()).is_empty());
}

#[tokio::test]
async fn a_mode_with_more_than_permission_bits_is_refused() {
    let wanted = UnixSocket { mode: 0o4660, ..socket("/tmp/never.sock") };
    let refusal = refusal(&credway::config::Grpc { socket: Some(wanted), ..config() });
    assert!(matches!(refusal, ListenError::Socket(SocketError::NoSuchMode { .. })), "{refusal}");
}

#[tokio::test]
async fn a_path_too_long_for_a_socket_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let refusal = refusal(&on_socket(directory.path().join("x".repeat(100))));
    assert!(matches!(refusal, ListenError::Socket(SocketError::PathTooLong { .. })), "{refusal}");
}

#[tokio::test]
async fn a_stale_socket_is_reclaimed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("credway.sock");
    leave_stale_socket(&path);
    assert!(path.exists());
    let served = Served::start(&on_socket(&path), routes());
    ask(&mut served.client().await).await.unwrap();
}

#[tokio::test]
async fn another_programs_live_socket_is_not_stolen() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("credway.sock");
    let _live = UnixListener::bind(&path).unwrap();
    let expected = format!(
        "another program answers on {} (pid {}): stop it, or choose another socket",
        path.display(),
        std::process::id()
    );
    assert_eq!(refusal(&on_socket(&path)).to_string(), expected);
    UnixStream::connect(&path).unwrap();
}

#[tokio::test]
async fn of_two_that_race_for_a_path_one_wins_and_answers() {
    for _ in 0..20 {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("credway.sock");
        leave_stale_socket(&path);
        let (barrier, runtime) = (Arc::new(Barrier::new(2)), tokio::runtime::Handle::current());
        let racers = [(); 2].map(|()| {
            let (barrier, config, runtime) = (Arc::clone(&barrier), on_socket(&path), runtime.clone());
            std::thread::spawn(move || {
                let _inside = runtime.enter();
                barrier.wait();
                Listener::bind(&config)
            })
        });
        let outcomes = racers.map(|racer| racer.join().unwrap());
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1, "{outcomes:?}");
        UnixStream::connect(&path).unwrap();
    }
}

#[tokio::test]
async fn a_second_daemon_is_told_who_holds_the_socket() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("credway.sock");
    let first = ChildDaemon::start(&path, "holds", None);
    let expected = format!(
        "another credway answers on {} (pid {}): stop it, or choose another socket",
        path.display(),
        first.child.id()
    );
    assert_eq!(refusal(&on_socket(&path)).to_string(), expected);
    UnixStream::connect(&path).unwrap();
}

#[tokio::test]
async fn a_file_that_is_no_socket_is_left_untouched() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("credway.sock");
    std::fs::write(&path, "a person's notes").unwrap();
    let refusal = refusal(&on_socket(&path));
    assert!(matches!(refusal, ListenError::Socket(SocketError::NotASocket { .. })), "{refusal}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "a person's notes");
}

#[tokio::test]
async fn a_drain_removes_the_socket_and_frees_the_path() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("credway.sock");
    let served = Served::start(&on_socket(&path), routes());
    ask(&mut served.client().await).await.unwrap();
    served.drain();
    served.ended().await;
    assert!(!path.exists());
    Listener::bind(&on_socket(&path)).unwrap();
}

#[tokio::test]
async fn a_file_put_in_the_sockets_place_is_not_removed_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("credway.sock");
    let bound = Listener::bind(&on_socket(&path)).unwrap();
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "a person's notes").unwrap();
    drop(bound);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "a person's notes");
}

#[tokio::test]
async fn fifty_killed_daemons_leave_no_path_that_the_next_cannot_take() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("credway.sock");
    for _ in 0..50 {
        let mut daemon = ChildDaemon::start(&path, "holds", None);
        UnixStream::connect(&path).unwrap();
        daemon.child.kill().unwrap();
        daemon.child.wait().unwrap();
        assert!(path.exists());
    }
    assert_eq!(entries(directory.path()), ["credway.sock", "credway.sock.lock"]);
}

#[tokio::test]
async fn an_owner_that_we_may_not_give_it_to_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("credway.sock");
    std::os::unix::fs::chown(directory.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    let mut daemon = ChildDaemon::start(&path, "gives_to_root", Some(NOBODY));
    assert_eq!(
        daemon.line(),
        format!(
            "cannot give socket {} mode 0660, owner 0 and group {NOBODY}: run as a user who may, or ask for less",
            path.display()
        )
    );
    daemon.child.wait().unwrap();
    assert_eq!(entries(directory.path()), ["credway.sock.lock"]);
}

#[tokio::test]
async fn a_daemon_out_of_files_says_so_once_and_recovers() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("credway.sock");
    let mut daemon = ChildDaemon::start(&path, "serves_with_few_files", None);
    let mut crowd: Vec<_> = (0..60).map(|_| UnixStream::connect(&path).unwrap()).collect();
    for stream in &mut crowd {
        stream.write_all(PREFACE).unwrap();
    }
    let warning = daemon.line();
    assert!(warning.contains("cannot accept on unix:") && warning.contains("Too many open files"), "{warning}");

    drop(crowd);
    let channel = endpoint(&LocalAddress::Unix(path)).connect().await.unwrap();
    ask(&mut tonic_health::pb::health_client::HealthClient::new(channel)).await.unwrap();
    daemon.child.kill().unwrap();
    daemon.child.wait().unwrap();
    assert_eq!((&mut daemon.output).lines().map_while(Result::ok).count(), 0, "it is logged once");
}

/// This test binary once more, in a process of its own that can be killed.
struct ChildDaemon {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl ChildDaemon {
    /// Starts it in a role, and waits until it has bound its socket or said why not.
    fn start(path: &Path, role: &str, uid: Option<u32>) -> Self {
        // By this name the program may be executed even by a user who may not enter the directory it lies in.
        let mut command = Command::new("/proc/self/exe");
        command
            .args(["--exact", "listeners::unix::child_daemon", "--ignored", "--nocapture"])
            .env("CREDWAY_TEST_SOCKET", path)
            .env("CREDWAY_TEST_ROLE", role)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        if let Some(uid) = uid {
            command.uid(uid).gid(uid);
        }
        let mut child = command.spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut daemon = Self { child, output };
        while daemon.line() != "child daemon" {}
        daemon
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        assert_ne!(self.output.read_line(&mut line).unwrap(), 0, "the child daemon ended");
        line.trim_end().to_owned()
    }
}

impl Drop for ChildDaemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
#[ignore = "the other tests run it, as a process of its own"]
async fn child_daemon() {
    let Some(path) = std::env::var_os("CREDWAY_TEST_SOCKET").map(PathBuf::from) else { return };
    match std::env::var("CREDWAY_TEST_ROLE").unwrap().as_str() {
        "holds" => {
            let _bound = Listener::bind(&on_socket(&path)).unwrap();
            println!("\nchild daemon");
            std::future::pending().await
        }
        "gives_to_root" => {
            let wanted = UnixSocket { owner: Some("0".into()), ..socket(&path) };
            println!("\nchild daemon");
            println!("{}", refusal(&credway::config::Grpc { socket: Some(wanted), ..config() }));
        }
        "serves_with_few_files" => {
            tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_ansi(false).init();
            let _served = Served::start(&on_socket(&path), routes());
            setrlimit(Resource::Nofile, Rlimit { current: Some(32), maximum: Some(32) }).unwrap();
            println!("\nchild daemon");
            std::future::pending().await
        }
        role => panic!("no role {role}"),
    }
}
