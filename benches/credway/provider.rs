//! A provider's token endpoint, this binary started again: it gives new tokens to whoever asks, at once.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::echo::write_whole;
use crate::process::{Reached, Server};

const ARGUMENT: &str = "token-endpoint";

/// How long tokens live, as providers of an hour say it.
pub(crate) const TOKEN_SECONDS: u64 = 3600;

/// A running endpoint.
pub(crate) struct Provider {
    pub server: Server,
    pub token_url: String,
}

impl Provider {
    pub(crate) fn start(dir: &Path) -> Result<Self> {
        let ready_file = dir.join(ARGUMENT).with_extension("ready");
        // Of one that ran before.
        let _ = fs::remove_file(&ready_file);
        let mut command = Command::new(std::env::current_exe()?);
        let mut server = Server::spawn(command.arg(ARGUMENT).arg(&ready_file))?;
        let address = server.reached(&ready_file)?.http.context("the token endpoint names no address")?;
        Ok(Self { server, token_url: format!("http://{address}/token") })
    }
}

/// What the binary does when it was started as a token endpoint: serves until it is killed. `None` if it was not.
pub(crate) fn role(arguments: &[String]) -> Option<Result<()>> {
    match arguments {
        [argument, ready_file] if argument == ARGUMENT => Some(serve(Path::new(ready_file))),
        _ => None,
    }
}

fn serve(ready_file: &Path) -> Result<()> {
    // Not to outlive a bench that was killed.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let http = Some(listener.local_addr()?.to_string());
        write_whole(ready_file, &serde_json::to_vec(&Reached { http, ..Reached::default() })?)?;
        let routes = Router::new().route("/token", post(token)).with_state(Arc::new(AtomicU64::new(0)));
        Ok(axum::serve(listener, routes).await?)
    })
}

/// Tokens that nobody had before, as long as the keys of the other connections.
async fn token(State(given): State<Arc<AtomicU64>>) -> Json<Value> {
    let number = given.fetch_add(1, Ordering::Relaxed);
    Json(json!({
        "access_token": format!("a{number:063}"),
        "refresh_token": format!("r{number:063}"),
        "token_type": "Bearer",
        "expires_in": TOKEN_SECONDS,
    }))
}
