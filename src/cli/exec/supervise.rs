//! A command that runs beside us: signals passed on, started anew or signalled when its config changes, its end ours.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt as _;
use std::pin::Pin;
use std::process::{ExitCode, ExitStatus};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Child;
use tokio::time::{Sleep, sleep};

use super::super::failure::{Exit, Failure};
use super::changes::{Changes, State};
use super::environment::{Environment, Rules};
use super::files::Files;
use super::signals::{self, Signals};
use super::{chance, command, environment_of, not_run};
use crate::clock::{Clock, Moment};
use crate::limits;

/// What to do when the config has changed.
pub(super) struct Reaction {
    /// This signal is sent; without one the command is restarted.
    pub signal: Option<Signal>,
    pub grace: Duration,
    pub jitter: Duration,
}

/// What is run, and how.
pub(super) struct Supervisor {
    pub argv: Vec<OsString>,
    pub rules: Rules,
    pub reaction: Reaction,
    pub files: Option<Files>,
    pub changes: Option<Changes>,
    pub clock: Clock,
}

/// The command as it runs now.
struct Run {
    child: Child,
    /// What it was given.
    current: Environment,
    /// What it should have.
    wanted: Option<Environment>,
    /// It was asked to end, to be started anew.
    is_replaced: bool,
    /// Somebody else asked it to end.
    is_stopped: bool,
    /// The time to act on a change, or to kill what does not end.
    due: Option<Pin<Box<Sleep>>>,
    acted: Option<Moment>,
}

enum Event {
    Ended(std::io::Result<ExitStatus>),
    Signalled { signal: Signal, is_known: bool },
    Told(Arc<State>),
    Due,
}

impl Supervisor {
    /// Runs the command to its end, and returns how it ended.
    pub(super) async fn run(mut self, first: Environment) -> Result<ExitCode, Failure> {
        // Before the command runs: none that is sent to us from then on may end us alone.
        let mut signals = Signals::listen()?;
        let child = self.start(&first)?;
        let mut run =
            Run { child, current: first, wanted: None, is_replaced: false, is_stopped: false, due: None, acted: None };
        loop {
            let event = tokio::select! {
                ended = run.child.wait() => Event::Ended(ended),
                (signal, is_known) = signals.next() => Event::Signalled { signal, is_known },
                state = told(&mut self.changes) => Event::Told(state),
                () = elapsed(&mut run.due) => Event::Due,
            };
            match event {
                Event::Ended(ended) if run.is_replaced && !run.is_stopped && ended.is_ok() => self.replace(&mut run)?,
                Event::Ended(ended) => return ended.map(code_of).map_err(|error| not_run(&self.argv, &error)),
                Event::Signalled { signal, is_known } => {
                    run.is_stopped |= signals::ends(signal);
                    if !is_known {
                        run.send(signal);
                    }
                }
                Event::Told(state) => self.hear(&mut run, &state),
                Event::Due => self.act(&mut run),
            }
        }
    }

    fn start(&mut self, environment: &Environment) -> Result<Child, Failure> {
        if let Some(files) = &mut self.files {
            files.put(environment.given())?;
        }
        let files = self.files.as_ref().map(Files::path);
        let command = command(&self.argv, environment, files.as_deref());
        tokio::process::Command::from(command).spawn().map_err(|error| not_run(&self.argv, &error))
    }

    /// The command has ended, as it was asked to: the next one.
    fn replace(&mut self, run: &mut Run) -> Result<(), Failure> {
        if let Some(wanted) = run.wanted.take() {
            run.current = wanted;
        }
        run.child = self.start(&run.current)?;
        (run.is_replaced, run.due) = (false, None);
        Ok(())
    }

    /// Notes a new config, to act on it in a while. One that is refused or cannot be used changes nothing.
    fn hear(&self, run: &mut Run, state: &State) {
        let wanted = match state {
            State::Resolved(config) => environment_of(&self.rules, config),
            State::Refused(refusal) => Err(Failure::of_refusal(refusal)),
        };
        match wanted {
            Ok(wanted) => {
                run.wanted = Some(wanted);
                if run.due.is_none() {
                    run.due = Some(Box::pin(sleep(self.pause(run.acted))));
                }
            }
            Err(mut failure) => {
                failure.message += "; the command runs on with what it has";
                failure.warn();
            }
        }
    }

    /// How long to wait before acting on a change: by chance, and not too soon after the last one.
    fn pause(&self, acted: Option<Moment>) -> Duration {
        let since = acted.map(|acted| self.clock.moment().since(acted));
        let left = since.map_or(Duration::ZERO, |since| limits::EXEC_ACTION_INTERVAL.saturating_sub(since));
        left + self.reaction.jitter.mul_f64(chance())
    }

    fn act(&mut self, run: &mut Run) {
        run.due = None;
        if run.is_replaced {
            // It had its time.
            return run.send(Signal::KILL);
        }
        let Some(wanted) = run.wanted.take_if(|wanted| !wanted.gives_the_same_as(&run.current)) else {
            return run.wanted = None;
        };
        run.acted = Some(self.clock.moment());
        match self.reaction.signal {
            None => {
                run.wanted = Some(wanted);
                run.is_replaced = true;
                run.due = Some(Box::pin(sleep(self.reaction.grace)));
                run.send(Signal::TERM);
            }
            Some(signal) => {
                match self.files.as_mut().map_or(Ok(()), |files| files.put(wanted.given())) {
                    Ok(()) => run.current = wanted,
                    Err(failure) => return failure.warn(),
                }
                run.send(signal);
            }
        }
    }
}

impl Run {
    fn send(&self, signal: Signal) {
        // One that has ended and was waited for has no id any more, so no other process is hit.
        let pid = self.child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        if let Some(Err(error)) = pid.map(|pid| kill_process(pid, signal)) {
            let message = "a signal could not be passed on to the command";
            Failure::new(Exit::Failed, "SIGNALS", message).why(error.to_string()).warn();
        }
    }
}

async fn told(changes: &mut Option<Changes>) -> Arc<State> {
    match changes {
        Some(changes) => changes.next().await,
        None => std::future::pending().await,
    }
}

async fn elapsed(due: &mut Option<Pin<Box<Sleep>>>) {
    match due {
        Some(due) => due.await,
        None => std::future::pending().await,
    }
}

/// The command's own code, or 128 and the number of the signal that ended it, as shells tell it.
fn code_of(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    #[test]
    fn the_first_change_is_acted_on_at_once_and_the_next_not_too_soon_after_it() {
        let manual = ManualClock::at(Clock::System.now());
        let rules = Rules { map: Vec::new(), prefix: String::new(), pristine: true, overwrite: false, in_files: false };
        let reaction = Reaction { signal: None, grace: Duration::ZERO, jitter: Duration::ZERO };
        let clock = Clock::Manual(manual.clone());
        let supervisor = Supervisor { argv: Vec::new(), rules, reaction, files: None, changes: None, clock };
        assert_eq!(supervisor.pause(None), Duration::ZERO);
        let acted = Some(supervisor.clock.moment());
        manual.advance(Duration::from_secs(4));
        assert_eq!(supervisor.pause(acted), limits::EXEC_ACTION_INTERVAL - Duration::from_secs(4));
        manual.advance(limits::EXEC_ACTION_INTERVAL);
        assert_eq!(supervisor.pause(acted), Duration::ZERO);
    }
}
