//! A record as a line of JSON.

use std::io::Write as _;

use data_encoding::HEXLOWER;
use jiff::Timestamp;

use super::record::{Outcome, Resolved, View};
use crate::limits;
use crate::model::caller::Subject;
use crate::model::id::{ConnectionId, InstanceId, ProfileId, ProjectId, RunTokenId, TenantId, TokenId};
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
        fields.word("method", view.method.word());
        match &view.caller.subject {
            Subject::Token(token) => fields.id("caller", TokenId::PREFIX, token.to_bytes()),
            subject => fields.text("caller", &subject.to_string()),
        }
        fields.id("tenant", TenantId::PREFIX, view.caller.tenant.to_bytes());
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
                self.id("project", ProjectId::PREFIX, resolved.project.to_bytes());
                self.id("instance", InstanceId::PREFIX, resolved.instance.to_bytes());
                self.step(view);
                self.resolved(resolved);
                self.word("outcome", "ok");
            }
            Outcome::Issued { project, instance, token } => {
                self.id("project", ProjectId::PREFIX, project.to_bytes());
                self.id("instance", InstanceId::PREFIX, instance.to_bytes());
                self.step(view);
                self.id("run_token", RunTokenId::PREFIX, token.to_bytes());
                self.word("outcome", "ok");
            }
            Outcome::Refused(refused) => {
                self.asked(view);
                for (key, id) in [("refused_instance", &refused.instance), ("refused_connection", &refused.connection)]
                {
                    if let Some(id) = id {
                        self.text(key, id);
                    }
                }
                self.word("outcome", refused.reason.code());
            }
            Outcome::Abandoned => {
                self.asked(view);
                self.word("outcome", "ABANDONED");
            }
        }
    }

    fn resolved(&mut self, resolved: &Resolved) {
        self.id("profile", ProfileId::PREFIX, resolved.profile.to_bytes());
        self.number("profile_version", resolved.profile_version);
        self.0.extend_from_slice(br#","connections":["#);
        for (position, used) in resolved.connections.iter().enumerate() {
            self.0.extend_from_slice(if position == 0 { br#"{"id":""# } else { br#",{"id":""# });
            self.id_text(ConnectionId::PREFIX, used.id.to_bytes());
            self.0.push(b'"');
            self.number("version", used.version);
            self.number("secret_version", used.secret_version);
            self.word("freshness", used.freshness);
            self.0.push(b'}');
        }
        self.0.push(b']');
    }

    /// What was asked for, of which nothing is known to exist: so a name is not repeated, which may be a misplaced secret.
    fn asked(&mut self, view: &View<'_>) {
        if let Some(project) = view.caller.project {
            self.id("project", ProjectId::PREFIX, project.to_bytes());
        }
        match view.asked {
            Some(InstanceRef::Id(id)) => self.id("instance", InstanceId::PREFIX, id.to_bytes()),
            Some(InstanceRef::Name(_)) => self.word("asked_by", "name"),
            Some(InstanceRef::Server(_)) => self.word("asked_by", "server_url"),
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

    /// An id, by its parts: through `Display`, ids cost a third of a line.
    fn id(&mut self, key: &str, prefix: &str, id: [u8; 16]) {
        self.key(key);
        self.0.push(b'"');
        self.id_text(prefix, id);
        self.0.push(b'"');
    }

    fn id_text(&mut self, prefix: &str, id: [u8; 16]) {
        let mut hex = [0; 32];
        HEXLOWER.encode_mut(&id, &mut hex);
        self.0.extend_from_slice(prefix.as_bytes());
        self.0.push(b'_');
        self.0.extend_from_slice(&hex);
    }

    /// A word of ours, which needs no escapes.
    fn word(&mut self, key: &str, word: &'static str) {
        self.key(key);
        self.0.push(b'"');
        self.0.extend_from_slice(word.as_bytes());
        self.0.push(b'"');
    }

    fn number(&mut self, key: &str, value: u64) {
        self.key(key);
        write!(self.0, "{value}").expect("a vector takes it");
    }

    /// Any text, cut where it is longer than a name may be.
    fn text(&mut self, key: &str, text: &str) {
        self.key(key);
        let end = text.floor_char_boundary(limits::AUDIT_TEXT_BYTES_MAX);
        serde_json::to_writer(&mut *self.0, &text[..end]).expect("text has a JSON form, and a vector takes it");
    }

    fn key(&mut self, key: &str) {
        self.0.extend_from_slice(b",\"");
        self.0.extend_from_slice(key.as_bytes());
        self.0.extend_from_slice(b"\":");
    }
}
