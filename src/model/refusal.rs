//! Refusals: every way in which a resolution can be answered with no, each with its reason, one sentence and the remedy.
//!
//! These are the only sentences about refusals in the program: gRPC, REST, CLI and Console show them, none adds its own.
//! They never hold a secret, a config value or a provider's text.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::id::{ConnectionId, InstanceId};
use super::reason::Reason;
use super::resolution::InstanceRef;
use super::wiring::{InstanceHead, WiredConnection};

/// A no, with all that its reader needs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    pub reason: Reason,
    /// One plain sentence: what was refused, and why.
    pub message: String,
    /// What to click or call.
    pub remedy: String,
    /// The ids involved, by kind: `instance_id`, `connection_id`, …
    pub ids: BTreeMap<&'static str, String>,
    /// When a retry may help; `None` if it does not.
    pub retry_after: Option<Duration>,
    /// The request field at fault, for `INVALID_REQUEST`.
    pub field: Option<&'static str>,
}

impl Refusal {
    fn new(reason: Reason, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        let (message, remedy) = (message.into(), remedy.into());
        Self { reason, message, remedy, ids: BTreeMap::new(), retry_after: None, field: None }
    }

    /// Names one of the things involved.
    #[must_use]
    pub fn with_id(mut self, kind: &'static str, id: impl fmt::Display) -> Self {
        self.ids.insert(kind, id.to_string());
        self
    }

    fn of_instance(self, instance: &InstanceHead) -> Self {
        self.with_id("instance_id", instance.id)
    }

    fn of_connection(self, wired: &WiredConnection<'_>) -> Self {
        self.with_id("connection_id", wired.id)
    }

    fn retry_after(mut self, pause: Duration) -> Self {
        self.retry_after = Some(pause);
        self
    }

    // Who asks, and what for.

    pub fn unauthenticated() -> Self {
        Self::new(
            Reason::Unauthenticated,
            "the call carries no valid credential",
            "send `authorization: Bearer pat_…` with a token that is neither revoked nor expired (`credway token create` makes one), \
             or connect as an allowed uid or with an allowed client certificate",
        )
    }

    pub fn permission_denied(scope: impl fmt::Display) -> Self {
        Self::new(
            Reason::PermissionDenied,
            format!("the caller lacks the scope {scope}"),
            format!("use a token with that scope: `credway token create --name NAME --scope {scope}`"),
        )
    }

    pub fn role_denied(role: impl fmt::Display) -> Self {
        Self::new(
            Reason::PermissionDenied,
            format!("the caller's role is less than {role}"),
            format!("ask somebody who is at least {role}, or use a token with that role"),
        )
    }

    pub fn process_token_misused() -> Self {
        Self::new(
            Reason::PermissionDenied,
            "a run token or an instance token is good for resolving, and for nothing else",
            "send the access token of a person or a program: `credway token create`",
        )
    }

    pub fn invalid_request(field: &'static str, message: impl Into<String>) -> Self {
        let mut refusal = Self::new(Reason::InvalidRequest, message, format!("correct `{field}` and call again"));
        refusal.field = Some(field);
        refusal
    }

    pub fn bound_caller() -> Self {
        Self::new(
            Reason::PermissionDenied,
            "a run token or an instance token cannot issue run tokens",
            "issue them with the executor's own access token",
        )
    }

    // What MCP processes send (contract, section 5).

    pub fn process_unauthenticated() -> Self {
        Self::new(
            Reason::Unauthenticated,
            "the call carries no valid run token or instance token",
            "start the step again, which gets it a new run token, or set up the process with an instance token: \
             `credway token create --name NAME --instance INSTANCE`",
        )
    }

    pub fn process_token_wanted() -> Self {
        Self::new(
            Reason::PermissionDenied,
            "an MCP process may not get its config with the access token of a person or an executor",
            "send a run token, which the executor gets by IssueRunToken, or an instance token: \
             `credway token create --name NAME --instance INSTANCE`",
        )
    }

    pub fn proxied(header: &str) -> Self {
        Self::new(
            Reason::PermissionDenied,
            format!("the call came through a proxy, which added the header {header}"),
            "call this daemon directly: name its host in NO_PROXY of the MCP process",
        )
    }

    pub fn crossed_a_network() -> Self {
        Self::new(
            Reason::PermissionDenied,
            "config is not handed out over a network unencrypted",
            "call this daemon on a loopback address, from the same machine or pod",
        )
    }

    pub fn keys_incomplete(instance: InstanceId, profile: &str, keys: &[&str]) -> Self {
        Self::new(
            Reason::ConfigIncomplete,
            format!("the MCP process requires config that instance {instance} has no value for: {}", keys.join(", ")),
            format!("give them values or wire them in profile {profile} of its manifest, and `credway apply` it"),
        )
        .with_id("instance_id", instance)
        .with_id("keys", keys.join(","))
    }

    pub fn key_invalid(instance: InstanceId, key: &str, expected: impl fmt::Display) -> Self {
        Self::new(
            Reason::ConfigInvalid,
            format!("the MCP process wants {key} as a {expected}, which its value for instance {instance} is not"),
            format!("correct {key} in the instance's manifest or connection, or its type in the process's schema"),
        )
        .with_id("instance_id", instance)
        .with_id("keys", key)
    }

    // Which instance (rules 1 and 2).

    /// Nothing is where `asked` points, or nothing that concerns the caller.
    pub fn nothing_found(asked: &InstanceRef) -> Self {
        match asked {
            InstanceRef::Server(url) => Self::instance_not_installed(url),
            InstanceRef::Id(_) | InstanceRef::Name(_) => Self::instance_not_found(asked),
        }
    }

    pub fn instance_not_found(asked: &InstanceRef) -> Self {
        Self::new(
            Reason::InstanceNotFound,
            format!("there is no MCP instance {asked} in this project"),
            "check the id, and that the token belongs to the instance's project",
        )
    }

    /// A connection that was named, and is not there for this caller.
    pub fn connection_not_found(id: ConnectionId) -> Self {
        Self::new(
            Reason::ConnectionNotFound,
            format!("there is no connection {id} in this project"),
            "check the id, and that the token belongs to the connection's project",
        )
    }

    pub fn instance_not_installed(url: impl fmt::Display) -> Self {
        Self::new(
            Reason::InstanceNotInstalled,
            format!("this project has no instance of the MCP server {url}"),
            "declare an instance of it in this project's manifest and `credway apply` it, or name another instance by its id",
        )
        .with_id("server_url", url)
    }

    pub fn instance_ambiguous(asked: &InstanceRef, instances: &[(InstanceId, String)]) -> Self {
        let names: Vec<String> = instances.iter().map(|(id, name)| format!("{name} ({id})")).collect();
        let ids: Vec<String> = instances.iter().map(|(id, _)| id.to_string()).collect();
        let refusal = Self::new(
            Reason::InstanceAmbiguous,
            format!("there are {} MCP instances {asked}: {}", instances.len(), names.join(", ")),
            "name one of them by its id",
        )
        .with_id("instance_ids", ids.join(","));
        match asked {
            InstanceRef::Server(url) => refusal.with_id("server_url", url),
            InstanceRef::Id(_) | InstanceRef::Name(_) => refusal,
        }
    }

    pub fn server_url_mismatch(instance: &InstanceHead, asked: impl fmt::Display) -> Self {
        Self::new(
            Reason::ServerUrlMismatch,
            format!("instance {} is of the server {}, not of {asked}", instance.name, instance.server_url),
            "publish the graph again, so that its instance and server URL agree",
        )
        .of_instance(instance)
    }

    // Which credential (rules 3 to 5).

    pub fn no_active_profile(instance: &InstanceHead) -> Self {
        Self::new(
            Reason::NoActiveProfile,
            format!("instance {} has no active config profile", instance.name),
            format!("name one as `active` of instance {} in its manifest, and `credway apply` it", instance.name),
        )
        .of_instance(instance)
    }

    pub fn override_incompatible(instance: &InstanceHead, wired: &WiredConnection<'_>, lacking: &[&str]) -> Self {
        Self::new(
            Reason::OverrideIncompatible,
            format!(
                "connection {}, which an override puts into instance {}, does not offer {}",
                wired.label(),
                instance.name,
                lacking.join(", ")
            ),
            "override with a connection of the same kind, or take the override away",
        )
        .of_instance(instance)
        .of_connection(wired)
    }

    pub fn environment_mismatch(workflow: &str, wants: &str, wired: &WiredConnection<'_>, is: &str) -> Self {
        Self::new(
            Reason::EnvironmentMismatch,
            format!("workflow {workflow} is limited to {wants}, but connection {} is labelled {is}", wired.label()),
            format!("override it for this workflow with a connection labelled {wants}"),
        )
        .with_id("workflow_id", workflow)
        .of_connection(wired)
    }

    pub fn connection_missing(instance: &InstanceHead, wired: &WiredConnection<'_>) -> Self {
        Self::new(
            Reason::ConnectionMissing,
            format!("instance {} is wired to connection {}, which does not exist", instance.name, wired.id),
            format!("wire instance {} to another connection in its manifest, and `credway apply` it", instance.name),
        )
        .of_instance(instance)
        .of_connection(wired)
    }

    pub fn field_missing(instance: &InstanceHead, wired: &WiredConnection<'_>, lacking: &[&str]) -> Self {
        Self::new(
            Reason::SecretMissing,
            format!(
                "connection {}, wired into instance {}, does not offer {}",
                wired.label(),
                instance.name,
                lacking.join(", ")
            ),
            format!(
                "save the missing fields: `credway connection update {} --secret-file FIELD=PATH`, or wire the key to another field",
                wired.id
            ),
        )
        .of_instance(instance)
        .of_connection(wired)
    }

    pub fn connection_disabled(wired: &WiredConnection<'_>) -> Self {
        Self::new(
            Reason::ConnectionDisabled,
            format!("connection {} is turned off", wired.label()),
            format!("turn it on: `credway connection enable {}`, or wire another one", wired.id),
        )
        .of_connection(wired)
    }

    pub fn connection_pending(wired: &WiredConnection<'_>) -> Self {
        Self::new(
            Reason::ConnectionPending,
            format!("connection {} is not connected yet: its connect flow was not finished", wired.label()),
            format!("open /connections/{} and finish connecting", wired.id),
        )
        .of_connection(wired)
    }

    pub fn reconnect_required(wired: &WiredConnection<'_>) -> Self {
        Self::new(
            Reason::ReconnectRequired,
            format!("connection {} no longer works: a person must reconnect it", wired.label()),
            format!(
                "reconnect it at /connections/{0}, or save new credentials: `credway connection update {0}`",
                wired.id
            ),
        )
        .of_connection(wired)
    }

    pub fn service_not_enabled(wired: &WiredConnection<'_>, service: impl fmt::Display) -> Self {
        Self::new(
            Reason::ServiceNotEnabled,
            format!("connection {} does not have the service {service} enabled", wired.label()),
            format!("open /connections/{} and enable {service}", wired.id),
        )
        .with_id("service", service)
        .of_connection(wired)
    }

    pub fn scope_missing(wired: &WiredConnection<'_>, service: impl fmt::Display, scopes: &[&str]) -> Self {
        Self::new(
            Reason::ScopeMissing,
            format!("connection {} was not granted what {service} needs: {}", wired.label(), scopes.join(" ")),
            format!("open /connections/{} and grant {service} again", wired.id),
        )
        .with_id("service", service)
        .of_connection(wired)
    }

    // Its secret and the config (rules 6 and 7).

    pub fn secret_missing(wired: &WiredConnection<'_>) -> Self {
        Self::new(
            Reason::SecretMissing,
            format!("the secret of connection {} is not in the secret store", wired.label()),
            format!("save its credentials again: `credway connection update {}`", wired.id),
        )
        .of_connection(wired)
    }

    pub fn secret_unreadable(wired: &WiredConnection<'_>) -> Self {
        Self::new(
            Reason::SecretUnreadable,
            format!("the secret of connection {} is in the secret store, but cannot be read", wired.label()),
            format!(
                "see this daemon's log for what is wrong with it, or save it again: `credway connection update {}`",
                wired.id
            ),
        )
        .of_connection(wired)
    }

    pub fn config_incomplete(instance: &InstanceHead, profile: &str, keys: &[&str]) -> Self {
        Self::new(
            Reason::ConfigIncomplete,
            format!("instance {} lacks required config: {}", instance.name, keys.join(", ")),
            format!("give them values or wire them in profile {profile} of its manifest, and `credway apply` it"),
        )
        .of_instance(instance)
        .with_id("keys", keys.join(","))
    }

    pub fn config_invalid(instance: &InstanceHead, key: &str, expected: impl fmt::Display) -> Self {
        Self::new(
            Reason::ConfigInvalid,
            format!("the value of {key} for instance {} is not a {expected}", instance.name),
            format!("correct {key} of instance {} in its manifest or its connection", instance.name),
        )
        .of_instance(instance)
        .with_id("keys", key)
    }

    // What we ourselves lack.

    /// The access token has less life left than is asked for, and there is no newer one yet.
    pub fn token_refresh_failed(wired: &WiredConnection<'_>, why: &str, retry_after: Duration) -> Self {
        Self::new(
            Reason::TokenRefreshFailed,
            format!("the access token of connection {} is about to end, and {why}", wired.label()),
            format!("retry after the pause; if it lasts, see the status of /connections/{} for the cause", wired.id),
        )
        .of_connection(wired)
        .retry_after(retry_after)
    }

    pub fn secret_store_unavailable(wired: &WiredConnection<'_>, retry_after: Duration) -> Self {
        Self::new(
            Reason::SecretStoreUnavailable,
            format!("the secret store does not answer, and the secret of connection {} is not cached", wired.label()),
            "retry; if it lasts, see /readyz?verbose of this daemon for the cause",
        )
        .of_connection(wired)
        .retry_after(retry_after)
    }

    pub fn database_unavailable(retry_after: Duration) -> Self {
        Self::new(
            Reason::DatabaseUnavailable,
            "the database does not answer",
            "retry; if it lasts, see /readyz?verbose of this daemon for the cause",
        )
        .retry_after(retry_after)
    }

    pub fn audit_unavailable(retry_after: Duration) -> Self {
        Self::new(
            Reason::AuditUnavailable,
            "no record of this call can be kept, and without one nothing is handed out",
            "retry; if it lasts, this daemon's log says why its audit file cannot be written: make room for it",
        )
        .retry_after(retry_after)
    }

    pub fn overloaded(retry_after: Duration) -> Self {
        Self::new(
            Reason::Overloaded,
            "this daemon answers as many calls as it may",
            "retry after the pause; if it lasts, run more daemons",
        )
        .retry_after(retry_after)
    }

    pub fn deadline_exceeded() -> Self {
        Self::new(
            Reason::DeadlineExceeded,
            "the call's deadline passed before there was an answer",
            "retry, or give the call more time",
        )
    }

    pub fn internal() -> Self {
        Self::new(
            Reason::Internal,
            "credway failed to answer because of a fault of its own",
            "see this daemon's log at the time of the call, and report it",
        )
    }
}
