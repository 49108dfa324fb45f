//! The real daemon: the `credway` binary, told by a config file.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use credway::grpc::proto::ResolveCredentialsRequest;
use prost::Message;

use crate::load::Endpoint;
use crate::process::{Server, Side};
use crate::site::{Site, Step};

/// Starts it, and waits until it says that it is ready.
pub(crate) fn start(site: &Site) -> Result<Side> {
    let ready_file = site.dir.join("ready.json");
    let _ = fs::remove_file(&ready_file);
    let log = site.dir.join("daemon.log");
    let mut command = Command::new(env!("CARGO_BIN_EXE_credway"));
    command.arg("serve").arg("--config").arg(site.config_file()).arg("--ready-file").arg(&ready_file);
    // Variables of ours are settings to it, and those of the bench are none that it knows.
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log)?);
    let mut server = Server::spawn(&mut command)?;
    let reached = server.reached(&ready_file).with_context(|| said(&log))?;
    Ok(Side {
        server,
        http: reached.http,
        tcp: Endpoint::Tcp(reached.grpc.context("the daemon names no TCP address")?),
        unix: Endpoint::Unix(PathBuf::from(reached.socket.context("the daemon names no Unix socket")?)),
    })
}

/// The request for one instance, as it goes over the wire.
pub(crate) fn request(step: &Step) -> Vec<u8> {
    ResolveCredentialsRequest { instance_id: step.instance.to_string(), ..Default::default() }.encode_to_vec()
}

fn said(log: &Path) -> String {
    format!("the daemon said: {}", fs::read_to_string(log).unwrap_or_default())
}
