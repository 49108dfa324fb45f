//! How a command fails: code, one sentence, why, fix, and an exit code that scripts can branch on.

use std::error::Error;
use std::fmt::Write as _;
use std::process::ExitCode;

use serde::Serialize;
use tonic::{Code, Status, transport};
use tonic_types::StatusExt;

use crate::grpc::proto;

/// What the exit codes mean; also in `--help`.
pub(super) const EXIT_CODES: &str = "\
Exit codes:
  0 ok         4 not signed in or not allowed     8 the provider failed
  1 failed     5 conflict or changed meanwhile    9 unreachable or timed out: retry helps
  2 usage      6 required keys missing            130 interrupted
  3 not found  7 a person must reconnect";

/// Exit codes of every command, as `--help` lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(into = "u8")]
pub(super) enum Exit {
    Failed = 1,
    Usage = 2,
    NotFound = 3,
    NotAllowed = 4,
    Conflict = 5,
    KeysMissing = 6,
    Reconnect = 7,
    Unreachable = 9,
    /// Only of `exec`, as of everything that runs another command: we failed before it ran.
    NotStarted = 125,
    /// Only of `exec`: the command cannot be run.
    NotRunnable = 126,
    /// Only of `exec`: there is no such command.
    NoCommand = 127,
}

impl From<Exit> for u8 {
    fn from(exit: Exit) -> u8 {
        exit as u8
    }
}

/// A failed command, for the person or script that ran it.
#[derive(Debug, Serialize)]
pub(super) struct Failure {
    pub code: String,
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    #[serde(rename = "remedy", skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
    #[serde(rename = "exit_code")]
    pub exit: Exit,
}

impl Failure {
    pub(super) fn new(exit: Exit, code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), why: None, fix: None, exit }
    }

    pub(super) fn why(mut self, why: impl Into<String>) -> Self {
        self.why = Some(why.into());
        self
    }

    pub(super) fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }

    /// The failure in one line, for a larger message.
    pub(super) fn describe(&self) -> String {
        self.why.as_ref().map_or_else(|| self.message.clone(), |why| format!("{}: {why}", self.message))
    }

    /// A call that was refused or did not get through.
    pub(super) fn of_status(status: &Status, server: &str) -> Self {
        let details = status.get_error_details();
        let Some(info) = details.error_info() else { return Self::of_transport(status, server) };
        let mut failure = Self::new(exit_of(&info.reason, status.code()), &info.reason, status.message());
        failure.fix = info.metadata.get("remedy").cloned();
        failure
    }

    /// A refusal inside an answer.
    pub(super) fn of_refusal(refusal: &proto::Refusal) -> Self {
        let exit = exit_of(&refusal.reason, Code::from(refusal.code));
        Self::new(exit, &refusal.reason, &refusal.message).fix(&refusal.remedy)
    }

    /// A daemon that is not there, or that we do not come to terms with.
    pub(super) fn unreachable(server: &str, error: &transport::Error) -> Self {
        Self::new(Exit::Unreachable, "UNREACHABLE", format!("no daemon answers at {server}"))
            .why(deepest(error))
            .fix("start it with `credway serve`, or name another one with --server")
    }

    fn of_transport(status: &Status, server: &str) -> Self {
        // A daemon that does not want our certificate says so after the connection has opened.
        if let Some(error) = status.source().and_then(|source| source.downcast_ref()) {
            return Self::unreachable(server, error);
        }
        let exit = exit_of("", status.code());
        let code = format!("{:?}", status.code()).to_uppercase();
        Self::new(exit, code, format!("the call to {server} failed")).why(status.message())
    }

    /// Prints it to standard error, as text or as one JSON document.
    pub(super) fn report(&self, json: bool) -> ExitCode {
        match serde_json::to_string(self) {
            Ok(document) if json => eprintln!("{document}"),
            _ => eprint!("{}", self.text("error")),
        }
        ExitCode::from(u8::from(self.exit))
    }

    /// Prints it to standard error as what does not end the command.
    pub(super) fn warn(&self) {
        eprint!("{}", self.text("warning"));
    }

    fn text(&self, severity: &str) -> String {
        let mut text = format!("{severity}[{}]: {}\n", self.code, self.message);
        for (label, line) in [("why", &self.why), ("fix", &self.fix)] {
            if let Some(line) = line {
                let _ = writeln!(text, "  {label}   {}", line.replace('\n', "\n        "));
            }
        }
        text
    }
}

fn deepest(error: &(dyn Error + 'static)) -> String {
    error.source().map_or_else(|| error.to_string(), deepest)
}

fn exit_of(reason: &str, code: Code) -> Exit {
    match (reason, code) {
        ("CONFIG_INCOMPLETE" | "CONFIG_INVALID", _) => Exit::KeysMissing,
        ("RECONNECT_REQUIRED" | "SCOPE_MISSING" | "SERVICE_NOT_ENABLED", _) => Exit::Reconnect,
        (_, Code::NotFound) => Exit::NotFound,
        (_, Code::Unauthenticated | Code::PermissionDenied) => Exit::NotAllowed,
        (_, Code::Aborted | Code::AlreadyExists) => Exit::Conflict,
        (_, Code::InvalidArgument) => Exit::Usage,
        (_, Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted | Code::Cancelled) => {
            Exit::Unreachable
        }
        _ => Exit::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_what_why_and_how_to_mend_it() {
        let failure =
            Failure::new(Exit::NotFound, "INSTANCE_NOT_FOUND", "there is no MCP instance \"x\" in this project")
                .why("the project has none of that name")
                .fix("check the id");
        insta::assert_snapshot!(failure.text("error"), @r#"
        error[INSTANCE_NOT_FOUND]: there is no MCP instance "x" in this project
          why   the project has none of that name
          fix   check the id
        "#);
    }
}
