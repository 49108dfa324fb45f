//! What resolutions come to: explained rule by rule, and foreseen for all steps of a graph. No value is ever in an answer.

use std::collections::{BTreeMap, BTreeSet};

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Rest;
use super::asker::{Asker, Read};
use super::body::{self, JsonBody};
use super::problem::{Problem, ProblemBody};
use crate::limits;
use crate::model::id::ConnectionId;
use crate::model::reason::Reason;
use crate::model::refusal::Refusal;
use crate::model::resolution::{Asked, ConnectionUse, Freshness, Provenance, ResolutionRequest, ValueSource};
use crate::resolve::{ExplainedEntry, Explanation, ForeseenConnection, Foresight};

pub(super) fn routes() -> OpenApiRouter<Rest> {
    OpenApiRouter::new().routes(routes!(explain)).layer(body::limit())
}

pub(super) fn of_graphs() -> OpenApiRouter<Rest> {
    OpenApiRouter::new().routes(routes!(resolve)).layer(body::limit())
}

/// What is to be resolved: an instance by its id or name, by its server, or by both, which must then agree.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ExplainBody {
    workflow_id: Option<String>,
    instance_id: Option<String>,
    server_url: Option<String>,
    step: Option<String>,
}

/// The steps of a workflow's graph that call MCP instances.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct GraphBody {
    workflow_id: Option<String>,
    #[schema(max_items = 256)]
    steps: Vec<StepBody>,
}

/// One step, and the instance that it names.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = GraphStep)]
pub(super) struct StepBody {
    step: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_url: Option<String>,
}

/// A refusal, as resolutions answer it.
#[derive(Serialize, ToSchema)]
#[schema(as = Refusal)]
pub(super) struct RefusalView {
    code: &'static str,
    /// What is refused, and why.
    detail: String,
    /// What to do about it.
    message: String,
    /// The ids involved, by kind.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    ids: BTreeMap<&'static str, String>,
}

impl From<Refusal> for RefusalView {
    fn from(refusal: Refusal) -> Self {
        let Refusal { reason, message, remedy, ids, .. } = refusal;
        Self { code: reason.code(), detail: message, message: remedy, ids }
    }
}

/// How a resolution comes about, without any value.
#[derive(Serialize, ToSchema)]
#[schema(as = Explanation)]
pub(super) struct ExplanationView {
    rules: Vec<RuleView>,
    entries: Vec<EntryView>,
    /// Where an answer comes from, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    provenance: Option<ProvenanceView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refusal: Option<RefusalView>,
}

/// What one rule found.
#[derive(Serialize, ToSchema)]
#[schema(as = RuleOutcome)]
pub(super) struct RuleView {
    rule: String,
    passed: bool,
    detail: String,
}

/// One config key, and where its value comes from.
#[derive(Serialize, ToSchema)]
#[schema(as = ExplainedEntry)]
pub(super) struct EntryView {
    key: String,
    /// `default`, `profile` or `connection`; absent for a key without a value.
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connection_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connection_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    credential: Option<String>,
    required: bool,
    secret: bool,
}

/// Where an answer comes from.
#[derive(Serialize, ToSchema)]
#[schema(as = Provenance)]
pub(super) struct ProvenanceView {
    instance_id: String,
    profile_id: String,
    profile_name: String,
    profile_version: u64,
    connections: Vec<UseView>,
}

/// One connection as it is used.
#[derive(Serialize, ToSchema)]
#[schema(as = ConnectionUse)]
pub(super) struct UseView {
    connection_id: String,
    name: String,
    version: u64,
    secret_version: u64,
    /// The connection of the profile that an override replaced by this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    replaced_connection_id: Option<String>,
    /// `fresh`, `cached` or `stale`.
    freshness: &'static str,
    #[schema(format = DateTime)]
    fetched_at: String,
}

/// What the steps of a graph would come to.
#[derive(Serialize, ToSchema)]
#[schema(as = GraphReadiness)]
pub(super) struct GraphView {
    /// Whether every step would be answered.
    ready: bool,
    steps: Vec<StepView>,
    /// The steps as other projects can take them: by the servers' URLs only.
    export: Vec<StepBody>,
    /// The steps with the instances of this project: what the servers' URLs of an imported graph mean here.
    import: Vec<StepBody>,
}

/// What one step would come to.
#[derive(Serialize, ToSchema)]
#[schema(as = StepReadiness)]
pub(super) struct StepView {
    step: String,
    ready: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<StepInstance>,
    connections: Vec<StepConnection>,
    /// Everything that is in the way. Executors are told the first.
    refusals: Vec<RefusalView>,
}

/// The instance that a step means.
#[derive(Serialize, ToSchema)]
pub(super) struct StepInstance {
    id: String,
    name: String,
    service: String,
    server_url: String,
    /// The active profile.
    #[serde(skip_serializing_if = "Option::is_none")]
    profile_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    profile_name: Option<String>,
}

/// A connection that a step uses.
#[derive(Serialize, ToSchema)]
pub(super) struct StepConnection {
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// Its status; absent for one that does not exist.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    environment: Option<String>,
    /// Whether an override puts it in place of the profile's own.
    overridden: bool,
    /// The config keys that it feeds.
    keys: Vec<String>,
}

/// Explains a resolution: which rule leads to which credential, or to the refusal. The look is noted in the audit, of each
/// connection that feeds a key.
#[utoipa::path(post, path = "/explain", request_body = ExplainBody, tag = "resolve", security(("token" = ["mcp:read"])),
    responses((status = 200, body = ExplanationView), (status = "4XX", body = ProblemBody)))]
async fn explain(
    State(rest): State<Rest>,
    asker: Asker<Read>,
    body: JsonBody<ExplainBody>,
) -> Result<Json<ExplanationView>, Problem> {
    let ExplainBody { workflow_id, instance_id, server_url, step } = body.value;
    let asked = Asked {
        project: Some(asker.workspace.project.id.to_string()),
        workflow_id: workflow_id.unwrap_or_default(),
        instance_id: instance_id.unwrap_or_default(),
        server_url: server_url.unwrap_or_default(),
        step: step.unwrap_or_default(),
    };
    let request = checked(asked, "")?;
    rest.0.resolver.caught_up().await;
    let explanation = rest.0.resolver.explain(&asker.caller, &request).await;
    let connection = |entry: &ExplainedEntry| match entry.source {
        Some(ValueSource::Connection(id)) => Some(id),
        _ => None,
    };
    let read: BTreeSet<ConnectionId> = explanation.entries.iter().filter_map(connection).collect();
    asker.control.note_looks(&asker.workspace, read).await?;
    Ok(Json(explanation.into()))
}

/// Finds the instances of a graph's steps, and what is in the way of each. Fetches no secret.
#[utoipa::path(post, path = "/resolve", request_body = GraphBody, tag = "instances", security(("token" = ["mcp:read"])),
    responses((status = 200, body = GraphView), (status = "4XX", body = ProblemBody)))]
async fn resolve(
    State(rest): State<Rest>,
    asker: Asker<Read>,
    body: JsonBody<GraphBody>,
) -> Result<Json<GraphView>, Problem> {
    let GraphBody { workflow_id, steps } = body.value;
    if steps.len() > limits::BATCH_STEPS_MAX {
        return Err(Problem::at("/steps", format!("a graph has at most {} steps", limits::BATCH_STEPS_MAX)));
    }
    let asked = |step: &StepBody| Asked {
        project: Some(asker.workspace.project.id.to_string()),
        workflow_id: workflow_id.clone().unwrap_or_default(),
        instance_id: step.instance_id.clone().unwrap_or_default(),
        server_url: step.server_url.clone().unwrap_or_default(),
        step: step.step.clone(),
    };
    let requests = steps.iter().enumerate().map(|(nth, step)| checked(asked(step), &format!("/steps/{nth}")));
    let requests: Vec<ResolutionRequest> = requests.collect::<Result<_, _>>()?;
    rest.0.resolver.caught_up().await;
    let mut graph = GraphView { ready: true, steps: Vec::new(), export: Vec::new(), import: Vec::new() };
    for (step, request) in steps.into_iter().zip(requests) {
        let foreseen = rest.0.resolver.foresee(&asker.caller, &request).await;
        let here = match is_foreign(&foreseen, &step) {
            true => {
                let by_server = Asked { instance_id: String::new(), ..asked(&step) };
                rest.0.resolver.foresee(&asker.caller, &checked(by_server, "")?).await.instance
            }
            false => foreseen.instance.clone(),
        };
        let url = here.as_ref().map(|instance| instance.server_url.to_string()).or(step.server_url);
        graph.export.push(StepBody { step: step.step.clone(), instance_id: None, server_url: url.clone() });
        let instance_id = here.map(|instance| instance.id.to_string());
        graph.import.push(StepBody { step: step.step.clone(), instance_id, server_url: url });
        graph.ready &= foreseen.refusals.is_empty();
        graph.steps.push(StepView::new(step.step, foreseen));
    }
    Ok(Json(graph))
}

/// Whether the step comes from another project, whose instance is none of this one: its server's URL may mean one here.
fn is_foreign(foreseen: &Foresight, step: &StepBody) -> bool {
    let is_unknown = foreseen.refusals.first().is_some_and(|first| first.reason == Reason::InstanceNotFound);
    is_unknown && step.server_url.is_some()
}

fn checked(asked: Asked, at: &str) -> Result<ResolutionRequest, Problem> {
    let checked = asked.request(limits::MIN_TOKEN_TTL_DEFAULT);
    checked.map_err(|refusal| match refusal.field {
        Some(field) => Problem::at(&format!("{at}/{field}"), refusal.message),
        None => refusal.into(),
    })
}

impl From<Explanation> for ExplanationView {
    fn from(explanation: Explanation) -> Self {
        let rules = explanation.rules.into_iter().map(|outcome| RuleView {
            rule: outcome.rule.to_string(),
            passed: outcome.passed,
            detail: outcome.detail,
        });
        Self {
            rules: rules.collect(),
            entries: explanation.entries.into_iter().map(EntryView::from).collect(),
            provenance: explanation.provenance.map(ProvenanceView::from),
            refusal: explanation.refusal.map(RefusalView::from),
        }
    }
}

impl From<ExplainedEntry> for EntryView {
    fn from(entry: ExplainedEntry) -> Self {
        let (source, connection_id) = match entry.source {
            None => (None, None),
            Some(ValueSource::Default) => (Some("default"), None),
            Some(ValueSource::Profile) => (Some("profile"), None),
            Some(ValueSource::Connection(id)) => (Some("connection"), Some(id.to_string())),
        };
        Self {
            key: entry.key,
            source,
            connection_id,
            connection_name: entry.connection_name,
            credential: entry.credential,
            required: entry.required,
            secret: entry.secret,
        }
    }
}

impl From<Provenance> for ProvenanceView {
    fn from(provenance: Provenance) -> Self {
        Self {
            instance_id: provenance.instance.to_string(),
            profile_id: provenance.profile.to_string(),
            profile_name: provenance.profile_name,
            profile_version: provenance.profile_version,
            connections: provenance.connections.into_iter().map(UseView::from).collect(),
        }
    }
}

impl From<ConnectionUse> for UseView {
    fn from(used: ConnectionUse) -> Self {
        Self {
            connection_id: used.id.to_string(),
            name: used.name,
            version: used.version,
            secret_version: used.secret_version,
            replaced_connection_id: used.applied_override.map(|applied| applied.replaced.to_string()),
            freshness: match used.freshness {
                Freshness::Fresh => "fresh",
                Freshness::Cached => "cached",
                Freshness::Stale(_) => "stale",
            },
            fetched_at: used.fetched_at.to_string(),
        }
    }
}

impl StepView {
    fn new(step: String, foreseen: Foresight) -> Self {
        let Foresight { instance, profile, connections, refusals } = foreseen;
        let (profile_id, profile_name) = profile.map(|(id, name)| (id.to_string(), name)).unzip();
        let instance = instance.map(|head| StepInstance {
            id: head.id.to_string(),
            name: head.name,
            service: head.service.to_string(),
            server_url: head.server_url.to_string(),
            profile_id,
            profile_name,
        });
        Self {
            step,
            ready: refusals.is_empty(),
            instance,
            connections: connections.into_iter().map(StepConnection::from).collect(),
            refusals: refusals.into_iter().map(RefusalView::from).collect(),
        }
    }
}

impl From<ForeseenConnection> for StepConnection {
    fn from(foreseen: ForeseenConnection) -> Self {
        let (name, status, environment) = match foreseen.known {
            Some(known) => (Some(known.name), Some(known.state.to_string()), known.environment),
            None => (None, None, None),
        };
        Self {
            id: foreseen.id.to_string(),
            name,
            status,
            environment,
            overridden: foreseen.is_overridden,
            keys: foreseen.keys,
        }
    }
}
