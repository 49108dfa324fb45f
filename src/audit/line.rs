//! A record as a line of JSON.

use std::fmt::Display;
use std::io::Write as _;

use jiff::Timestamp;

use super::record::{Outcome, Resolved, View};
use crate::limits;
use crate::model::resolution::InstanceRef;

/// Writes lines, one after the other.
#[derive(Default)]
pub(super) struct Lines {
    pub(super) text: Vec<u8>,
    second: Second,
}

impl Lines {
    /// Adds the line of what was told at each of `times`.
    pub(super) fn add(&mut self, view: &View<'_>, times: impl Iterator<Item = Timestamp>) {
        let mut separator: &[u8] = br#"{"at":["#;
        for time in times {
            self.text.extend_from_slice(separator);
            self.second.write(&mut self.text, time);
            separator = b",";
        }
        self.text.push(b']');
        let mut fields = Fields(&mut self.text);
        fields.plain("method", view.method.word());
        fields.text("caller", &view.caller.subject.to_string());
        fields.plain("tenant", view.caller.tenant);
        fields.outcome(view);
        self.text.extend_from_slice(b"}\n");
    }
}

/// The text of the second of the last time: thousands of records share it.
#[derive(Default)]
struct Second {
    second: Option<i64>,
    text: String,
}

impl Second {
    /// RFC 3339, in microseconds.
    fn write(&mut self, text: &mut Vec<u8>, time: Timestamp) {
        let second = time.as_second();
        if self.second != Some(second) {
            self.second = Some(second);
            let whole = Timestamp::from_second(second).unwrap_or(Timestamp::UNIX_EPOCH).to_string();
            whole.trim_end_matches('Z').clone_into(&mut self.text);
        }
        let microseconds = time.subsec_nanosecond() / 1000;
        write!(text, r#""{}.{microseconds:06}Z""#, self.text).expect("a vector takes it");
    }
}

/// The fields after the first one of an object.
struct Fields<'a>(&'a mut Vec<u8>);

impl Fields<'_> {
    fn outcome(&mut self, view: &View<'_>) {
        match view.outcome {
            Outcome::Resolved(resolved) => {
                self.plain("project", resolved.project);
                self.plain("instance", resolved.instance);
                self.step(view);
                self.resolved(resolved);
                self.plain("outcome", "ok");
            }
            Outcome::Issued { project, instance, token } => {
                self.plain("project", project);
                self.plain("instance", instance);
                self.step(view);
                self.plain("run_token", token);
                self.plain("outcome", "ok");
            }
            Outcome::Refused(refused) => {
                self.asked(view);
                for (key, id) in [("refused_instance", &refused.instance), ("refused_connection", &refused.connection)]
                {
                    if let Some(id) = id {
                        self.text(key, id);
                    }
                }
                self.plain("outcome", refused.reason);
            }
            Outcome::Abandoned => {
                self.asked(view);
                self.plain("outcome", "ABANDONED");
            }
        }
    }

    fn resolved(&mut self, resolved: &Resolved) {
        self.plain("profile", resolved.profile);
        self.number("profile_version", resolved.profile_version);
        self.0.extend_from_slice(br#","connections":["#);
        for (position, used) in resolved.connections.iter().enumerate() {
            let separator = if position == 0 { "" } else { "," };
            let (id, version, secret_version, freshness) = (used.id, used.version, used.secret_version, used.freshness);
            write!(
                self.0,
                r#"{separator}{{"id":"{id}","version":{version},"secret_version":{secret_version},"freshness":"{freshness}"}}"#
            )
            .expect("a vector takes it");
        }
        self.0.push(b']');
    }

    /// What was asked for, of which nothing is known to exist: so a name is not repeated, which may be a misplaced secret.
    fn asked(&mut self, view: &View<'_>) {
        if let Some(project) = view.caller.project {
            self.plain("project", project);
        }
        match view.asked {
            Some(InstanceRef::Id(id)) => self.plain("instance", id),
            Some(InstanceRef::Name(_)) => self.plain("asked_by", "name"),
            Some(InstanceRef::Server(_)) => self.plain("asked_by", "server_url"),
            None => {}
        }
        self.step(view);
    }

    fn step(&mut self, view: &View<'_>) {
        for (key, name) in [("workflow", &view.workflow), ("step", &view.step)] {
            if let Some(name) = name {
                self.text(key, name);
            }
        }
    }

    /// A field whose value needs no escapes: an id or a word of ours.
    fn plain(&mut self, key: &str, value: impl Display) {
        write!(self.0, r#","{key}":"{value}""#).expect("a vector takes it");
    }

    fn number(&mut self, key: &str, value: u64) {
        write!(self.0, r#","{key}":{value}"#).expect("a vector takes it");
    }

    /// A field of any text, cut where it is longer than a name may be.
    fn text(&mut self, key: &str, text: &str) {
        write!(self.0, r#","{key}":"#).expect("a vector takes it");
        let end = text.floor_char_boundary(limits::AUDIT_TEXT_BYTES_MAX);
        serde_json::to_writer(&mut *self.0, &text[..end]).expect("text has a JSON form, and a vector takes it");
    }
}
