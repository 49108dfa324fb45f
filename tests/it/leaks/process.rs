//! The process itself: no core dump, and what it writes for others is readable by its own user alone.
//!
//! `/proc/<pid>/environ` and `cmdline` are searched in `embedded` and `vault`. The daemon takes its settings from a file there;
//! a token in `CREDWAY_TOKEN` stands in the environment of the client command that its user gave it to, and nowhere else.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use serde_json::Value;

use crate::support::daemon::Home;
use crate::support::openbao::until;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// `command`, with core files allowed as far as this user may allow them.
fn with_core_files(command: &mut Command) {
    let inner = std::mem::replace(command, Command::new("sh"));
    command.args(["-c", r#"ulimit -c unlimited 2>/dev/null; exec "$0" "$@""#]).arg(inner.get_program());
    command.args(inner.get_args()).env_clear().current_dir(inner.get_current_dir().unwrap());
    command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?)))).stdin(Stdio::null());
}

#[tokio::test]
async fn an_aborted_daemon_leaves_no_core_file() {
    let home = Home::new();
    home.config(&[]);
    let mut daemon = home
        .start_by(|command| {
            with_core_files(command);
            let log = fs::File::options().append(true).open(home.path("daemon.log")).unwrap();
            command.stdout(Stdio::null()).stderr(log);
        })
        .await;
    let limits = fs::read_to_string(format!("/proc/{}/limits", daemon.pid())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    let words: Vec<&str> = core.split_whitespace().collect();
    assert_eq!(words[4..6], ["0", "0"], "{core}");

    daemon.signal(Signal::ABORT);
    let status = daemon.ended().await;
    assert_eq!(status.signal(), Some(Signal::ABORT.as_raw()));
    assert!(!status.core_dumped(), "the kernel wrote a core file, or handed it to {}", core_pattern());
    let left: Vec<_> = fs::read_dir(home.path("cwd")).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert!(left.is_empty(), "{left:?}");
}

fn core_pattern() -> String {
    fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap_or_default()
}

#[tokio::test]
async fn the_rig_would_notice_a_core_file() {
    if core_pattern().starts_with('|') {
        // Another program takes them here, and the flag in the exit status is all there is to see.
        return;
    }
    let home = Home::new();
    let mut command = Command::new("sh");
    command.args(["-c", "kill -ABRT $$"]).current_dir(home.path("cwd"));
    with_core_files(&mut command);
    let status = command.status().unwrap();
    let may_dump = rustix::process::getrlimit(rustix::process::Resource::Core).maximum != Some(0);
    assert_eq!(status.core_dumped(), may_dump, "{status:?}");
}

#[tokio::test]
async fn what_the_daemons_write_is_for_their_user_alone() {
    let home = Home::new();
    home.config(&[]);
    let daemon = home.start().await;
    for file in ["ready.json", "data/master.key", "data/credway.db", "data/credway.db-wal"] {
        assert_eq!(mode(&home.path(file)), 0o600, "{file}");
    }
    assert!(!fs::read_to_string(home.path("ready.json")).unwrap().contains("token"), "only `dev` writes one");
    drop(daemon);
}

#[tokio::test]
async fn dev_keeps_its_token_to_its_user() {
    let home = Home::new();
    let (ready, data) = (home.text("dev.json"), home.text("dev"));
    let ports = ["--http-addr", "127.0.0.1:0", "--grpc-addr", "127.0.0.1:0"];
    let mut command = home.command(&[&["dev", "--ready-file", &ready, "--data-dir", &data][..], &ports].concat());
    let mut dev = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    until("dev is ready", async || Path::new(&ready).exists()).await;
    let said: Value = serde_json::from_slice(&fs::read(&ready).unwrap()).unwrap();
    let token = said["token"].as_str().unwrap().to_owned();
    let seen = ["environ", "cmdline"].map(|file| fs::read(format!("/proc/{}/{file}", dev.id())).unwrap_or_default());
    let modes = [Path::new(&ready), &home.path("credway/dev.json")].map(mode);
    dev.kill().unwrap();
    dev.wait().unwrap();
    assert_eq!(modes, [0o600, 0o600]);
    assert_eq!(mode(&home.path("credway")), 0o700);
    assert!(!seen.concat().windows(8).any(|part| token.as_bytes()[12..].windows(8).any(|other| part == other)));
}
