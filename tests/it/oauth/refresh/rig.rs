//! A provider, a secret store, and daemons that share connections to it.

use std::time::Duration;

use credway::clock::Clock;
use credway::grpc::proto::{ReportCredentialRejectedRequest, ReportCredentialRejectedResponse};
use credway::limits;
use credway::model::oauth::{TOKEN_STATE_FIELD, TokenState};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::RwLock;

use crate::support::daemon::{Client, Daemon, Home, Refused, key_of, lent, refused};
use crate::support::gate::Gate;
use crate::support::oidc::{ClientProof, Minted, Oidc};
use crate::support::openbao::Bao;

/// The life that is told of each first token.
const LIFE: Duration = Duration::from_secs(3600);

/// Tests that measure how long something takes share it; one that takes the whole machine has it alone.
pub(super) static MACHINE: RwLock<()> = RwLock::const_new(());

/// How long a token may be waited for.
const PATIENCE: Duration = Duration::from_secs(150);

/// Connections `c0`, `c1`, … of one project, each wired to an instance of the same name.
pub(super) struct Site<'a> {
    bao: &'a Bao,
    /// Before the provider's token endpoint, open at first.
    pub(super) gate: Gate,
    pub(super) minted: Vec<Minted>,
    mount: String,
    /// The settings of every daemon of the site.
    settings: Vec<(&'static str, String)>,
    home: Home,
}

/// A daemon with a home of its own.
pub(super) struct Sidecar {
    pub(super) home: Home,
    pub(super) daemon: Daemon,
    pub(super) client: Client,
}

pub(super) async fn provider() -> Oidc {
    let oidc = Oidc::start().await;
    oidc.client("app", ClientProof::Post("secret"), "http://127.0.0.1:9/oauth/callback").await;
    oidc
}

impl<'a> Site<'a> {
    /// With a provider that does what `rotation` says, as TOML, in a database at `url`; SQLite where there is none.
    pub(super) async fn new(oidc: &Oidc, bao: &'a Bao, rotation: &str, url: Option<String>, count: usize) -> Self {
        let gate = Gate::before(oidc.issuer(), "POST /token ").await;
        gate.open();
        let (home, mount) = (Home::new(), bao.fresh_mount().await);
        std::fs::create_dir(home.path("templates")).unwrap();
        home.write("templates/idp.toml", template(&gate, oidc.issuer(), rotation));
        let token_file = home.write("vault-token", bao.root_token());
        let settings = vec![
            ("database.url", url.unwrap_or_else(|| format!("sqlite:{}", home.text("credway.db")))),
            ("secret_store.kind", "vault".to_owned()),
            ("secret_store.vault.address", bao.url().to_owned()),
            ("secret_store.vault.mount", mount.clone()),
            ("secret_store.vault.auth.method", "token_file".to_owned()),
            ("secret_store.vault.auth.token_file", token_file.display().to_string()),
            ("templates.dir", home.text("templates")),
            ("egress.allow", "127.0.0.1/32".to_owned()),
            ("grpc.call_deadline", "10s".to_owned()),
            ("telemetry.log_level", "info,credway=debug".to_owned()),
        ];
        let minted = oidc.mint_many("app", "ann", "openid offline_access", count).await;
        let site = Self { bao, gate, minted, mount, settings, home };
        site.home.config(&lent(&site.settings));
        site.home.write("manifest.yaml", site.manifest());
        site.home.apply().await.ok();
        site
    }

    /// Starts a daemon, its settings changed.
    pub(super) async fn sidecar(&self, change: &[(&'static str, &str)]) -> Sidecar {
        let home = Home::new();
        home.config(&[lent(&self.settings).as_slice(), change].concat());
        let daemon = home.start().await;
        let client = daemon.client(&self.home.token()).await;
        Sidecar { home, daemon, client }
    }

    /// The token of callers.
    pub(super) fn token(&self) -> String {
        self.home.token()
    }

    /// Tells of every connection's token that it lives for so much longer.
    pub(super) async fn tokens_live(&self, left: Duration) {
        let now = Clock::System.now();
        for id in self.connections().await {
            self.token_lives(&id, now + left - LIFE, now + left).await;
        }
    }

    /// Tells of the connections' tokens that they are to be refreshed one after the other: the first `first` from now, all within
    /// `span`. They live for so short a time that no chance spreads them further.
    pub(super) async fn tokens_fall_due(&self, first: Duration, span: Duration) {
        let (now, ids) = (Clock::System.now(), self.connections().await);
        let apart = span / u32::try_from(ids.len()).unwrap();
        for (nth, id) in (0..).zip(&ids) {
            let due = now + first + apart * nth;
            self.token_lives(id, due - limits::REFRESH_RESERVE, due + limits::REFRESH_RESERVE).await;
        }
    }

    async fn token_lives(&self, id: &str, obtained_at: Timestamp, expires_at: Timestamp) {
        let state = TokenState { obtained_at, expires_at: Some(expires_at), ..TokenState::none() };
        self.state_is(id, |generation| TokenState { generation, ..state }).await;
    }

    /// Counts a connection's tokens as the next ones, as a daemon does that was not heard of yet.
    pub(super) async fn token_is_next(&self, id: &str, left: Duration) {
        let now = Clock::System.now();
        let state = TokenState { obtained_at: now + left - LIFE, expires_at: Some(now + left), ..TokenState::none() };
        self.state_is(id, |generation| TokenState { generation: generation + 1, ..state }).await;
    }

    async fn state_is(&self, id: &str, state: impl FnOnce(u64) -> TokenState) {
        let path = self.secret(id);
        let held = self.bao.must("GET", &path, Value::Null).await;
        let mut fields = held["data"]["data"].clone();
        let state = state(self.generation(&fields).unwrap_or(1));
        fields[TOKEN_STATE_FIELD] = serde_json::to_string(&state).unwrap().into();
        let cas = held["data"]["metadata"]["version"].clone();
        self.bao.must("POST", &path, json!({ "data": fields, "options": { "cas": cas } })).await;
    }

    fn secret(&self, id: &str) -> String {
        format!("{}/data/credway/acme/pay/connections/{id}", self.mount)
    }

    /// What lies in the secret of the first connection.
    pub(super) async fn fields(&self) -> Value {
        self.fields_of(&self.connections().await.remove(0)).await
    }

    /// What lies in the secret of a connection.
    pub(super) async fn fields_of(&self, id: &str) -> Value {
        self.bao.must("GET", &self.secret(id), Value::Null).await["data"]["data"].clone()
    }

    /// What the secret store answers to who reads the secret of a connection.
    pub(super) async fn answer(&self, id: &str) -> String {
        self.bao.must("GET", &self.secret(id), Value::Null).await.to_string()
    }

    pub(super) fn generation(&self, fields: &Value) -> Option<u64> {
        let state: TokenState = serde_json::from_str(fields[TOKEN_STATE_FIELD].as_str()?).unwrap();
        Some(state.generation)
    }

    /// The ids of all connections.
    pub(super) async fn connections(&self) -> Vec<String> {
        let path = format!("{}/metadata/credway/acme/pay/connections", self.mount);
        let listed = self.bao.must("LIST", &path, Value::Null).await;
        let keys = listed["data"]["keys"].as_array().unwrap().iter().map(|key| key.as_str().unwrap().to_owned());
        // The project's own key lies at the id of no connection.
        keys.filter(|key| !key.ends_with(&"0".repeat(32))).collect()
    }

    /// The id of each connection, in the order of their names.
    pub(super) async fn ids(&self) -> Vec<String> {
        let mut ids = vec![String::new(); self.minted.len()];
        for id in self.connections().await {
            let fields = self.fields_of(&id).await;
            let nth = self.minted.iter().position(|minted| fields["refresh_token"] == *minted.refresh_token);
            ids[nth.unwrap()] = id;
        }
        ids
    }

    /// The name by which a gate before OpenBao knows connections' secrets.
    pub(super) fn secrets(&self) -> String {
        format!("/v1/{}/data/credway/acme/pay/connections/", self.mount)
    }

    fn manifest(&self) -> String {
        let connection = |(nth, minted): (usize, &Minted)| {
            let credentials = json!({
                "access_token": { "value": minted.access_token },
                "refresh_token": { "value": minted.refresh_token },
                "client_id": { "value": "app" },
                "client_secret": { "value": "secret" },
            });
            json!({ "name": format!("c{nth}"), "template": "idp", "credentials": credentials })
        };
        let instance = |nth: usize| {
            let wiring = json!({ "API_KEY": { "connection": format!("c{nth}"), "credential": "access_token" } });
            let profile = json!({ "name": "default", "wiring": wiring });
            json!({ "name": format!("c{nth}"), "server": "echo", "active": "default", "profiles": [profile] })
        };
        let field = json!({ "type": "string", "required": true, "secret": true });
        let scopes = ["mcp:execute", "mcp:read", "mcp:write"];
        let project = json!({
            "project": "pay",
            "servers": [{ "service": "echo", "url": "https://mcp.example.com/echo", "config": { "API_KEY": field } }],
            "connections": self.minted.iter().enumerate().map(connection).collect::<Vec<_>>(),
            "instances": (0..self.minted.len()).map(instance).collect::<Vec<_>>(),
            "tokens": [{ "name": "tests", "role": "project_contributor", "scopes": scopes, "file": "token" }],
        });
        json!({ "tenant": "acme", "projects": [project] }).to_string()
    }
}

impl Sidecar {
    /// The access token that an instance resolves to.
    pub(super) async fn token(&self, instance: &str) -> Result<String, Refused> {
        key_of(&mut self.client.clone(), instance).await
    }

    /// The same, asked for again while it is to be.
    pub(super) async fn token_in_time(&self, instance: &str) -> String {
        let began = tokio::time::Instant::now();
        loop {
            match self.token(instance).await {
                Ok(token) => return token,
                Err(Refused { retry: Some(pause), .. }) if began.elapsed() < PATIENCE => {
                    tokio::time::sleep(pause.min(Duration::from_millis(500))).await;
                }
                // Five daemons and their servers share this machine.
                Err(Refused { reason, .. }) if reason == "DEADLINE_EXCEEDED" && began.elapsed() < PATIENCE => {}
                Err(refused) => panic!("{instance}: {refused:?}"),
            }
        }
    }

    pub(super) async fn report(&self, connection: &str, version: u64) -> ReportCredentialRejectedResponse {
        let request = ReportCredentialRejectedRequest { connection_id: connection.to_owned(), secret_version: version };
        let told = self.client.clone().report_credential_rejected(request).await;
        told.map_err(|status| refused(&status)).unwrap().into_inner()
    }
}

/// People go to the provider itself, and only tokens are asked for through the gate.
fn template(gate: &Gate, issuer: &str, rotation: &str) -> String {
    let url = &gate.url;
    format!(
        r#"
name = "idp"
display_name = "The tests' provider"
provider = "idp"
auth_kind = "oauth2"
fields = [
  {{ name = "access_token", label = "Access token" }},
  {{ name = "refresh_token", label = "Refresh token", required = false }},
  {{ name = "client_id", label = "Client ID", secret = false, required = false }},
  {{ name = "client_secret", label = "Client secret", required = false }},
]

[oauth]
authorize_url = "{issuer}/auth"
token_url = "{url}token"
scopes = ["openid", "offline_access"]
authorize_params = {{ prompt = "consent" }}
rotation = {rotation}
"#
    )
}

/// How long ago that was, in whole seconds.
pub(super) fn seconds(began: tokio::time::Instant) -> u64 {
    began.elapsed().as_secs()
}
