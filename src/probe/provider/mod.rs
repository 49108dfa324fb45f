//! A credential tried at its provider, as its template says: the smallest thing that only a good credential is let do.
//!
//! Fields may hold the host as well as the password, so no sentence names either.

mod http;
mod mysql;
mod postgres;
mod redis;

use std::time::Duration;

use jiff::Timestamp;

use super::egress::Egress;
use super::report::{Finding, Kind, Run};
use super::tls::Tls;
use crate::limits;
use crate::model::pattern::Pattern;
use crate::model::probe::Probe;
use crate::model::secret::SecretFields;
use crate::model::template::Template;

/// What a trial goes by.
pub(super) struct Way<'a> {
    pub egress: &'a Egress,
    pub tls: &'a Tls,
    pub now: Timestamp,
}

/// Does the checks of one credential.
pub(super) async fn attempt(template: &Template, fields: &SecretFields, way: &Way<'_>, run: &mut Run) {
    match &template.probe {
        Probe::Http(probe) => http::attempt(template, probe, fields, way, run).await,
        Probe::Postgres { dsn } => match dsn.fill(fields) {
            Some(dsn) => postgres::attempt(&dsn, way, run).await,
            None => incomplete(run),
        },
        Probe::Mysql { host, port, user, password, database } => {
            let parts = [host, port, user, password, database].map(|pattern| pattern.fill(fields));
            match parts {
                [Some(host), Some(port), Some(user), Some(password), Some(database)] => {
                    let login = mysql::Login { host, port, user, password, database };
                    mysql::attempt(&login, way, run).await;
                }
                _ => incomplete(run),
            }
        }
        Probe::Redis { address, username, password, database } => {
            let optional = |pattern: &Option<Pattern>| pattern.as_ref().and_then(|pattern| pattern.fill(fields));
            match address.fill(fields) {
                Some(address) => {
                    let (username, password, database) = (optional(username), optional(password), optional(database));
                    redis::attempt(&redis::Login { address, username, password, database }, way, run).await;
                }
                None => incomplete(run),
            }
        }
        Probe::Mongodb { .. } => skipped(run, "not supported by this build"),
        Probe::None => skipped(run, "nothing is known that could be asked of the provider"),
    }
}

fn skipped(run: &mut Run, why: &str) {
    run.settle(Kind::Credential, Duration::ZERO, Ok(((), Finding::skipped(why))));
}

fn incomplete(run: &mut Run) {
    run.fail(Kind::Credential, missing("a field that is needed for it"));
}

fn missing(what: &str) -> Finding {
    Finding::fail(
        "CREDENTIAL_INCOMPLETE",
        format!("the credential lacks {what}"),
        "save the credential with all its fields",
    )
}

fn malformed(what: &str, remedy: &str) -> Finding {
    Finding::fail("CREDENTIAL_MALFORMED", what, remedy)
}

/// The provider said no.
fn refused(how: &str) -> Finding {
    let reason = format!("the provider refuses the credential ({how})");
    Finding::fail("CREDENTIAL_REFUSED", reason, "make a new one at the provider and save it in the connection")
}

/// The provider said something that tells nothing of the credential.
fn untold(what: &str) -> Finding {
    Finding::warning(
        format!("{what}, which says nothing of the credential"),
        "try it again later, or look at the provider's status",
    )
}

fn good(what: &str) -> Finding {
    Finding::pass(format!("the provider takes the credential ({what})"))
}

/// What all trials wait at most for one step.
const STEP: Duration = limits::PROBE_CREDENTIAL_DEADLINE;
