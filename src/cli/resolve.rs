//! `credway resolve`: what an executor would get, for a person to read or a script to use.

use clap::{Args, ValueEnum};
use serde_json::{Value as Json, json};

use super::client::{Client, Server};
use super::failure::{Exit, Failure};
use super::out::{print, say};
use super::table::table;
use crate::grpc::proto::config_entry::Value;
use crate::grpc::proto::{
    ConfigEntry, ConnectionUse, ExplainResolutionRequest, ExplainResolutionResponse, Freshness,
    ResolveCredentialsRequest, ResolveCredentialsResponse, ValueSource,
};

const HIDDEN: &str = "********";

/// Resolves an MCP instance as a workflow step would
///
/// The instance's active profile says which connection feeds which key; an override of the workflow puts another connection in its
/// place, and one of the step beats that. Asks a running daemon: the `credway dev` of this user, or the one of --server.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  credway resolve mailer                                     its config, secrets hidden
  credway resolve mailer --workflow nightly --step notify    as that step of that workflow gets it
  credway resolve mailer --workflow nightly --explain        which rule decided
  credway resolve mailer --reveal --format dotenv > .env")]
pub(super) struct Resolve {
    /// The instance: its name, its id (inst_…), or its server's URL
    #[arg(value_name = "INSTANCE")]
    instance: String,
    /// The workflow that would run: its overrides apply
    #[arg(long, value_name = "WORKFLOW")]
    workflow: Option<String>,
    /// The step of the workflow
    #[arg(long, value_name = "STEP", requires = "workflow")]
    step: Option<String>,
    /// How to print it
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
    /// Show which rule led to which credential, and no values
    #[arg(long)]
    explain: bool,
    /// Show secret values
    #[arg(long, conflicts_with = "explain")]
    reveal: bool,
    #[command(flatten)]
    server: Server,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Table,
    /// For programs
    Json,
    /// KEY='value' lines, for a shell; needs --reveal
    Dotenv,
}

impl Resolve {
    /// The demo's first resolve, values shown: they are no one's.
    pub(super) fn of_demo(server: Server) -> Self {
        let (workflow, step) = (None, None);
        Self {
            instance: "demo-echo".into(),
            workflow,
            step,
            format: Format::Table,
            explain: false,
            reveal: true,
            server,
        }
    }

    pub(super) async fn run(self) -> Result<(), Failure> {
        let (client, url) = self.server.connect().await?;
        if self.explain {
            self.print_explanation(client, &url).await
        } else {
            self.print_resolution(client, &url).await
        }
    }

    async fn print_resolution(&self, mut client: Client, url: &str) -> Result<(), Failure> {
        let (instance_id, server_url) = self.target();
        let request = ResolveCredentialsRequest {
            workflow_id: self.workflow.clone().unwrap_or_default(),
            step: self.step.clone().unwrap_or_default(),
            instance_id,
            server_url,
            ..Default::default()
        };
        let answer = client.resolve_credentials(request).await;
        let answer = answer.map_err(|status| Failure::of_status(&status, url))?.into_inner();
        match self.format {
            Format::Table => print(resolution_table(&answer, self.reveal)),
            Format::Json => say!("{:#}", document(&answer, self.reveal)),
            Format::Dotenv => print(dotenv(&answer, self.reveal)?),
        }
        Ok(())
    }

    async fn print_explanation(&self, mut client: Client, url: &str) -> Result<(), Failure> {
        let (instance_id, server_url) = self.target();
        let request = ExplainResolutionRequest {
            workflow_id: self.workflow.clone().unwrap_or_default(),
            step: self.step.clone().unwrap_or_default(),
            instance_id,
            server_url,
        };
        let answer = client.explain_resolution(request).await;
        let answer = answer.map_err(|status| Failure::of_status(&status, url))?.into_inner();
        match self.format {
            Format::Json => say!("{:#}", explanation_document(&answer)),
            Format::Table | Format::Dotenv => print(explanation_table(&answer)),
        }
        Ok(())
    }

    fn target(&self) -> (String, String) {
        target(&self.instance)
    }
}

/// `instance_id` and `server_url` of what a person named: an instance by its name or id, or its server by the URL.
pub(super) fn target(named: &str) -> (String, String) {
    match named.contains("://") {
        true => (String::new(), named.to_owned()),
        false => (named.to_owned(), String::new()),
    }
}

fn resolution_table(answer: &ResolveCredentialsResponse, reveal: bool) -> String {
    let rows = answer.config.iter().map(|entry| [entry.key.clone(), shown(entry, reveal), origin(entry, answer)]);
    let config = table(["KEY", "VALUE", "FROM"], rows);
    let hidden = answer.config.iter().any(|entry| entry.secret) && !reveal;
    let note = if hidden { " Secret values hidden: --reveal shows them." } else { "" };
    let keys = if answer.config.len() == 1 { "key" } else { "keys" };
    format!("{config}{} {keys}.{note}\n", answer.config.len())
}

fn shown(entry: &ConfigEntry, reveal: bool) -> String {
    if entry.secret && !reveal { HIDDEN.to_owned() } else { text(entry.value.as_ref()) }
}

/// A value as text: what a shell or an environment holds.
pub(super) fn text(value: Option<&Value>) -> String {
    match value {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::NumberValue(number)) => number.to_string(),
        Some(Value::BoolValue(flag)) => flag.to_string(),
        None => String::new(),
    }
}

/// Which layer gave a value, and through which override.
fn origin(entry: &ConfigEntry, answer: &ResolveCredentialsResponse) -> String {
    let Some(provenance) = &answer.provenance else { return String::new() };
    match entry.source() {
        ValueSource::Default => "default".to_owned(),
        ValueSource::Profile => format!("profile {:?}", provenance.profile_name),
        ValueSource::Unspecified => String::new(),
        ValueSource::Connection => {
            let used = provenance.connections.iter().find(|used| used.connection_id == entry.connection_id);
            used.map_or_else(|| entry.connection_id.clone(), connection_text)
        }
    }
}

fn connection_text(used: &ConnectionUse) -> String {
    let overridden = used.applied_override.as_ref().map(|applied| match applied.step.as_str() {
        "" => format!(" by override of workflow {}", applied.workflow_id),
        step => format!(" by override of workflow {}, step {step}", applied.workflow_id),
    });
    format!("connection {:?} v{}{}", used.name, used.secret_version, overridden.unwrap_or_default())
}

fn document(answer: &ResolveCredentialsResponse, reveal: bool) -> Json {
    let config = answer.config.iter().map(|entry| {
        let mut object = json!({ "key": entry.key, "secret": entry.secret, "source": source_word(entry.source()) });
        if !entry.connection_id.is_empty() {
            object["connection_id"] = json!(entry.connection_id);
        }
        if reveal || !entry.secret {
            object["value"] = match &entry.value {
                Some(Value::StringValue(text)) => json!(text),
                // Written without a fraction where there is none, as it was when it was set.
                Some(Value::NumberValue(number)) => number.to_string().parse().map_or(Json::Null, Json::Number),
                Some(Value::BoolValue(flag)) => json!(flag),
                None => Json::Null,
            };
        }
        object
    });
    let provenance = answer.provenance.as_ref();
    json!({
        "instance_id": provenance.map(|p| p.instance_id.as_str()),
        "profile": provenance.map(|p| json!({ "id": p.profile_id, "name": p.profile_name, "version": p.profile_version })),
        "config": config.collect::<Vec<_>>(),
        "connections": provenance.map(|p| p.connections.iter().map(connection_document).collect::<Vec<_>>()),
        "expires_at": answer.expires_at.as_ref().map(ToString::to_string),
        "refresh_after": answer.refresh_after.as_ref().map(ToString::to_string),
    })
}

fn connection_document(used: &ConnectionUse) -> Json {
    json!({
        "id": used.connection_id,
        "name": used.name,
        "version": used.version,
        "secret_version": used.secret_version,
        "freshness": match used.freshness() {
            Freshness::Fresh => "fresh",
            Freshness::Cached => "cached",
            Freshness::Stale => "stale",
            Freshness::Unspecified => "unknown",
        },
        "stale_because": used.staleness.as_ref().map(|staleness| &staleness.cause),
        "override": used.applied_override.as_ref().map(|applied| json!({
            "workflow_id": applied.workflow_id,
            "step": (!applied.step.is_empty()).then_some(&applied.step),
            "replaced_connection_id": applied.replaced_connection_id,
        })),
    })
}

fn source_word(source: ValueSource) -> &'static str {
    match source {
        ValueSource::Unspecified => "none",
        ValueSource::Default => "default",
        ValueSource::Profile => "profile",
        ValueSource::Connection => "connection",
    }
}

/// `KEY='value'` lines for a shell. Hidden values would make a file that looks complete and is not: that is refused.
fn dotenv(answer: &ResolveCredentialsResponse, reveal: bool) -> Result<String, Failure> {
    if !reveal && answer.config.iter().any(|entry| entry.secret) {
        let failure =
            Failure::new(Exit::Usage, "REVEAL_NEEDED", "dotenv output holds secret values, and they are hidden");
        return Err(failure.fix("add --reveal, or use `credway resolve … --format table`"));
    }
    // Whoever sources the file would run what stands in a key.
    if let Some(entry) = answer.config.iter().find(|entry| !is_variable(&entry.key)) {
        let message = format!("the config key {:?} cannot be the name of a shell variable", entry.key);
        return Err(Failure::new(Exit::Failed, "NOT_A_VARIABLE", message).fix("use `--format json`"));
    }
    let lines = answer
        .config
        .iter()
        .map(|entry| format!("{}='{}'\n", entry.key, text(entry.value.as_ref()).replace('\'', r"'\''")));
    Ok(lines.collect())
}

/// Whether a shell takes this for the name of a variable.
pub(super) fn is_variable(key: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    key.chars().all(word) && !key.is_empty() && !key.starts_with(|c: char| c.is_ascii_digit())
}

fn explanation_table(answer: &ExplainResolutionResponse) -> String {
    let outcome = |passed| if passed { "passed" } else { "refused" }.to_owned();
    let rules = answer.rules.iter().map(|rule| [rule.rule.clone(), outcome(rule.passed), rule.detail.clone()]);
    let rules = table(["RULE", "OUTCOME", "DETAIL"], rules);
    let entries = answer.entries.iter().map(|entry| {
        let from = match entry.source() {
            ValueSource::Connection => format!("connection {:?} .{}", entry.connection_name, entry.credential),
            other => source_word(other).to_owned(),
        };
        let state = match (entry.present, entry.required) {
            (true, _) => "ok",
            (false, true) => "missing",
            (false, false) => "not set",
        };
        [entry.key.clone(), from, state.to_owned()]
    });
    let entries = match answer.entries.is_empty() {
        true => String::new(),
        false => format!("\n{}", table(["KEY", "FROM", "STATE"], entries)),
    };
    let verdict = match &answer.refusal {
        None => "resolves".to_owned(),
        Some(refusal) => format!("refused[{}]: {}\n  fix   {}", refusal.reason, refusal.message, refusal.remedy),
    };
    format!("{rules}{entries}\n{verdict}\n")
}

fn explanation_document(answer: &ExplainResolutionResponse) -> Json {
    json!({
        "rules": answer.rules.iter().map(|rule| json!({
            "rule": rule.rule, "passed": rule.passed, "detail": rule.detail,
        })).collect::<Vec<_>>(),
        "entries": answer.entries.iter().map(|entry| json!({
            "key": entry.key,
            "source": source_word(entry.source()),
            "connection_id": (!entry.connection_id.is_empty()).then_some(&entry.connection_id),
            "credential": (!entry.credential.is_empty()).then_some(&entry.credential),
            "required": entry.required,
            "secret": entry.secret,
            "present": entry.present,
        })).collect::<Vec<_>>(),
        "refusal": answer.refusal.as_ref().map(|refusal| json!({
            "reason": refusal.reason, "message": refusal.message, "remedy": refusal.remedy,
        })),
    })
}
