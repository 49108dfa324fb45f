//! Signals for the command, which reach us in its stead.

use std::future::poll_fn;
use std::task::Poll;

use rustix::process::Signal;
use tokio::signal::unix::{self, SignalKind, signal};

use super::super::failure::{Exit, Failure};

/// The signals that are passed on, from now on caught.
pub(super) struct Signals(Vec<(Signal, unix::Signal)>);

const FORWARDED: [Signal; 7] =
    [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT, Signal::USR1, Signal::USR2, Signal::WINCH];

/// Those that may be asked for by name.
const NAMED: [(&str, Signal); 7] = [
    ("HUP", Signal::HUP),
    ("INT", Signal::INT),
    ("QUIT", Signal::QUIT),
    ("TERM", Signal::TERM),
    ("USR1", Signal::USR1),
    ("USR2", Signal::USR2),
    ("CONT", Signal::CONT),
];

impl Signals {
    pub(super) fn listen() -> Result<Self, Failure> {
        let ignored = ignored();
        // What whoever started us had us ignore (`nohup` does SIGHUP) the command ignores too, and never hears of.
        let heard = FORWARDED.into_iter().filter(|kind| ignored & (1 << (kind.as_raw() - 1)) == 0);
        let streams = heard.map(|kind| Ok((kind, signal(SignalKind::from_raw(kind.as_raw()))?)));
        streams.collect::<std::io::Result<Vec<_>>>().map(Self).map_err(|error| {
            Failure::new(Exit::NotStarted, "SIGNALS", "signals cannot be handled").why(error.to_string())
        })
    }

    /// The next one, and whether the command has got it already.
    pub(super) async fn next(&mut self) -> (Signal, bool) {
        let next = poll_fn(|cx| {
            let came = self.0.iter_mut().find_map(|(kind, stream)| stream.poll_recv(cx).is_ready().then_some(*kind));
            came.map_or(Poll::Pending, Poll::Ready)
        });
        let signal = next.await;
        // The terminal sends these to everyone in its foreground, the command included; twice is too often for Ctrl-C.
        let from_terminal = [Signal::INT, Signal::QUIT, Signal::WINCH].contains(&signal);
        (signal, from_terminal && is_in_foreground())
    }
}

/// Whether whoever sent this wants the command to end, and not to be started anew.
pub(super) fn ends(signal: Signal) -> bool {
    [Signal::TERM, Signal::INT, Signal::QUIT].contains(&signal)
}

pub(super) fn parse(text: &str) -> Result<Signal, String> {
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let names = || NAMED.map(|(known, _)| known).join(", ");
    let found = NAMED.iter().find(|(known, _)| *known == name).map(|(_, signal)| *signal);
    found.ok_or_else(|| format!("it is none of {}", names()))
}

/// The signals that this process ignores, one bit each, as proc(5) shows them.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// Whether our process group, which is the command's too, is what the terminal talks to.
fn is_in_foreground() -> bool {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    foreground_of(&stat).unwrap_or(false)
}

/// Reads `/proc/PID/stat`: after the name, which may hold anything, come state, parent, group, session, terminal and the
/// terminal's foreground group.
fn foreground_of(stat: &str) -> Option<bool> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let (group, terminal, foreground) = (fields.get(2)?, fields.get(4)?, fields.get(5)?);
    Some(*terminal != "0" && group == foreground)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_named_as_kill_names_them() {
        assert_eq!(parse("hup"), Ok(Signal::HUP));
        assert_eq!(parse("SIGUSR1"), Ok(Signal::USR1));
        assert!(parse("KILL").unwrap_err().contains("HUP, INT"));
    }

    #[test]
    fn the_foreground_is_told_from_the_background_and_from_no_terminal() {
        assert_eq!(foreground_of("1 (a) b) S 2 30 30 34816 30 0"), Some(true));
        assert_eq!(foreground_of("1 (a) S 2 30 30 34816 31 0"), Some(false));
        assert_eq!(foreground_of("1 (a) S 2 30 30 0 -1 0"), Some(false));
        assert_eq!(foreground_of(""), None);
    }
}
