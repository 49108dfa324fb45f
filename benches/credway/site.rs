//! What the daemon works on: a config file, and stores filled through the library with as many instances as are asked for.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use credway::app::backends::{self, Backends};
use credway::clock::Clock;
use credway::config::Config;
use credway::config::load::{self, Sources};
use credway::model::caller::{Caller, Role, Scope, Subject};
use credway::model::connection::{Connection, ConnectionState, Status};
use credway::model::id::{ConnectionId, InstanceId, ProfileId, ProjectId, ServerId, TenantId, TokenId};
use credway::model::oauth::TokenState;
use credway::model::profile::{ConfigProfile, Wire};
use credway::model::schema::{ConfigField, ConfigSchema, ConfigValue, ValueType};
use credway::model::secret::{SecretAddress, SecretFields, SecretSource};
use credway::model::server::McpServer;
use credway::model::token::TokenText;
use credway::secrets::SecretStore;
use credway::store::{InstanceRecord, ProjectRecord, ProjectScope, Store, TenantRecord, TokenRecord, Tx};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::provider::TOKEN_SECONDS;

/// Secrets written at once: PostgreSQL and OpenBao are faster then, SQLite takes them one by one.
const WRITES_AT_ONCE: usize = 16;

/// Instances written at once: a log that is written back now and then stays small.
const ROWS_PER_TRANSACTION: usize = 10_000;

/// The config keys that get a credential field, with the field and its length. With the plain ones they make six entries.
const SECRETS: [(&str, &str, usize); 2] = [("API_KEY", "api_key", 64), ("API_SECRET", "api_secret", 64)];
const PLAIN: [(&str, &str); 4] = [
    ("API_BASE_URL", "https://api.eu-central-1.example.com/v2/workspaces/bench"),
    ("API_VERSION", "2026-11-01"),
    ("REGION", "eu-central-1"),
    ("USER_AGENT", "bench/1.0 (+https://mcp.example.com)"),
];

/// The template of connections with tokens, its fields, and the one that is wired in place of both keys.
const TOKENS: &str = "bench-tokens";
const TOKEN_FIELDS: [&str; 4] = [ACCESS_TOKEN, "refresh_token", "client_id", "client_secret"];
const ACCESS_TOKEN: &str = "access_token";

/// The kinds of sites.
const EMBEDDED: &str = "SQLite + sealed store";
const SERVED: &str = "PostgreSQL + OpenBao";

/// Filled stores, and what is needed to ask for what is in them.
pub(crate) struct Site {
    pub name: &'static str,
    pub dir: PathBuf,
    pub config: Config,
    pub token: TokenText,
    /// As of one verdict on the token, which all answers to it share.
    pub caller: Arc<Caller>,
    /// How many instances there are.
    pub instances: usize,
    /// Those that are asked for.
    pub steps: Vec<Step>,
}

/// One instance, and where the secret of its connection lies.
#[derive(Clone)]
pub(crate) struct Step {
    pub instance: InstanceId,
    pub address: SecretAddress,
    holds: Holds,
}

/// What a connection holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holds {
    Keys,
    /// Tokens of a provider, which are due for a refresh.
    Tokens,
}

/// The stores of a site, opened in this process, with the tasks that work for them.
pub(crate) struct Opened {
    pub backends: Backends,
    pub tasks: TaskTracker,
    stop: CancellationToken,
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Site {
    /// SQLite and the sealed store in `dir`.
    pub(crate) async fn embedded(dir: PathBuf, instances: usize) -> Result<Self> {
        Self::fill(EMBEDDED, dir, "", (instances, instances), 0).await
    }

    /// PostgreSQL and OpenBao, reached as `stores` says in the words of the config file.
    pub(crate) async fn served(dir: PathBuf, stores: &str, instances: usize) -> Result<Self> {
        Self::fill(SERVED, dir, stores, (instances, instances), 0).await
    }

    /// Like the others, with secrets for `asked` of the instances only, spread evenly over all.
    pub(crate) async fn sampled(dir: PathBuf, stores: Option<&str>, instances: usize, asked: usize) -> Result<Self> {
        let name = if stores.is_some() { SERVED } else { EMBEDDED };
        Self::fill(name, dir, stores.unwrap_or_default(), (instances, asked), 0).await
    }

    /// Like the others, and `tokens` instances more, at the end: their access tokens are of the provider at `token_url`, all end
    /// within one minute, and are refreshed by whatever daemon reads them.
    pub(crate) async fn with_tokens(
        dir: PathBuf,
        stores: Option<&str>,
        (instances, tokens): (usize, usize),
        token_url: &str,
    ) -> Result<Self> {
        let name = if stores.is_some() { SERVED } else { EMBEDDED };
        let templates = dir.with_extension("templates");
        fs::create_dir(&templates)?;
        fs::write(templates.join("tokens.toml"), template(token_url))?;
        let more = format!(
            "{}\n[templates]\ndir = {templates:?}\n[egress]\nallow = \"127.0.0.1/32\"\n",
            stores.unwrap_or_default()
        );
        Self::fill(name, dir, &more, (instances, instances), tokens).await
    }

    async fn fill(
        name: &'static str,
        dir: PathBuf,
        settings: &str,
        (instances, asked): (usize, usize),
        tokens: usize,
    ) -> Result<Self> {
        eprintln!("filling {name} with {} instances", instances + tokens);
        fs::create_dir(&dir)?;
        let config = write_config(&dir, settings)?;
        let opened = open(&config).await?;
        let filling = Filling::begin(&opened.backends.store).await?;
        let keys = (0..instances).map(|_| filling.step(Holds::Keys));
        let mut steps: Vec<Step> = keys.chain((0..tokens).map(|_| filling.step(Holds::Tokens))).collect();
        let token = filling.write_rows(&steps, &opened.backends.store).await?;
        let tokens = steps.split_off(instances);
        let stride = instances.div_ceil(asked.max(1)).max(1);
        let instances = instances + tokens.len();
        steps = steps.into_iter().step_by(stride).chain(tokens).collect();
        filling.write_secrets(&steps, opened.backends.secrets.as_ref()).await?;
        let caller = Arc::new(filling.caller());
        Ok(Self { name, dir, config, token, caller, instances, steps })
    }

    pub(crate) fn config_file(&self) -> PathBuf {
        config_file(&self.dir)
    }

    /// The config keys of each instance.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &'static str> {
        schema_keys()
    }

    pub(crate) fn scope(&self) -> ProjectScope {
        ProjectScope { tenant: self.caller.tenant, project: self.caller.project, asked: None }
    }

    pub(crate) async fn open(&self) -> Result<Opened> {
        open(&self.config).await
    }
}

async fn open(config: &Config) -> Result<Opened> {
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let backends = backends::open(config, &Clock::System, &tasks, &stop).await?;
    Ok(Opened { backends, tasks, stop })
}

fn config_file(dir: &Path) -> PathBuf {
    dir.join("credway.toml")
}

/// Secrets stay cached for the whole run, every resolve is audited, nothing is logged but what goes wrong, and nothing is traced.
fn write_config(dir: &Path, more: &str) -> Result<Config> {
    let mut text = String::new();
    writeln!(text, "data_dir = {:?}", dir)?;
    writeln!(text, "[cache]\nsecret_ttl = \"1h\"")?;
    writeln!(text, "[grpc]\naddress = \"127.0.0.1:0\"\nsocket = {:?}", dir.join("grpc.sock"))?;
    writeln!(text, "[http]\naddress = \"127.0.0.1:0\"")?;
    writeln!(text, "[audit]\nfile = {:?}", dir.join("audit.jsonl"))?;
    writeln!(text, "[telemetry]\nlog_level = \"warn\"\ntrace_sample_ratio = 0.0")?;
    writeln!(text, "{more}")?;
    fs::write(config_file(dir), text)?;
    let sources = Sources { file: Some(config_file(dir)), environment: Vec::new(), flags: Vec::new() };
    Ok(load::load(&sources).map_err(|mistakes| anyhow!("{mistakes}"))?.config)
}

/// One tenant with one project and one server, of which every instance is.
struct Filling {
    tenant: TenantRecord,
    project: ProjectRecord,
    server: McpServer,
}

impl Filling {
    async fn begin(store: &Store) -> Result<Self> {
        let tenant = TenantRecord { id: TenantId::generate(), slug: "bench".parse()?, name: "Bench".into() };
        let project =
            ProjectRecord { id: ProjectId::generate(), tenant: tenant.id, slug: "main".parse()?, name: "Main".into() };
        let server = McpServer {
            id: ServerId::generate(),
            tenant: Some(tenant.id),
            service: "bench".parse()?,
            name: "Bench".into(),
            canonical_url: "https://mcp.example.com/bench".parse()?,
            config_schema: schema(),
            required_scopes: Vec::new(),
        };
        let mut tx = store.begin().await?;
        tx.tenant_insert(&tenant).await?;
        tx.project_insert(&project).await?;
        tx.server_put(tenant.id, &server).await?;
        tx.commit().await?;
        Ok(Self { tenant, project, server })
    }

    fn caller(&self) -> Caller {
        Caller {
            subject: Subject::Token(TokenId::generate()),
            tenant: self.tenant.id,
            project: Some(self.project.id),
            role: Role::Contributor,
            scopes: [Scope::McpExecute, Scope::McpRead].into_iter().collect(),
            binding: None,
            expires_at: None,
        }
    }

    fn step(&self, holds: Holds) -> Step {
        let address = SecretAddress {
            tenant: self.tenant.slug.clone(),
            project: self.project.slug.clone(),
            connection: ConnectionId::generate(),
            source: SecretSource::Stored,
        };
        Step { instance: InstanceId::generate(), address, holds }
    }

    async fn write_secrets(&self, steps: &[Step], secrets: &dyn SecretStore) -> Result<()> {
        let tokens = steps.iter().filter(|step| step.holds == Holds::Tokens).count();
        let write = async |(nth, step): (usize, &Step)| {
            // Those with tokens come last.
            let fields = match step.holds {
                Holds::Keys => key_fields(),
                Holds::Tokens => token_fields((steps.len() - nth) as f64 / tokens as f64),
            };
            secrets.write(&step.address, &fields, 0).await.map(drop)
        };
        let writes = stream::iter(steps.iter().enumerate()).map(write);
        writes.buffer_unordered(WRITES_AT_ONCE).try_for_each(async |()| Ok(())).await?;
        Ok(())
    }

    /// Everything but the secrets; answers the token by which it may be resolved.
    async fn write_rows(&self, steps: &[Step], store: &Store) -> Result<TokenText> {
        for (batch, steps) in steps.chunks(ROWS_PER_TRANSACTION).enumerate() {
            let mut tx = store.begin().await?;
            for (at, step) in steps.iter().enumerate() {
                self.write_instance(&mut tx, step, batch * ROWS_PER_TRANSACTION + at).await?;
            }
            tx.commit().await?;
        }
        let mut tx = store.begin().await?;
        let token = TokenText::generate()?;
        tx.token_insert(&self.token_record(&token)).await?;
        tx.commit().await?;
        Ok(token)
    }

    async fn write_instance(&self, tx: &mut Tx, step: &Step, number: usize) -> Result<()> {
        tx.connection_insert(&self.project, &connection(step, number)).await?;
        let profile = profile(step);
        let instance = InstanceRecord {
            id: step.instance,
            name: format!("bench-{number:05}").parse().context("a name of letters and digits")?,
            server: self.server.id,
            active_profile: None,
        };
        tx.instance_insert(&self.project, &instance).await?;
        tx.profile_insert(&self.project, step.instance, &profile).await?;
        tx.instance_set_active(&self.project, step.instance, Some(profile.id)).await?;
        Ok(())
    }

    fn token_record(&self, token: &TokenText) -> TokenRecord {
        let caller = self.caller();
        TokenRecord {
            id: TokenId::generate(),
            tenant: caller.tenant,
            project: caller.project,
            instance: None,
            name: "bench".into(),
            shown_prefix: token.shown_prefix().to_owned(),
            hash: token.hash(),
            role: caller.role,
            scopes: caller.scopes,
            created_at: Clock::System.now(),
            expires_at: None,
            revoked_at: None,
            last_used_at: None,
        }
    }
}

fn key_fields() -> SecretFields {
    SECRETS.iter().map(|(_, name, length)| ((*name).to_owned(), "x".repeat(*length).into())).collect()
}

/// Tokens that are due, as an hour's tokens are in their last quarter; they end at this part of one minute.
fn token_fields(part: f64) -> SecretFields {
    const LEFT_MIN: Duration = Duration::from_secs(13 * 60);
    const APART_MAX: Duration = Duration::from_secs(60);
    let ends_at = Clock::System.now() + LEFT_MIN + APART_MAX.mul_f64(part);
    let obtained_at = ends_at - Duration::from_secs(TOKEN_SECONDS);
    let state = TokenState { generation: 1, obtained_at, expires_at: Some(ends_at), ..TokenState::none() };
    let fields = TOKEN_FIELDS.iter().map(|name| ((*name).to_owned(), "x".repeat(64).into()));
    let mut fields: SecretFields = fields.collect();
    state.put(&mut fields);
    fields
}

/// The template of connections with tokens.
fn template(token_url: &str) -> String {
    format!(
        r#"
name = "{TOKENS}"
display_name = "The bench's provider"
provider = "bench"
auth_kind = "oauth2"
fields = [
  {{ name = "{ACCESS_TOKEN}", label = "Access token" }},
  {{ name = "refresh_token", label = "Refresh token" }},
  {{ name = "client_id", label = "Client ID", secret = false }},
  {{ name = "client_secret", label = "Client secret" }},
]

[oauth]
authorize_url = "{token_url}"
token_url = "{token_url}"
rotation = {{ kind = "old_dies" }}
"#
    )
}

fn schema_keys() -> impl Iterator<Item = &'static str> {
    SECRETS.iter().map(|(key, ..)| *key).chain(PLAIN.iter().map(|(key, _)| *key))
}

fn schema() -> ConfigSchema {
    let field =
        |secret| ConfigField { kind: ValueType::String, display_name: None, required: true, default: None, secret };
    let secrets = SECRETS.iter().map(|(key, ..)| ((*key).to_owned(), field(true)));
    secrets.chain(PLAIN.iter().map(|(key, _)| ((*key).to_owned(), field(false)))).collect()
}

fn connection(step: &Step, number: usize) -> Connection {
    let (template, fields) = match step.holds {
        Holds::Keys => ("generic-api-key", SECRETS.iter().map(|(_, field, _)| (*field).to_owned()).collect()),
        Holds::Tokens => (TOKENS, TOKEN_FIELDS.map(str::to_owned).into()),
    };
    Connection {
        id: step.address.connection,
        name: format!("Bench {number:05}"),
        template: template.into(),
        provider: "bench".into(),
        service: None,
        account_label: None,
        fields,
        source: SecretSource::Stored,
        environment: None,
        services: None,
        status: Status { state: ConnectionState::Active, reason: None, since: Clock::System.now() },
        version: 1,
    }
}

fn profile(step: &Step) -> ConfigProfile {
    let values = PLAIN.iter().map(|(key, value)| ((*key).to_owned(), ConfigValue::String((*value).to_owned())));
    let wire = |(key, field, _): &(&str, &str, usize)| {
        let field = if step.holds == Holds::Tokens { ACCESS_TOKEN } else { field };
        let wire = Wire { connection: step.address.connection, credential: field.to_owned() };
        ((*key).to_owned(), wire)
    };
    ConfigProfile {
        id: ProfileId::generate(),
        name: "default".into(),
        values: values.collect(),
        source_spec: SECRETS.iter().map(wire).collect::<BTreeMap<String, Wire>>(),
        version: 1,
    }
}
