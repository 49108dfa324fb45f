//! What the system knows of a process: its memory, threads, files and connections.

use std::fs;

/// One look at a process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vitals {
    pub(crate) rss_kib: u64,
    pub(crate) threads: u64,
    pub(crate) fds: usize,
}

impl Vitals {
    pub(crate) fn of(pid: u32) -> Self {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let number = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_whitespace().next().unwrap().parse().unwrap()
        };
        let fds = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
        Self { rss_kib: number("VmRSS:"), threads: number("Threads:"), fds }
    }
}

/// The established TCP connections at a local port, in the network namespace of a process.
pub(crate) fn connections_at(pid: u32, port: u16) -> usize {
    const ESTABLISHED: &str = "01";
    let table = fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap();
    let local = format!(":{port:04X}");
    let is_here = |line: &&str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words[1].ends_with(&local) && words[3] == ESTABLISHED
    };
    table.lines().skip(1).filter(is_here).count()
}
