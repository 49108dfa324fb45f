//! An MCP process: it asks a daemon for its config over HTTP, as the SDKs do.

use std::net::SocketAddr;

use credway::grpc::proto::{IssueRunTokenRequest, IssueRunTokenResponse};
use reqwest::RequestBuilder;
use serde_json::{Value, json};
use tonic::Status;

use super::sidecar::{Client, Sidecar};

/// What a process knows: where its daemon is, and its token.
pub(crate) struct Process {
    http: reqwest::Client,
    url: String,
    token: Option<String>,
}

/// What it is told.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) text: String,
}

impl Process {
    pub(crate) fn of(sidecar: &Sidecar, token: &str) -> Self {
        Self::at(sidecar.addresses().http.unwrap(), Some(token))
    }

    pub(crate) fn at(address: SocketAddr, token: Option<&str>) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { http, url: format!("http://{address}/mcp/config"), token: token.map(str::to_owned) }
    }

    /// Asks for its key and its region, and says nothing of itself.
    pub(crate) async fn ask(&self) -> Told {
        self.ask_for(&json!({ "config_schema": { "API_KEY": { "type": "string", "required": true }, "REGION": {} } }))
            .await
    }

    pub(crate) async fn ask_for(&self, body: &Value) -> Told {
        self.send(self.request().body(body.to_string())).await
    }

    pub(crate) fn request(&self) -> RequestBuilder {
        let request = self.http.post(&self.url);
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    pub(crate) async fn send(&self, request: RequestBuilder) -> Told {
        let answer = request.send().await.unwrap();
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        Told { status, headers, text: answer.text().await.unwrap() }
    }
}

impl Told {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("{self:?}"))
    }

    /// The key that it was given.
    #[track_caller]
    pub(crate) fn key(&self) -> String {
        assert_eq!(self.status, 200, "{self:?}");
        self.json()["config"]["API_KEY"].as_str().unwrap().to_owned()
    }

    /// Status and reason of a refusal.
    pub(crate) fn refusal(&self) -> (u16, String) {
        (self.status, self.json()["reason"].as_str().unwrap_or_default().to_owned())
    }
}

/// The request for a run token of one step.
pub(crate) fn issuing(instance: &str, workflow: &str, step: &str) -> IssueRunTokenRequest {
    IssueRunTokenRequest {
        instance_id: instance.to_owned(),
        workflow_id: workflow.to_owned(),
        step: step.to_owned(),
        ..Default::default()
    }
}

pub(crate) async fn issue(client: &mut Client, request: IssueRunTokenRequest) -> Result<IssueRunTokenResponse, Status> {
    Ok(client.issue_run_token(request).await?.into_inner())
}
