//! MCP servers that nobody here wrote, each a process of its own on a free port of this machine.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use tokio::net::TcpStream;

use super::openbao::{free_port, until};
use super::tools::{node_module, tool};

/// A running server. Dropped, it is killed.
pub(crate) struct McpProcess {
    child: Child,
    pub(crate) url: String,
}

impl McpProcess {
    /// npm's `@modelcontextprotocol/server-everything`, with sessions.
    pub(crate) async fn everything() -> Self {
        let port = free_port();
        let script = node_module("@modelcontextprotocol/server-everything/dist/index.js");
        let mut command = Command::new("node");
        command.arg(script).arg("streamableHttp").env("PORT", port.to_string());
        Self::start(command, port).await
    }

    /// PyPI's `fastmcp`, with two tools.
    pub(crate) async fn fastmcp() -> Self {
        let port = free_port();
        let mut command = Command::new(tool("python"));
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/mcp_server.py")).arg(port.to_string());
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        Self::start(command, port).await
    }

    async fn start(mut command: Command, port: u16) -> Self {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let server = Self { child, url: format!("http://127.0.0.1:{port}/mcp") };
        until("the MCP server listens", async || TcpStream::connect(("127.0.0.1", port)).await.is_ok()).await;
        server
    }
}

impl Drop for McpProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
