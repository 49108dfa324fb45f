//! An MCP client that greets a server and asks for its tools, in the protocol's older era (`initialize`) and its newer one.
//!
//! The older comes first: servers of the newer SDKs may answer `server/discover` with an error of their own config, which says
//! nothing against them, so a failure of that alone is never told.

use std::sync::Arc;

use reqwest::Client;
use rmcp::model::{ClientConfig, Implementation, JsonObject, PaginatedRequestParams, ProtocolVersion};
use rmcp::service::{ClientInitializeError, RunningService};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::common::client_side_sse::NeverRetry;
use rmcp::transport::streamable_http_client::{StreamableHttpClientTransportConfig, StreamableHttpError};
use rmcp::{ClientLifecycleMode, ClientServiceExt, RoleClient, ServiceError};
use serde_json::Value;
use tokio::time::timeout;
use url::Url;

use super::report::{Finding, Found};
use crate::limits;
use crate::model::server::McpTool;

/// A server that has answered a greeting.
pub(super) struct Greeted {
    service: RunningService<RoleClient, ClientConfig>,
    /// The version of the protocol that was agreed on.
    pub version: String,
}

/// The two ways in which the protocol begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Era {
    Older,
    Newer,
}

/// Why a greeting led to nothing.
enum Refused {
    /// It wants to know who asks.
    Unauthorized,
    Unreachable {
        is_refused: bool,
    },
    /// It answers with something else than the protocol.
    NotMcp,
    /// It speaks the protocol, and says no.
    No,
}

/// Greets the server at `url`, whose address `client` is bound to.
pub(super) async fn greet(client: &Client, url: &Url) -> Found<Greeted> {
    let older = begin(client, url, Era::Older).await;
    let newer = timeout(limits::PROBE_SECOND_ERA_DEADLINE, begin(client, url, Era::Newer));
    match older {
        Ok(greeted) => {
            let also = match newer.await {
                Ok(Ok(newer)) => {
                    let version = newer.version.clone();
                    newer.leave().await;
                    format!(", and {version} without a handshake")
                }
                Ok(Err(_)) | Err(_) => String::new(),
            };
            let reason = format!("it speaks MCP {}{also}", greeted.version);
            Ok((greeted, Finding::pass(reason)))
        }
        Err(refused @ (Refused::Unauthorized | Refused::Unreachable { .. })) => Err(refused.finding()),
        Err(refused) => match newer.await {
            Ok(Ok(greeted)) => {
                let reason = format!("it speaks MCP {}, without a handshake", greeted.version);
                Ok((greeted, Finding::pass(reason)))
            }
            Ok(Err(_)) | Err(_) => Err(refused.finding()),
        },
    }
}

async fn begin(client: &Client, url: &Url, era: Era) -> Result<Greeted, Refused> {
    let mut config = StreamableHttpClientTransportConfig::with_uri(url.as_str()).reinit_on_expired_session(false);
    config.retry_config = Arc::new(NeverRetry::default());
    let transport = StreamableHttpClientTransport::with_client(client.clone(), config);
    let ourselves = ClientConfig::new(Default::default(), Implementation::new("credway", env!("CARGO_PKG_VERSION")));
    let mode = match era {
        Era::Older => ClientLifecycleMode::Initialize,
        Era::Newer => ClientLifecycleMode::Discover { preferred_versions: vec![ProtocolVersion::LATEST] },
    };
    let begun = timeout(limits::PROBE_HANDSHAKE_DEADLINE, ourselves.serve_with_lifecycle(transport, mode)).await;
    let service = begun.map_err(|_| Refused::No)?.map_err(|error| Refused::of(&error))?;
    let version = service.peer().peer_info().map(|info| info.protocol_version.to_string()).unwrap_or_default();
    Ok(Greeted { service, version })
}

impl Greeted {
    /// All tools, page by page.
    pub(super) async fn tools(&self) -> Found<Vec<McpTool>> {
        let (mut tools, mut cursor, mut bytes) = (Vec::new(), None, 0);
        for _ in 0..limits::TOOL_PAGES_MAX {
            let asked = PaginatedRequestParams::default().with_cursor(cursor);
            let page = self.service.peer().list_tools(Some(asked)).await.map_err(|error| not_listed(&error))?;
            for tool in page.tools {
                let tool = kept(tool);
                bytes += serde_json::to_vec(&tool).map_or(0, |text| text.len());
                tools.push(tool);
            }
            if tools.len() > limits::SERVER_TOOLS_MAX || bytes > limits::SERVER_TOOLS_BYTES_MAX {
                return Err(too_many());
            }
            cursor = page.next_cursor;
            if cursor.is_none() {
                return Ok((tools, Finding::pass("listed")));
            }
        }
        Err(too_many())
    }

    /// Ends the session, if there is one.
    pub(super) async fn leave(self) {
        // A server that does not let us go forgets us by itself.
        let _ = timeout(limits::PROBE_LEAVE_DEADLINE, self.service.cancel()).await;
    }
}

fn too_many() -> Finding {
    let most = limits::SERVER_TOOLS_MAX;
    Finding::fail("TOO_MANY_TOOLS", format!("it lists more than {most} tools, or too long ones"), "split the server")
}

fn not_listed(error: &ServiceError) -> Finding {
    let reason = match error {
        ServiceError::McpError(error) => format!("it refuses to list its tools (JSON-RPC error {})", error.code.0),
        _ => "its answer is no list of tools".to_owned(),
    };
    Finding::fail("TOOLS_NOT_LISTED", reason, "see the server's log for why")
}

fn kept(tool: rmcp::model::Tool) -> McpTool {
    let schema = |schema: Arc<JsonObject>| Value::Object(Arc::unwrap_or_clone(schema));
    McpTool {
        name: tool.name.into_owned(),
        title: tool.title,
        description: tool.description.map(|text| text.into_owned()),
        input_schema: Some(schema(tool.input_schema)),
        output_schema: tool.output_schema.map(schema),
    }
}

impl Refused {
    fn of(error: &ClientInitializeError) -> Self {
        let ClientInitializeError::TransportError { error, .. } = error else { return Self::No };
        match error.error.downcast_ref::<StreamableHttpError<reqwest::Error>>() {
            Some(StreamableHttpError::AuthRequired(_) | StreamableHttpError::InsufficientScope(_)) => {
                Self::Unauthorized
            }
            Some(StreamableHttpError::Client(error)) if error.is_connect() || error.is_timeout() => {
                Self::Unreachable { is_refused: error.is_connect() }
            }
            Some(StreamableHttpError::Client(error))
                if error.status().is_some_and(|status| matches!(status.as_u16(), 401 | 403)) =>
            {
                Self::Unauthorized
            }
            Some(StreamableHttpError::UnexpectedServerResponse(text))
                if text.starts_with("HTTP 401") || text.starts_with("HTTP 403") =>
            {
                Self::Unauthorized
            }
            _ => Self::NotMcp,
        }
    }

    fn finding(&self) -> Finding {
        match self {
            Self::Unauthorized => Finding::warning(
                "it answers nobody whom it does not know (401 or 403), so that its tools cannot be listed from here",
                "let it list tools without a token, or trust that it works as it did when it was set up",
            ),
            Self::Unreachable { is_refused } => super::reach::unreachable(*is_refused),
            Self::NotMcp => Finding::fail(
                "NOT_MCP",
                "what answers there does not speak MCP over streamable HTTP",
                "give the URL of the MCP endpoint itself, which often ends in /mcp",
            ),
            Self::No => Finding::fail(
                "MCP_REFUSED",
                "it speaks JSON-RPC, but the MCP handshake failed",
                "see the server's log; its SDK may be too old or too new",
            ),
        }
    }
}
