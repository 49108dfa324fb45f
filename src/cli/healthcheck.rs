//! `credway healthcheck`: for probes that can run a command but not speak gRPC over a Unix socket.

use clap::Args;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::client::Server;
use super::failure::{Exit, Failure};
use super::out::say;

/// Asks a daemon whether it serves; exit code 0 if it does
///
/// For probes that can run a command, where gRPC over a Unix socket is out of reach. Needs no token.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  credway healthcheck --server unix:/run/credway/credway.sock --timeout 1")]
pub(super) struct Healthcheck {
    #[command(flatten)]
    server: Server,
}

impl Healthcheck {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let (channel, url) = self.server.channel().await?;
        let request = HealthCheckRequest { service: String::new() };
        let answer = HealthClient::new(channel).check(request).await;
        let status = answer.map_err(|status| Failure::of_status(&status, &url))?.into_inner().status();
        if status != ServingStatus::Serving {
            return Err(Failure::new(Exit::Unreachable, "NOT_SERVING", format!("the daemon at {url} does not serve"))
                .fix("see /readyz?verbose on its HTTP port for the cause"));
        }
        say!("serving");
        Ok(())
    }
}
