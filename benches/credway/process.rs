//! Server processes: started, held to one CPU, asked for the CPU time they used, and ended with the bench.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::LazyLock;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::{Deserialize, Serialize};

use crate::load::Endpoint;

/// How long a server may take until it is reachable.
const START_DEADLINE: Duration = Duration::from_secs(30);

/// Between two looks for the ready file: far below any start that is measured.
const READY_POLL: Duration = Duration::from_micros(200);

/// A server process. Dropped, it is killed, if it is ours.
pub(crate) struct Server {
    id: u32,
    child: Option<Child>,
}

/// A server process, and where it answers.
pub(crate) struct Side {
    pub server: Server,
    pub tcp: Endpoint,
    pub unix: Endpoint,
    /// The address of its HTTP, if it has one.
    pub http: Option<String>,
}

/// Where a server is reached, as its ready file says.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Reached {
    pub http: Option<String>,
    pub grpc: Option<String>,
    pub socket: Option<String>,
}

impl Server {
    pub(crate) fn spawn(command: &mut Command) -> Result<Self> {
        let child = command.spawn().with_context(|| format!("cannot start {:?}", command.get_program()))?;
        Ok(Self { id: child.id(), child: Some(child) })
    }

    /// One that somebody else has started, and ends.
    pub(crate) fn running(id: u32) -> Self {
        Self { id, child: None }
    }

    /// Waits until it has written `ready_file`.
    pub(crate) fn reached(&mut self, ready_file: &Path) -> Result<Reached> {
        let mut waited = Duration::ZERO;
        loop {
            // Written under another name and renamed, so what is there is whole.
            if let Ok(text) = fs::read(ready_file) {
                return serde_json::from_slice(&text).context("the ready file is no JSON");
            }
            if let Some(child) = &mut self.child
                && let Some(status) = child.try_wait()?
            {
                bail!("the server ended before it was ready: {status}");
            }
            if waited > START_DEADLINE {
                bail!("the server was not ready within {} s", START_DEADLINE.as_secs());
            }
            std::thread::sleep(READY_POLL);
            waited += READY_POLL;
        }
    }

    /// Asks it to end, and waits until it did.
    pub(crate) fn stop(mut self) -> Result<()> {
        let id = i32::try_from(self.id()).ok().and_then(Pid::from_raw).context("a process has an id")?;
        kill_process(id, Signal::TERM)?;
        if let Some(mut child) = self.child.take() {
            child.wait()?;
        }
        Ok(())
    }

    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    /// Holds a process of one thread, and those that it makes from now on, to the `nth` CPU.
    pub(crate) fn pin_single(process: Pid, nth: usize) {
        // One that ended meanwhile needs no CPU.
        let _ = sched_setaffinity(Some(process), &nth_cpu(nth));
    }

    /// Holds every thread it has to the `nth` CPU.
    pub(crate) fn pin(&self, nth: usize) -> Result<()> {
        let cpu = nth_cpu(nth);
        for thread in self.threads()? {
            let thread = i32::try_from(thread).ok().and_then(Pid::from_raw);
            // A thread that ended meanwhile needs no CPU.
            let _ = sched_setaffinity(thread, &cpu);
        }
        Ok(())
    }

    /// The CPU time of each of its threads until now.
    pub(crate) fn cpu_clock(&self) -> Result<CpuClock> {
        let mut nanoseconds = BTreeMap::new();
        for thread in self.threads()? {
            let path = format!("/proc/{}/task/{thread}/schedstat", self.id());
            let Ok(text) = fs::read_to_string(path) else { continue };
            let on_cpu = text.split(' ').next().and_then(|first| first.parse().ok());
            nanoseconds.insert(thread, on_cpu.context("schedstat does not begin with a number")?);
        }
        Ok(CpuClock { nanoseconds })
    }

    /// A field of `/proc/…/status` in bytes: `VmRSS`.
    pub(crate) fn memory(&self, field: &str) -> Result<f64> {
        memory_of(&self.id().to_string(), field)
    }

    fn threads(&self) -> Result<Vec<u32>> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.id())).context("the server is gone")?;
        Ok(tasks.filter_map(|task| task.ok()?.file_name().to_str()?.parse().ok()).collect())
    }
}

/// A field of `/proc/…/status` of one process, in bytes.
pub(crate) fn memory_of(process: &str, field: &str) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).context("the process is gone")?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB")).context("no such field in its status")?;
    Ok(kibibytes.parse::<f64>()? * 1024.0)
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The CPU time of a process, by thread, so that one that ended in between does not turn it back.
pub(crate) struct CpuClock {
    nanoseconds: BTreeMap<u32, u64>,
}

impl CpuClock {
    /// What was used after `earlier`.
    pub(crate) fn since(&self, earlier: &CpuClock) -> Duration {
        let used = self.nanoseconds.iter().map(|(thread, now)| {
            let before = earlier.nanoseconds.get(thread).copied().unwrap_or(0);
            now.saturating_sub(before)
        });
        Duration::from_nanos(used.sum())
    }
}

/// Holds the calling thread to the `nth` CPU until dropped.
pub(crate) struct Pinned {
    before: CpuSet,
}

impl Pinned {
    pub(crate) fn to(nth: usize) -> Result<Self> {
        let before = sched_getaffinity(None)?;
        sched_setaffinity(None, &nth_cpu(nth))?;
        Ok(Self { before })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let _ = sched_setaffinity(None, &self.before);
    }
}

/// The CPUs that this process may use, as it was before the first of its threads was held to one.
static ALLOWED: LazyLock<CpuSet> = LazyLock::new(|| sched_getaffinity(None).unwrap_or_default());

/// The `nth` of them, or the last one there is.
fn nth_cpu(nth: usize) -> CpuSet {
    let cpus = (0..CpuSet::MAX_CPU).filter(|cpu| ALLOWED.is_set(*cpu));
    let mut set = CpuSet::new();
    set.set(cpus.take(nth + 1).last().unwrap_or(0));
    set
}
