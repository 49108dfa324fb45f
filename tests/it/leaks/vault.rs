//! The same on PostgreSQL and a Vault, and a Vault that is sealed, denies, answers with secrets of its own, or redirects.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use credway::model::template::Template;
use credway::templates::Catalogue;
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio_util::task::AbortOnDropHandle;

use super::embedded::{Stage, is_told, loud};
use crate::support::daemon::{Daemon, key_of, lent, on_servers, on_servers_by_app_role, refused, resolve};
use crate::support::openbao::Bao;
use crate::support::otlp::Collector;
use crate::support::postgres::{LOCKED, Postgres};

/// A database whose owner must give a password, a canary.
async fn behind_a_password(postgres: &Postgres, stage: &mut Stage) -> (String, String) {
    let password = stage.canaries.hatch_plain("the database password");
    let owned = postgres.database().await;
    let mut owner = PgConnection::connect(&owned).await.unwrap();
    let name = owned.rsplit('/').next().unwrap();
    for statement in [
        format!("CREATE ROLE {LOCKED} LOGIN PASSWORD '{password}'"),
        format!("ALTER DATABASE {name} OWNER TO {LOCKED}"),
        format!("GRANT ALL ON SCHEMA public TO {LOCKED}"),
    ] {
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut owner).await.unwrap();
    }
    (owned.clone(), postgres.url(&format!("{LOCKED}:{password}"), name))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_on_postgres_and_openbao_shows_secrets_in_answers_only() {
    let (mut stage, collector) = (Stage::new(), Collector::start().await);
    let (postgres, bao) = (Postgres::own().await, Bao::own().await);
    let (owned, url) = behind_a_password(&postgres, &mut stage).await;
    let (mut settings, _) = on_servers_by_app_role(&stage.home, &url, &bao).await;
    stage.canaries.adopt("the secret id", std::fs::read(stage.home.path("secret-id")).unwrap());
    settings.extend(loud(&collector));
    settings.push(("cache.secret_ttl", "0s".to_owned()));
    stage.home.config(&lent(&settings));
    stage.declare();
    stage.apply().await;
    stage.disable_and_delete().await;
    let daemon = stage.home.start().await;
    stage.call_everything(&daemon).await;
    stage.look_at(&daemon).await;
    bao.seal().await;
    resolve_all_in_vain(&mut stage, &daemon, "SECRET_STORE_UNAVAILABLE").await;
    daemon.until_readiness(503).await;
    stage.look_at(&daemon).await;
    bao.unseal().await;
    stage.close(daemon, &collector).await;

    let mut owner = PgConnection::connect(&owned).await.unwrap();
    sqlx::raw_sql("CHECKPOINT").execute(&mut owner).await.unwrap();
    stage.evidence.add_files(&postgres.data(), &[]);
    assert!(
        String::from_utf8_lossy(&stage.evidence.of(&postgres.data().display().to_string())).contains("profileless")
    );
    stage.canaries.are_in_none_of(&stage.evidence);
}

async fn resolve_all_in_vain(stage: &mut Stage, daemon: &Daemon, reason: &str) {
    let mut client = daemon.client(&stage.home.token()).await;
    // The blank one asks for nothing that could be missing.
    let asks = |template: &&Template| is_told(template) && !template.fields.is_empty();
    for template in Catalogue::built_in().iter().filter(asks) {
        let status = resolve(&mut client, &template.name).await.unwrap_err();
        assert_eq!(refused(&status).reason, reason);
        stage.evidence.add_status(&template.name, &status);
    }
}

#[tokio::test]
async fn a_database_password_that_is_wrong_or_malformed_is_not_shown() {
    let mut stage = Stage::new();
    let (postgres, bao) = (Postgres::own().await, Bao::shared().await);
    let (_, url) = behind_a_password(&postgres, &mut stage).await;
    let wrong = stage.canaries.hatch_plain("a wrong password");
    let right = url.split([':', '@']).nth(2).unwrap();
    let (config, manifest) = (stage.home.text("credway.toml"), stage.home.text("manifest.yaml"));
    stage.home.manifest(&[("a", "key-a")]);
    let refused = url.replace(right, &wrong);
    let malformed = url.replace(&postgres.port().to_string(), "port");
    let mistyped = format!("{url}?pasword={wrong}&sslmod={wrong}");
    for (url, is_usable) in [(refused, false), (malformed.clone(), false), (mistyped, true)] {
        let mut settings = on_servers(&stage.home, &url, bao).await;
        settings.push(("telemetry.log_level", "trace".to_owned()));
        stage.home.config(&lent(&settings));
        if is_usable {
            stage.run(&["apply", "--config", &config, "--file", &manifest]).await.ok();
        }
        stage.run(&["config", "show", "--sources", "--config", &config]).await;
        if url == malformed {
            stage.run(&["serve", "--config", &config]).await.refused(2, &["CONFIG", "is not a database URL"]);
        } else {
            let mut daemon = stage.home.start_unready().await;
            stage.look_at(&daemon).await;
            assert!(daemon.stop().await.success());
            stage.evidence.add("the log", daemon.log());
        }
    }
    stage.canaries.are_in_none_of(&stage.evidence);
}

/// What a false Vault answers to reads of secrets; everything else goes on to the true one.
type Answer = Arc<dyn Fn(&Uri) -> Response + Send + Sync>;

#[derive(Clone)]
struct FalseVault {
    truth: String,
    answer: Arc<Mutex<Option<Answer>>>,
    tokens: Arc<Mutex<Vec<String>>>,
    http: reqwest::Client,
}

impl FalseVault {
    /// Listens, and passes all on to `truth` until it is told an answer.
    async fn before(truth: &str) -> (Self, String, AbortOnDropHandle<()>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let vault = Self { truth: truth.to_owned(), answer: Arc::default(), tokens: Arc::default(), http };
        let router = Router::new().fallback(Self::serve).with_state(vault.clone());
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        (vault, url, AbortOnDropHandle::new(server))
    }

    fn answer_with(&self, answer: impl Fn(&Uri) -> Response + Send + Sync + 'static) {
        *self.answer.lock().unwrap() = Some(Arc::new(answer));
    }

    fn tokens(&self) -> Vec<String> {
        self.tokens.lock().unwrap().clone()
    }

    async fn serve(State(vault): State<Self>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
        if let Some(token) = headers.get("x-vault-token") {
            vault.tokens.lock().unwrap().push(token.to_str().unwrap().to_owned());
        }
        let answer = vault.answer.lock().unwrap().clone();
        match answer {
            Some(answer) if uri.path().contains("/data/") => answer(&uri),
            _ => {
                let request = vault.http.request(method, format!("{}{uri}", vault.truth)).body(body);
                let mut headers = headers;
                headers.remove("host");
                let reply = request.headers(headers).send().await.unwrap();
                (reply.status(), reply.bytes().await.unwrap()).into_response()
            }
        }
    }
}

#[tokio::test]
async fn what_a_vault_answers_is_never_shown_and_its_redirects_are_not_followed() {
    let (mut stage, collector, bao) = (Stage::new(), Collector::start().await, Bao::shared().await);
    let (vault, url, _server) = FalseVault::before(bao.url()).await;
    let (target, target_url, _target) = FalseVault::before(bao.url()).await;
    let mut settings = on_servers(&stage.home, &Postgres::fresh_database().await, bao).await;
    settings.extend(loud(&collector));
    settings.extend([("secret_store.vault.address", url), ("cache.secret_ttl", "0s".to_owned())]);
    stage.canaries.adopt("our Vault token", bao.root_token());
    stage.home.config(&lent(&settings));
    let said = stage.canaries.hatch_plain("the words of the Vault");
    let names = ["a", "b", "c", "d", "e", "f", "g"];
    stage.home.manifest(&names.map(|name| (name, "key")));
    stage.home.apply().await.ok();
    let daemon = stage.home.start().await;
    let mut client = daemon.client(&stage.home.token()).await;
    assert_eq!(key_of(&mut client, "a").await.unwrap(), "key");
    let before = vault.tokens().len();

    let errors = json!({ "errors": [said], "warnings": [said] }).to_string();
    let typed = json!({ "data": { "data": { "api_key": [said] }, "metadata": { "version": 1 } } }).to_string();
    let cut_off = format!(r#"{{"data":{{"data":{{"api_key":"{said}"#);
    let answers = [
        (StatusCode::FORBIDDEN, errors.clone(), "SECRET_UNREADABLE"),
        (StatusCode::INTERNAL_SERVER_ERROR, errors.clone(), "SECRET_STORE_UNAVAILABLE"),
        (StatusCode::SERVICE_UNAVAILABLE, errors, "SECRET_STORE_UNAVAILABLE"),
        (StatusCode::OK, format!("<html>{said}</html>"), "SECRET_STORE_UNAVAILABLE"),
        (StatusCode::OK, typed, "SECRET_UNREADABLE"),
        (StatusCode::OK, cut_off, "SECRET_STORE_UNAVAILABLE"),
    ];
    let mut reasons = Vec::new();
    for (name, (status, body, reason)) in names.iter().zip(answers) {
        vault.answer_with(move |_| (status, body.clone()).into_response());
        let refusal = resolve(&mut client, name).await.unwrap_err();
        reasons.push((status, refused(&refusal).reason, reason));
        stage.evidence.add_status("a Vault's words", &refusal);
    }
    for (status, found, expected) in reasons {
        assert_eq!(found, expected, "after {status}");
    }

    vault.answer_with(move |uri| {
        (StatusCode::TEMPORARY_REDIRECT, [("location", format!("{target_url}{uri}"))]).into_response()
    });
    let refusal = resolve(&mut client, "g").await.unwrap_err();
    assert_eq!(refused(&refusal).reason, "SECRET_STORE_UNAVAILABLE");
    stage.evidence.add_status("a redirect", &refusal);
    assert!(vault.tokens().len() > before);
    assert_eq!(target.tokens(), Vec::<String>::new(), "the token followed the redirect");
    stage.look_at(&daemon).await;
    drop(client);
    let mut daemon = daemon;
    assert!(daemon.stop().await.success());
    stage.evidence.add("the log", daemon.log());
    stage.canaries.are_in_none_of(&stage.evidence);
}
