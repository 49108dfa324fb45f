//! Counts the write system calls of a server while it works, by `strace`; nothing inside a process could count them for it.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Command;

/// What sends to a socket. `write` itself is not among them: on sockets the standard library sends, and a runtime's wake-ups
/// and log lines are no answers.
const WRITES: [&str; 4] = ["sendto", "sendmsg", "sendmmsg", "writev"];

/// How often we look whether it has attached, and how many times.
const ATTACH_POLL: Duration = Duration::from_millis(10);
const ATTACH_POLLS: usize = 300;

/// Runs `work`, counting the writes of process `id` meanwhile; or why that is not possible here.
pub(crate) async fn writes<T>(id: u32, work: impl Future<Output = Result<T>>) -> Result<Result<(u64, T), String>> {
    let counts = tempfile::NamedTempFile::new()?;
    let mut command = Command::new("strace");
    command.args(["-f", "-q", "-c", "-U", "calls,name", "-e"]).arg(format!("trace={}", WRITES.join(",")));
    command.arg("-o").arg(counts.path()).args(["-p", &id.to_string()]);
    let spawned = command.stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).spawn();
    let Ok(mut strace) = spawned else { return Ok(Err("strace is not there".into())) };
    if !attached(id, &mut strace).await? {
        return Ok(Err("strace may not attach".into()));
    }
    let outcome = work.await?;
    let strace_id = strace.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    kill_process(strace_id.context("strace ended by itself")?, Signal::INT)?;
    strace.wait().await?;
    Ok(Ok((calls(&fs::read_to_string(counts.path())?), outcome)))
}

/// Waits until every thread has its tracer.
async fn attached(id: u32, strace: &mut tokio::process::Child) -> Result<bool> {
    for _ in 0..ATTACH_POLLS {
        if strace.try_wait()?.is_some() {
            return Ok(false);
        }
        let mut threads = fs::read_dir(format!("/proc/{id}/task"))?;
        let is_traced =
            |status: &str| status.lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"));
        let all = threads.all(|thread| {
            let status = thread.and_then(|thread| fs::read_to_string(thread.path().join("status")));
            status.is_ok_and(|status| is_traced(&status))
        });
        if all {
            return Ok(true);
        }
        tokio::time::sleep(ATTACH_POLL).await;
    }
    Ok(false)
}

/// The sum over strace's table, whose lines are a count and a name.
fn calls(table: &str) -> u64 {
    let counted = table.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let count = words.next()?.parse::<u64>().ok()?;
        words.next().filter(|name| WRITES.contains(name)).map(|_| count)
    });
    counted.sum()
}
