//! The REST API as scripts meet it: over HTTP, on a daemon with real stores.

mod access;
mod connect;
mod connections;
mod conventions;
mod instances;
mod lifecycle;
mod openapi;
mod overrides;
mod resolve;
mod servers;
mod tokens;
mod validation;

use std::net::SocketAddr;

use credway::clock::Clock;
use credway::config::Config;
use credway::model::caller::{Role, Scope};
use reqwest::header::HeaderMap;
use reqwest::{Method, StatusCode};
use serde_json::Value;

use crate::support::cast::{ACME, World};
use crate::support::sidecar::Sidecar;

/// A daemon whose API is asked, and the world it works on.
pub(crate) struct Api {
    pub world: World,
    pub sidecar: Sidecar,
    pub address: SocketAddr,
    http: reqwest::Client,
}

/// What was answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Api {
    /// On SQLite and the sealed store.
    pub(crate) async fn embedded() -> Self {
        Self::of(World::sqlite(ACME).await).await
    }

    /// On PostgreSQL and OpenBao.
    pub(crate) async fn on_servers() -> Self {
        Self::of(World::postgres_and_openbao(ACME).await).await
    }

    pub(crate) async fn of(world: World) -> Self {
        Self::at(world, Clock::System).await
    }

    /// At a time of the test's own.
    pub(crate) async fn at(world: World, clock: Clock) -> Self {
        Self::changed(world, clock, |_| {}).await
    }

    /// With other settings.
    pub(crate) async fn changed(world: World, clock: Clock, change: impl FnOnce(&mut Config)) -> Self {
        let with_http = |config: &mut Config| {
            config.http.address = Some("127.0.0.1:0".parse().unwrap());
            change(config);
        };
        let sidecar = world.sidecar_with(clock, with_http).await;
        let address = sidecar.addresses().http.unwrap();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { world, sidecar, address, http }
    }

    /// A token of the first project with every scope.
    pub(crate) async fn token(&self, role: Role) -> String {
        let scopes: Vec<Scope> = Scope::ALL.iter().map(|(scope, _)| *scope).collect();
        self.world.token_with(role, &scopes, None, Some(self.world.workspace.project.id)).await
    }

    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Answer {
        let method: Method = method.parse().unwrap();
        let mut request = self.http.request(method, format!("http://{}{path}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let text = response.text().await.unwrap();
        Answer { status, headers, body: serde_json::from_str(&text).unwrap_or(Value::String(text)) }
    }

    /// As whoever has the token.
    pub(crate) async fn ask(&self, token: &str, method: &str, path: &str, body: Option<&Value>) -> Answer {
        self.send(method, path, &[("authorization", &format!("Bearer {token}"))], body).await
    }
}

impl Answer {
    /// The body of a success.
    pub(crate) fn ok(self) -> Value {
        assert!(self.status.is_success(), "{self:?}");
        self.body
    }

    /// The body of a problem with this status and code, which has what every problem has.
    pub(crate) fn problem(self, status: u16, code: &str) -> Value {
        assert_eq!((self.status.as_u16(), self.body["code"].as_str()), (status, Some(code)), "{self:?}");
        assert_eq!(self.headers["content-type"], "application/problem+json");
        assert_eq!(self.body["status"], status);
        assert_eq!(self.body["request_id"].as_str().unwrap(), self.headers["x-request-id"].to_str().unwrap());
        for key in ["type", "title", "detail", "instance", "error", "message"] {
            assert!(self.body[key].as_str().is_some_and(|text| !text.is_empty()), "{key} is missing: {:?}", self.body);
        }
        self.body
    }

    pub(crate) fn etag(&self) -> String {
        self.headers["etag"].to_str().unwrap().to_owned()
    }
}
