//! The built program as people run it: by a line of shell, in a directory of its own, where it finds no other test's `dev`.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// A person's place: a working directory, a runtime directory and variables.
pub(crate) struct Home {
    dir: TempDir,
    variables: BTreeMap<String, String>,
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// What runs in the background: a daemon that is ready, say. Dropped, it is killed.
pub(crate) struct Daemon {
    child: Child,
    /// What its ready file says.
    pub(crate) ready: Value,
    printed: PathBuf,
}

const DEADLINE: Duration = Duration::from_secs(20);

impl Home {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime = dir.path().join("run");
        fs::create_dir(&runtime).unwrap();
        fs::set_permissions(&runtime, fs::Permissions::from_mode(0o700)).unwrap();
        let home = Self { dir, variables: BTreeMap::new() };
        home.with("XDG_RUNTIME_DIR", &runtime.display().to_string())
    }

    /// The same with a variable in the environment of every command.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.variables.insert(name.to_owned(), value.to_owned());
        self
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// Runs a line of shell, in which `credway` is the built program.
    pub(crate) fn run(&self, line: &str) -> Ran {
        self.run_with_input(line, "")
    }

    /// The same, with something on its standard input.
    pub(crate) fn run_with_input(&self, line: &str, input: &str) -> Ran {
        // `timeout` ends what hangs, and says so by code 124.
        let mut command = self.command("timeout");
        let deadline = DEADLINE.as_secs().to_string();
        command.args(["--kill-after=1", &deadline, "bash", "-c", line]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // A command that refuses may be gone before it has read this.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let output = child.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Ran { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
    }

    /// Runs a line that must succeed, and returns what it printed.
    pub(crate) fn must(&self, line: &str) -> String {
        let ran = self.run(line);
        assert_eq!(ran.code, 0, "{line}\n{}{}", ran.out, ran.err);
        ran.out
    }

    /// Runs a line that must fail with this exit code, and returns what it printed to standard error. It prints no data.
    pub(crate) fn refused(&self, code: i32, line: &str) -> String {
        let ran = self.run(line);
        assert_eq!((ran.code, ran.out.as_str()), (code, ""), "{line}\n{}", ran.err);
        ran.err
    }

    /// Starts `credway dev` on free ports.
    pub(crate) fn dev(&self, more: &str) -> Daemon {
        self.start(&format!("credway dev --http-addr 127.0.0.1:0 --grpc-addr 127.0.0.1:0 {more}"))
    }

    /// Starts a daemon and waits until it has written its ready file.
    pub(crate) fn start(&self, line: &str) -> Daemon {
        let ready = self.path("ready.json");
        let _ = fs::remove_file(&ready);
        let mut daemon = self.spawn(&format!("{line} --ready-file {}", ready.display()), "printed.txt");
        until(&format!("{line} is ready"), || {
            assert!(daemon.child.try_wait().unwrap().is_none(), "{line} ended:\n{}", daemon.printed());
            ready.exists()
        });
        daemon.ready = serde_json::from_slice(&fs::read(ready).unwrap()).unwrap();
        daemon
    }

    /// Starts what runs until it is stopped. All that it prints goes to the file `printed`.
    pub(crate) fn spawn(&self, line: &str, printed: &str) -> Daemon {
        let printed = self.path(printed);
        let output = fs::File::create(&printed).unwrap();
        let mut command = self.command("bash");
        command.args(["-c", &format!("exec {line}")]);
        command.stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output);
        Daemon { child: command.spawn().unwrap(), ready: Value::Null, printed }
    }

    fn command(&self, name: &str) -> Command {
        let program = Path::new(env!("CARGO_BIN_EXE_credway")).parent().unwrap().display().to_string();
        let mut command = Command::new(name);
        command.env_clear().env("PATH", format!("{program}:{}", std::env::var("PATH").unwrap()));
        command.envs(&self.variables).current_dir(self.dir.path());
        command
    }
}

impl Ran {
    /// The failure that `--json` prints.
    pub(crate) fn failure(&self) -> Value {
        serde_json::from_str(&self.err).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl Daemon {
    /// Everything that it printed so far.
    pub(crate) fn printed(&self) -> String {
        fs::read_to_string(&self.printed).unwrap()
    }

    /// A text of its ready file: `http`, `grpc`, `socket`, `token` or `data_dir`.
    pub(crate) fn at(&self, key: &str) -> &str {
        self.ready[key].as_str().unwrap_or_else(|| panic!("the ready file has no {key}"))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Asks it to end, as systemd does, and returns its exit code.
    pub(crate) fn stop(mut self) -> Option<i32> {
        self.signal(Signal::TERM);
        let mut status = None;
        until("the daemon has ended", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap().code()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until `state` holds, and fails after a while with what it waited for.
#[expect(clippy::disallowed_methods, reason = "a deadline for another process, in real time")]
pub(crate) fn until(what: &str, mut state: impl FnMut() -> bool) {
    let start = Instant::now();
    while !state() {
        assert!(start.elapsed() < DEADLINE, "waited in vain until {what}");
        sleep(Duration::from_millis(10));
    }
}
