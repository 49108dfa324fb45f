//! What is known of one resolve, in ids and versions.

use std::borrow::Cow;
use std::sync::Arc;

use crate::clock::Moment;
use crate::model::caller::Caller;
use crate::model::id::{ConnectionId, InstanceId, ProfileId, ProjectId, RunTokenId};
use crate::model::reason::Reason;
use crate::model::refusal::Refusal;
use crate::model::resolution::{Freshness, InstanceRef, Resolution, ResolutionRequest};

/// By what a credential was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Resolve,
    BatchStep,
    /// A state that a watch told.
    Watch,
    IssueRunToken,
    McpConfig,
}

impl Method {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::BatchStep => "batch_step",
            Self::Watch => "watch",
            Self::IssueRunToken => "issue_run_token",
            Self::McpConfig => "mcp_config",
        }
    }
}

/// Something that was told, once or again and again. It becomes text after that, on another thread.
pub trait Told: Send + Sync {
    fn view(&self) -> View<'_>;

    /// Whom it was told.
    fn caller(&self) -> &Caller;

    /// What it tells, if that is to be noted as a use of credentials at `at`.
    fn used(&self, at: Moment) -> Option<&Outcome>;
}

/// What a line is made of.
pub struct View<'a> {
    pub method: Method,
    pub caller: &'a Caller,
    /// The instance as it was asked for, where the outcome does not name it.
    pub asked: Option<&'a InstanceRef>,
    pub workflow: Option<Cow<'a, str>>,
    pub step: Option<Cow<'a, str>>,
    pub outcome: &'a Outcome,
}

/// One resolve that was told once.
#[derive(Clone, Debug)]
pub struct Record {
    method: Method,
    caller: Arc<Caller>,
    asked: Option<InstanceRef>,
    workflow: Option<String>,
    step: Option<String>,
    pub(super) outcome: Outcome,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A config was told.
    Resolved(Resolved),
    /// A token was issued that opens one instance.
    Issued {
        project: ProjectId,
        instance: InstanceId,
        token: RunTokenId,
    },
    Refused(Box<Refused>),
    /// The caller went away, or its deadline passed: nothing was told.
    Abandoned,
}

/// What was resolved. Some are held as long as their answers, so this is small.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    pub(super) project: ProjectId,
    pub(super) instance: InstanceId,
    pub(super) profile: ProfileId,
    pub(super) profile_version: u64,
    pub(super) connections: Box<[Used]>,
}

/// One connection that gave a credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Used {
    pub(super) id: ConnectionId,
    pub(super) version: u64,
    pub(super) secret_version: u64,
    pub(super) freshness: &'static str,
}

/// Why not, and what was to blame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub(super) reason: Reason,
    pub(super) instance: Option<String>,
    pub(super) connection: Option<String>,
}

const FRESH: &str = "fresh";
const CACHED: &str = "cached";

impl Record {
    pub(super) fn of(
        method: Method,
        caller: &Arc<Caller>,
        request: Option<&ResolutionRequest>,
        outcome: Outcome,
    ) -> Self {
        Self {
            method,
            caller: Arc::clone(caller),
            asked: request.map(|request| request.instance.clone()),
            workflow: request.and_then(|request| request.workflow.clone()),
            step: request.and_then(|request| request.step.clone()),
            outcome,
        }
    }
}

impl Told for Record {
    fn view(&self) -> View<'_> {
        View {
            method: self.method,
            caller: &self.caller,
            asked: self.asked.as_ref(),
            workflow: self.workflow.as_deref().map(Cow::Borrowed),
            step: self.step.as_deref().map(Cow::Borrowed),
            outcome: &self.outcome,
        }
    }

    fn caller(&self) -> &Caller {
        &self.caller
    }

    fn used(&self, _: Moment) -> Option<&Outcome> {
        Some(&self.outcome)
    }
}

impl Outcome {
    /// A config of `project` is told.
    pub fn resolved(resolution: &Resolution, project: ProjectId) -> Self {
        Self::Resolved(Resolved::of(resolution, project))
    }

    pub fn refused(refusal: &Refusal) -> Self {
        let id = |kind| refusal.ids.get(kind).cloned();
        let (instance, connection) = (id("instance_id"), id("connection_id"));
        Self::Refused(Box::new(Refused { reason: refusal.reason, instance, connection }))
    }

    /// The same when it is told again, from memory.
    #[must_use]
    pub fn from_memory(mut self) -> Self {
        if let Self::Resolved(resolved) = &mut self {
            for used in resolved.connections.iter_mut().filter(|used| used.freshness == FRESH) {
                used.freshness = CACHED;
            }
        }
        self
    }

    /// What it holds beyond its own size, in bytes.
    pub fn heap_bytes(&self) -> usize {
        match self {
            Self::Resolved(resolved) => size_of_val(&*resolved.connections),
            Self::Refused(refused) => size_of_val(&**refused),
            Self::Issued { .. } | Self::Abandoned => 0,
        }
    }
}

impl Resolved {
    fn of(resolution: &Resolution, project: ProjectId) -> Self {
        let provenance = &resolution.provenance;
        let connections = provenance.connections.iter().map(|used| Used {
            id: used.id,
            version: used.version,
            secret_version: used.secret_version,
            freshness: match used.freshness {
                Freshness::Fresh => FRESH,
                Freshness::Cached => CACHED,
                Freshness::Stale(_) => "stale",
            },
        });
        Self {
            project,
            instance: provenance.instance,
            profile: provenance.profile,
            profile_version: provenance.profile_version,
            connections: connections.collect(),
        }
    }
}
