//! Everything once on the embedded default: every template, every command, every kind of refusal, logs at TRACE, every call traced.

use std::fs;
use std::io::Write;
use std::process::Stdio;

use credway::grpc::proto::{
    BatchResolveCredentialsRequest, BatchStep, ExplainResolutionRequest, ResolveCredentialsRequest,
};
use credway::model::oauth::Grant;
use credway::model::template::{Template, TemplateField};
use credway::model::token::TokenText;
use credway::templates::Catalogue;
use data_encoding::BASE64;
use prost::Message;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tonic::Request;

use super::canary::{Canaries, Evidence};
use crate::support::daemon::{Client, Daemon, Home, Ran, finish, refused, resolve};
use crate::support::otlp::Collector;

/// A home, the canaries in it, and what came out of it.
pub(super) struct Stage {
    pub(super) home: Home,
    pub(super) canaries: Canaries,
    pub(super) evidence: Evidence,
}

/// Instances that resolve: one for each template whose credentials people give, wired to all its fields.
pub(super) fn templates() -> Vec<String> {
    let catalogue = Catalogue::built_in();
    catalogue.iter().filter(|template| is_told(template)).map(|template| template.name.clone()).collect()
}

/// Whether what is stored is what is told: leased credentials and tokens that a provider gives to a client are not.
pub(super) fn is_told(template: &Template) -> bool {
    let has_tokens_given = template.oauth.as_ref().is_none_or(|oauth| oauth.grant == Grant::AuthorizationCode);
    !template.is_leased() && has_tokens_given
}

/// Instances that are refused, and why.
const REFUSED: [(&str, &str); 5] = [
    ("wrong-typed", "CONFIG_INVALID"),
    ("incomplete", "CONFIG_INCOMPLETE"),
    ("profileless", "NO_ACTIVE_PROFILE"),
    ("disabled", "CONNECTION_DISABLED"),
    ("orphan", "CONNECTION_MISSING"),
];

impl Stage {
    pub(super) fn new() -> Self {
        Self { home: Home::new(), canaries: Canaries::default(), evidence: Evidence::default() }
    }

    /// Runs a command and keeps what it printed as evidence.
    pub(super) async fn run(&mut self, args: &[&str]) -> Ran {
        let ran = self.home.run(args).await;
        self.note(args, &ran);
        ran
    }

    pub(super) fn note(&mut self, args: &[&str], ran: &Ran) {
        self.evidence.add(format!("credway {}", args.join(" ")), format!("{}{}", ran.stdout, ran.stderr));
    }

    /// Runs a command on the stores and the project of the manifest.
    async fn on_project(&mut self, args: &[&str]) -> Ran {
        let config = self.home.text("credway.toml");
        self.run(&[args, &["--config", &config, "--project", "acme/pay"]].concat()).await
    }

    /// A file with a new canary in it.
    pub(super) fn secret_file(&mut self, place: &str) -> String {
        let canary = self.canaries.hatch(place);
        self.home.write(&place.replace(' ', "-"), canary).display().to_string()
    }

    /// A file with a new canary in a text that the field takes.
    fn field_file(&mut self, field: &TemplateField, place: &str) -> String {
        const BEGINNINGS: [&str; 7] = ["", "ghp_", "xoxb-", "pk_", "mongodb://", "neo4j://", "postgres://"];
        let canary = self.canaries.hatch(place);
        let fits = |text: &String| field.pattern.as_ref().is_none_or(|form| form.fits(text));
        let text = BEGINNINGS.iter().map(|beginning| format!("{beginning}{canary}")).find(fits);
        // A name of letters and digits.
        let text = text.unwrap_or_else(|| self.canaries.hatch_plain(place));
        self.home.write(&place.replace(' ', "-"), text).display().to_string()
    }

    /// Writes the manifest with a canary in every field of every template, and one for each way to be refused.
    pub(super) fn declare(&mut self) {
        let (mut servers, mut connections, mut instances) = (Vec::new(), Vec::new(), Vec::new());
        for template in Catalogue::built_in().iter().filter(|template| is_told(template)) {
            let name = &template.name;
            let (mut schema, mut credentials, mut wiring) = (json!({}), json!({}), json!({}));
            for field in &template.fields {
                let file = self.field_file(field, &format!("{} of {name}", field.name));
                let key = field.name.to_uppercase();
                schema[&key] = json!({ "type": "string", "required": true });
                credentials[&field.name] = json!({ "file": file });
                wiring[&key] = json!({ "connection": name, "credential": field.name });
            }
            servers.push(server(name, schema));
            connections.push(json!({ "name": name, "template": name, "credentials": credentials }));
            instances.push(instance(name, name, wiring));
        }
        for name in ["inline", "disabled", "orphan"] {
            let value = self.canaries.hatch(name);
            let credentials = json!({ "api_key": { "value": value } });
            connections.push(json!({ "name": name, "template": "generic-api-key", "credentials": credentials }));
            instances.push(instance(name, "generic-api-key", wire("API_KEY", name)));
        }
        servers.push(server("typed", json!({ "COUNT": { "type": "number", "secret": true } })));
        servers.push(server("more", json!({ "API_KEY": { "required": true }, "REGION": { "required": true } })));
        instances.push(instance("wrong-typed", "typed", wire("COUNT", "inline")));
        instances.push(instance("incomplete", "more", wire("API_KEY", "inline")));
        instances.push(json!({ "name": "profileless", "server": "more" }));
        let limited = json!({ "workflow": "limited", "environment": "sandbox", "overrides": [] });
        let label = |mut connection: Value| {
            if connection["name"] == "inline" {
                connection["environment"] = json!("production");
            }
            connection
        };
        let project = json!({
            "project": "pay",
            "servers": servers,
            "connections": connections.into_iter().map(label).collect::<Vec<_>>(),
            "instances": instances,
            "workflows": [limited],
            "tokens": [{ "name": "tests", "role": "project_admin", "scopes": ["mcp:execute", "mcp:read"], "file": "token" }],
        });
        self.home.write("manifest.yaml", json!({ "tenant": "acme", "projects": [project] }).to_string());
    }

    /// Applies the manifest three ways, and adopts what was made on the way.
    pub(super) async fn apply(&mut self) {
        let (config, manifest) = (self.home.text("credway.toml"), self.home.text("manifest.yaml"));
        self.run(&["apply", "--config", &config, "--file", &manifest, "--dry-run"]).await.ok();
        self.run(&["apply", "--config", &config, "--file", &manifest]).await.ok();
        assert!(
            self.run(&["apply", "--config", &config, "--file", &manifest]).await.ok().contains("nothing to change")
        );
        self.canaries.adopt_token("the token of the manifest", &self.home.token());
    }

    /// Makes the connections `disabled` and `orphan` what they are called.
    pub(super) async fn disable_and_delete(&mut self) {
        self.on_project(&["connection", "disable", "disabled"]).await.ok();
        self.on_project(&["connection", "delete", "orphan"]).await.refused(5, &["orphan"]);
        self.on_project(&["connection", "delete", "orphan", "--force"]).await.ok();
    }

    /// Resolves every instance both ways, and makes every kind of refusal.
    pub(super) async fn call_everything(&mut self, daemon: &Daemon) {
        let mut client = daemon.client(&self.home.token()).await;
        let mut answers = Vec::new();
        for name in templates().iter().map(String::as_str).chain(["inline"]) {
            answers.extend(resolve(&mut client, name).await.unwrap().encode_to_vec());
        }
        let served = self.canaries.caught_in(&answers);
        for template in Catalogue::built_in().iter().filter(|template| is_told(template)) {
            for field in &template.fields {
                let place = format!("{} of {}", field.name, template.name);
                assert!(served.contains(place.as_str()), "the {place} did not come out");
            }
        }
        let all: Vec<String> = templates().into_iter().chain(REFUSED.map(|(name, _)| name.to_owned())).collect();
        self.batch(&mut client, &all).await;
        for name in &all {
            let request = ExplainResolutionRequest { instance_id: name.clone(), ..Default::default() };
            let explained = client.explain_resolution(request).await.unwrap().into_inner();
            self.evidence.add(format!("the explanation of {name}"), explained.encode_to_vec());
        }
        self.be_refused(&mut client, daemon).await;
    }

    async fn batch(&mut self, client: &mut Client, names: &[String]) {
        let step = |name: &String| BatchStep { step: name.clone(), instance_id: name.clone(), ..Default::default() };
        let steps = names.iter().map(step).collect();
        let request = BatchResolveCredentialsRequest { steps, ..Default::default() };
        let answer = client.batch_resolve_credentials(request).await.unwrap().into_inner();
        for result in answer.results {
            if let Some(credway::grpc::proto::batch_result::Outcome::Refusal(refusal)) = result.outcome {
                self.evidence.add(format!("the batch refusal of {}", result.step), refusal.encode_to_vec());
            }
        }
    }

    async fn be_refused(&mut self, client: &mut Client, daemon: &Daemon) {
        for (name, reason) in REFUSED {
            let status = resolve(client, name).await.unwrap_err();
            assert_eq!(refused(&status).reason, reason);
            self.evidence.add_status(name, &status);
        }
        let limited = ResolveCredentialsRequest {
            workflow_id: "limited".to_owned(),
            instance_id: "inline".to_owned(),
            ..Default::default()
        };
        let status = client.resolve_credentials(limited).await.unwrap_err();
        assert_eq!(refused(&status).reason, "ENVIRONMENT_MISMATCH");
        self.evidence.add_status("the wrong environment", &status);
        // Secrets in places where none belongs: the caller may hear its own words again, nobody else may.
        let stray = self.canaries.hatch_plain("a stray secret");
        for request in [
            ResolveCredentialsRequest { instance_id: stray.clone(), ..Default::default() },
            ResolveCredentialsRequest { server_url: format!("https://{stray}/?k={stray}"), ..Default::default() },
            ResolveCredentialsRequest { workflow_id: stray.clone(), step: stray.clone(), ..Default::default() },
            ResolveCredentialsRequest { external_user_id: stray.clone(), ..Default::default() },
        ] {
            client.resolve_credentials(request).await.unwrap_err();
        }
        let mut stray_project = Request::new(ResolveCredentialsRequest::default());
        stray_project.metadata_mut().insert("x-project-id", stray.parse().unwrap());
        client.resolve_credentials(stray_project).await.unwrap_err();
        let unknown = TokenText::generate().unwrap();
        self.canaries.adopt_token("a token that nobody made", unknown.expose());
        for bearer in [unknown.expose(), stray.as_str(), &self.home.token()[..50]] {
            let status = resolve(&mut daemon.client(bearer).await, "inline").await.unwrap_err();
            assert_eq!(refused(&status).reason, "UNAUTHENTICATED");
            self.evidence.add_status("a wrong token", &status);
        }
    }

    /// Adds all that a daemon shows to those who look: metrics, probes, its process.
    pub(super) async fn look_at(&mut self, daemon: &Daemon) {
        for path in ["/metrics", "/readyz?verbose", "/livez", "/nowhere"] {
            self.evidence.add(path, daemon.get(path).await.1);
        }
        self.evidence.add_process("the daemon", daemon.pid());
    }

    /// Ends the daemon, then adds its log, its traces and its files.
    pub(super) async fn close(&mut self, mut daemon: Daemon, collector: &Collector) {
        assert!(daemon.stop().await.success());
        self.evidence.add("the log", daemon.log());
        let spans: Vec<u8> = collector.received().iter().flat_map(Message::encode_to_vec).collect();
        assert!(
            String::from_utf8_lossy(&spans).contains("CredentialService/BatchResolveCredentials"),
            "nothing was traced"
        );
        self.evidence.add("the traces", spans);
    }
}

fn server(name: &str, schema: Value) -> Value {
    json!({ "service": name, "url": format!("https://mcp.example.com/{name}"), "config": schema })
}

fn wire(key: &str, connection: &str) -> Value {
    json!({ key: { "connection": connection, "credential": "api_key" } })
}

fn instance(name: &str, server: &str, wiring: Value) -> Value {
    json!({ "name": name, "server": server, "active": "default", "profiles": [{ "name": "default", "wiring": wiring }] })
}

/// Settings for all to be seen: TRACE, and every call traced to `collector`.
pub(super) fn loud(collector: &Collector) -> Vec<(&'static str, String)> {
    vec![
        ("telemetry.log_level", "trace".to_owned()),
        ("telemetry.otlp_endpoint", collector.endpoint.clone()),
        ("telemetry.trace_sample_ratio", "1.0".to_owned()),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_daemon_shows_secrets_in_answers_only() {
    let (mut stage, collector) = (Stage::new(), Collector::start().await);
    stage.home.config(&crate::support::daemon::lent(&loud(&collector)));
    stage.declare();
    stage.apply().await;
    adopt_master_key(&mut stage);
    stage.disable_and_delete().await;
    let daemon = stage.home.start().await;
    stage.call_everything(&daemon).await;
    single_operations(&mut stage).await;
    client_commands(&mut stage, &daemon).await;
    a_command_that_waits(&mut stage).await;
    stage.look_at(&daemon).await;
    // Once with its write-ahead log, and once without.
    stage.evidence.add_files(&stage.home.path("data"), &["master.key"]);
    assert!(!stage.evidence.of(&stage.home.text("data/credway.db-wal")).is_empty());
    stage.run(&["key", "rotate", "--config", &stage.home.text("credway.toml")]).await.ok();
    adopt_master_key(&mut stage);
    stage.close(daemon, &collector).await;
    stage.evidence.add_files(&stage.home.path("data"), &["master.key", "master.key.retired"]);
    stage.canaries.are_in_none_of(&stage.evidence);
}

fn adopt_master_key(stage: &mut Stage) {
    let line = fs::read_to_string(stage.home.path("data/master.key")).unwrap();
    let (id, key) = line.trim().split_once(' ').unwrap();
    stage.canaries.adopt(&format!("the master key {id}"), BASE64.decode(key.as_bytes()).unwrap());
}

/// Connections and tokens one by one.
async fn single_operations(stage: &mut Stage) {
    let first = format!("api_key={}", stage.secret_file("a created key"));
    let second = format!("api_key={}", stage.secret_file("an updated key"));
    let create = ["connection", "create", "--template", "resend", "--name", "single", "--secret-file", &first];
    stage.on_project(&create).await.ok();
    stage.on_project(&create).await.refused(5, &["single"]);
    stage.on_project(&["connection", "update", "single", "--secret-file", &second]).await.ok();
    // A shop decides where the token is sent, so it alone must not change.
    let shop = format!("shop={}", stage.secret_file("another shop"));
    stage.on_project(&["connection", "update", "shopify", "--secret-file", &shop]).await.refused(2, &["token"]);
    let unknown = format!("unknown={}", stage.secret_file("a field that there is not"));
    stage.on_project(&["connection", "update", "single", "--secret-file", &unknown]).await.refused(2, &["unknown"]);
    stage.on_project(&["connection", "list"]).await.ok();
    stage.on_project(&["connection", "get", "single"]).await.ok();

    let config = stage.home.text("credway.toml");
    let create = ["token", "create", "--name", "short", "--config", &config, "--project", "acme/pay"];
    let created = stage.home.run(&create).await;
    stage.evidence.add("what `token create` says beside the token", created.stderr.clone());
    let token = created.ok().trim().to_owned();
    stage.canaries.adopt_token("the token of `token create`", &token);
    stage.on_project(&["token", "list"]).await.ok();
    stage.on_project(&["token", "revoke", "short"]).await.ok();
    // Pasted where its name belongs.
    let _ = stage.home.run(&["token", "revoke", &token, "--config", &config, "--project", "acme/pay"]).await;
}

/// What clients print when nobody asked them to reveal.
async fn client_commands(stage: &mut Stage, daemon: &Daemon) {
    let (server, token_file) = (format!("unix:{}", daemon.address("socket")), stage.home.text("token"));
    let flags = ["--server", &server, "--token-file", &token_file];
    for name in ["mysql", "generic-dsn", "inline"] {
        for how in
            [&["--format", "table"][..], &["--format", "json"], &["--explain"], &["--explain", "--format", "json"]]
        {
            stage.run(&[&["resolve", name], how, &flags].concat()).await.ok();
        }
        stage
            .run(&[&["resolve", name, "--format", "dotenv"][..], &flags].concat())
            .await
            .refused(2, &["REVEAL_NEEDED"]);
    }
    for (name, reason) in REFUSED {
        let ran = stage.run(&[&["--json", "resolve", name, "--reveal"][..], &flags].concat()).await;
        assert!(ran.stderr.contains(reason), "{ran:?}");
    }
    stage.run(&[&["healthcheck"][..], &flags].concat()).await.ok();
    let mut by_variable = stage.home.command(&["resolve", "inline", "--server", &server]);
    by_variable.env("CREDWAY_TOKEN", stage.home.token());
    let ran = finish(by_variable).await;
    stage.note(&["resolve by CREDWAY_TOKEN"], &ran);
    ran.ok();
}

/// Looks at a command while it works: one that waits for the rest of its manifest.
async fn a_command_that_waits(stage: &mut Stage) {
    let config = stage.home.text("credway.toml");
    let mut command = stage.home.command(&["apply", "--config", &config, "--file", "-"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let manifest = fs::read(stage.home.path("manifest.yaml")).unwrap();
    child.stdin.as_mut().unwrap().write_all(&manifest[..manifest.len() - 1]).unwrap();
    let command_line = || fs::read_to_string(format!("/proc/{}/cmdline", child.id())).unwrap();
    crate::support::openbao::until("setpriv has become credway", async || !command_line().starts_with("setpriv")).await;
    stage.evidence.add_process("apply", child.id());
    kill_process(Pid::from_raw(child.id().cast_signed()).unwrap(), Signal::KILL).unwrap();
    child.wait().unwrap();
}
