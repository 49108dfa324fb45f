//! Servers, instances and connections looked at as they are now: what is reached, what would resolve, whose credential is good.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use jiff::Timestamp;
use url::Url;

use super::{Control, ControlError, Reach, SavedVersion, SurfacePatch, Workspace};
use crate::limits;
use crate::model::connection::{Connection, ConnectionState, Status};
use crate::model::id::{ConnectionId, InstanceId};
use crate::model::probe::Probe;
use crate::model::resolution::InstanceRef;
use crate::model::server::McpServer;
use crate::model::template::Template;
use crate::model::wiring::Wiring;
use crate::probe::report::{Check, Finding, Kind, Outcome, Report};
use crate::probe::{Prober, Seen};
use crate::resolve::foresee;
use crate::secrets::SecretError;
use crate::store::{Entity, ProjectScope, StoreError, WiringFound};

/// A connection after its credential was tried.
#[derive(Clone, Debug)]
pub struct Tested {
    pub connection: Connection,
    pub report: Report,
}

/// What a server was found to offer.
#[derive(Debug)]
pub struct Discovered {
    pub report: Report,
    pub seen: Seen,
    /// The version that its tools are now; `None` if they could not be listed, or the caller may not change the server.
    pub saved: Option<SavedVersion>,
}

impl Control {
    /// Tries a connection's credential at its provider, and notes in its status how that went.
    pub async fn connection_test(
        &self,
        workspace: &Workspace,
        prober: &Prober,
        asked: &str,
    ) -> Result<Tested, ControlError> {
        let mut connection = self.connection_get(workspace, asked).await?;
        self.note_reads(workspace, [&connection]).await?;
        let report = self.try_credential(workspace, prober, &connection, limits::PROBE_DEADLINE).await;
        if let Some(status) = status_after(&connection.status, &report, self.clock.now()) {
            let mut tested = connection.clone();
            tested.status = status;
            let mut tx = self.begin().await?;
            let updated = match tx.connection_update(&workspace.project, &tested).await {
                Ok(()) => tx.commit().await,
                Err(error) => Err(error),
            };
            match updated {
                Ok(()) => {
                    tested.version += 1;
                    connection = tested;
                }
                // Somebody changed it while it was tried: what was found is of the credential that it had before.
                Err(StoreError::Conflict { .. }) => connection = self.connection_get(workspace, asked).await?,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Tested { connection, report })
    }

    /// Looks at a server, at the project's instances of it, and at the connections wired to those.
    pub async fn server_validate(
        &self,
        workspace: &Workspace,
        prober: &Prober,
        asked: &str,
    ) -> Result<Report, ControlError> {
        let server = self.server_get(workspace, asked).await?.server;
        let wirings = self.wirings_of(workspace, &server).await?;
        let connections = wired(&wirings);
        self.validated(workspace, prober, server.canonical_url.as_str(), &wirings, connections).await
    }

    /// Looks at a server with one connection: at the instances that wire it, and at its credential.
    pub async fn server_connection_validate(
        &self,
        workspace: &Workspace,
        prober: &Prober,
        server: &str,
        connection: &str,
    ) -> Result<Report, ControlError> {
        let server = self.server_get(workspace, server).await?.server;
        let connection = self.connection_get(workspace, connection).await?;
        let mut wirings = self.wirings_of(workspace, &server).await?;
        wirings.retain(|wiring| wires(wiring).any(|id| id == connection.id));
        let connections = BTreeMap::from([(connection.id, connection)]);
        self.validated(workspace, prober, server.canonical_url.as_str(), &wirings, connections).await
    }

    /// Looks at an instance: its server, its active profile, and the connections wired in that.
    pub async fn instance_validate(
        &self,
        workspace: &Workspace,
        prober: &Prober,
        asked: &str,
    ) -> Result<Report, ControlError> {
        let instance = asked.parse().map_or_else(|_| InstanceRef::Name(asked.to_owned()), InstanceRef::Id);
        let wiring = self
            .wiring(workspace, &instance)
            .await?
            .ok_or_else(|| ControlError::NotFound { what: format!("MCP instance {asked:?}"), hint: String::new() })?;
        let url = wiring.instance.server_url.clone();
        let wirings = [wiring];
        let connections = wired(&wirings);
        self.validated(workspace, prober, url.as_str(), &wirings, connections).await
    }

    /// Asks a server for its tools, and saves them as what it offers now, where `reach` lets the caller do so.
    pub async fn server_discover(
        &self,
        workspace: &Workspace,
        prober: &Prober,
        asked: &str,
        reach: Reach,
    ) -> Result<Discovered, ControlError> {
        let server = self.server_get(workspace, asked).await?.server;
        let (report, seen, _) = look(prober, server.canonical_url.as_str()).await;
        let saved = match seen.tools.clone() {
            Some(tools) => {
                let patch = SurfacePatch { tools: Some(tools), ..SurfacePatch::default() };
                let id = server.id.to_string();
                match self.server_version_save(workspace, &id, None, patch, reach, None).await {
                    Err(ControlError::ReadOnly { .. }) => None,
                    saved => Some(saved?),
                }
            }
            None => None,
        };
        Ok(Discovered { report, seen, saved })
    }

    async fn wirings_of(&self, workspace: &Workspace, server: &McpServer) -> Result<Vec<Wiring>, ControlError> {
        let limit = limits::PROBE_SUBJECTS_MAX;
        let ids: Vec<InstanceId> = self.store.instances_of_server(&workspace.project, server.id, limit).await?;
        let mut wirings = Vec::new();
        for id in ids {
            // One that was deleted meanwhile is not looked at.
            wirings.extend(self.wiring(workspace, &InstanceRef::Id(id)).await?);
        }
        Ok(wirings)
    }

    async fn wiring(&self, workspace: &Workspace, instance: &InstanceRef) -> Result<Option<Wiring>, ControlError> {
        let scope = ProjectScope { tenant: workspace.tenant.id, project: Some(workspace.project.id), asked: None };
        match self.store.wiring_find(&scope, instance, None).await? {
            WiringFound::One(wiring) => Ok(Some(*wiring)),
            WiringFound::Nothing | WiringFound::Several(_) => Ok(None),
        }
    }

    async fn validated(
        &self,
        workspace: &Workspace,
        prober: &Prober,
        url: &str,
        wirings: &[Wiring],
        connections: BTreeMap<ConnectionId, Connection>,
    ) -> Result<Report, ControlError> {
        let (mut report, _, rest) = look(prober, url).await;
        report.checks.extend(wirings.iter().map(keys));
        if wirings.is_empty() {
            report.checks.push(skipped(Kind::Keys, None, "no instance of it is installed here that is wired"));
        }
        let tried = connections.values().take(limits::PROBE_SUBJECTS_MAX);
        self.note_reads(workspace, tried.clone()).await?;
        let tries = tried.map(async |connection| {
            let report = self.try_credential(workspace, prober, connection, rest).await;
            report.into_one(Kind::Credential, &connection.name)
        });
        report.checks.extend(join_all(tries).await.into_iter().flatten());
        if connections.is_empty() {
            report.checks.push(skipped(Kind::Credential, None, "no connection is wired to it"));
        }
        Ok(report)
    }

    /// Enters in the audit that credentials are read, of those connections of which they are.
    async fn note_reads<'a>(
        &self,
        workspace: &Workspace,
        connections: impl IntoIterator<Item = &'a Connection> + Send,
    ) -> Result<(), ControlError> {
        let read: Vec<ConnectionId> = connections
            .into_iter()
            .filter(|connection| self.template_to_try(connection).is_ok())
            .map(|connection| connection.id)
            .collect();
        self.note_looks(workspace, read).await
    }

    /// Enters in the audit that somebody looked at what tells of these connections' credentials.
    pub async fn note_looks(
        &self,
        workspace: &Workspace,
        connections: impl IntoIterator<Item = ConnectionId> + Send,
    ) -> Result<(), ControlError> {
        let looked_at: Vec<ConnectionId> = connections.into_iter().collect();
        if looked_at.is_empty() {
            return Ok(());
        }
        let mut tx = self.begin().await?;
        for id in looked_at {
            let (tenant, project) = (workspace.tenant.id, workspace.project.id);
            tx.audit_read(tenant, project, Entity::Connection, &id.to_string()).await?;
        }
        Ok(tx.commit().await?)
    }

    /// The template that says how to try a connection's credential, or why nothing does.
    fn template_to_try(&self, connection: &Connection) -> Result<&Template, &'static str> {
        match self.catalogue.get(&connection.template) {
            Some(template) if template.probe == Probe::None => {
                Err("nothing is known that could be asked of the provider")
            }
            Some(template) if !template.probe.is_carried_out() => Err("not supported by this build"),
            Some(template) => Ok(template),
            None => Err("its template is not there any more"),
        }
    }

    /// What the provider says of one connection's credential.
    async fn try_credential(
        &self,
        workspace: &Workspace,
        prober: &Prober,
        connection: &Connection,
        budget: Duration,
    ) -> Report {
        let template = match self.template_to_try(connection) {
            Ok(template) => template,
            Err(why) => return Report { checks: vec![skipped(Kind::Credential, None, why)] },
        };
        let address = workspace.address(connection);
        let patience = budget.min(limits::PROBE_CREDENTIAL_DEADLINE);
        match tokio::time::timeout(patience, self.secrets.read(&address)).await {
            Ok(Ok(document)) => prober.credential(template, &document.fields, budget).await,
            Ok(Err(error)) => unread(Some(&error)),
            Err(_) => unread(None),
        }
    }
}

async fn look(prober: &Prober, url: &str) -> (Report, Seen, Duration) {
    match Url::parse(url) {
        Ok(url) => prober.server(&url).await,
        // What is stored was parsed before: nothing can be said of the address.
        Err(_) => (Report::default(), Seen::default(), limits::PROBE_DEADLINE),
    }
}

/// Whether the instance's active profile gives all that its server requires.
fn keys(wiring: &Wiring) -> Check {
    let finding = match foresee::check(wiring) {
        Ok(()) => Finding::pass("the active profile gives every required key"),
        Err(refusal) => Finding::fail(refusal.reason.code(), refusal.message, refusal.remedy),
    };
    Check { kind: Kind::Keys, about: Some(wiring.instance.name.clone()), milliseconds: 0, finding }
}

fn skipped(kind: Kind, about: Option<String>, why: &str) -> Check {
    Check { kind, about, milliseconds: 0, finding: Finding::skipped(why) }
}

/// The connections that active profiles wire.
fn wires(wiring: &Wiring) -> impl Iterator<Item = ConnectionId> {
    wiring.profile.iter().flat_map(|profile| profile.source_spec.values()).map(|wire| wire.connection)
}

fn wired(wirings: &[Wiring]) -> BTreeMap<ConnectionId, Connection> {
    let each = wirings.iter().flat_map(|wiring| wires(wiring).filter_map(|id| wiring.connections.get(&id)));
    each.map(|connection| (connection.id, connection.clone())).collect()
}

fn unread(error: Option<&SecretError>) -> Report {
    let finding = match error {
        Some(SecretError::Missing { .. }) => {
            Finding::fail("SECRET_MISSING", "it has no credential in the secret store", "save its credential")
        }
        _ => Finding::warning("its credential cannot be read now", "run it again when the secret store answers"),
    };
    Report { checks: vec![Check { kind: Kind::Credential, about: None, milliseconds: 0, finding }] }
}

/// The status that a test leads to, if another than before: a failure degrades what is active, and only a credential that
/// was taken makes that good again. What people or providers decided is left alone.
fn status_after(before: &Status, report: &Report, now: Timestamp) -> Option<Status> {
    let was_taken = |check: &Check| check.kind == Kind::Credential && check.finding.outcome == Outcome::Pass;
    match (before.state, report.failure()) {
        (ConnectionState::Active | ConnectionState::Degraded, Some(failed)) => {
            let reason = failed.finding.code.map(str::to_owned);
            let is_same = before.state == ConnectionState::Degraded && before.reason == reason;
            let since = if before.state == ConnectionState::Degraded { before.since } else { now };
            (!is_same).then_some(Status { state: ConnectionState::Degraded, reason, since })
        }
        (ConnectionState::Degraded, None) if report.checks.iter().any(was_taken) => {
            Some(Status { state: ConnectionState::Active, reason: None, since: now })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(finding: Finding) -> Report {
        Report { checks: vec![Check { kind: Kind::Credential, about: None, milliseconds: 1, finding }] }
    }

    #[test]
    fn a_test_degrades_what_is_active_and_makes_good_what_was_degraded() {
        let (then, now) = ("2026-01-01T00:00:00Z".parse().unwrap(), "2026-01-02T00:00:00Z".parse().unwrap());
        let good = || Finding::pass("taken");
        let bad = || Finding::fail("CREDENTIAL_REFUSED", "no", "");
        let unsure = || Finding::warning("503", "");
        let refused = Some("CREDENTIAL_REFUSED");
        use ConnectionState::{Active, Degraded, Disabled, Reconnect};
        let table = [
            (Active, None, good(), None),
            (Active, None, unsure(), None),
            (Active, None, Finding::skipped("unknown"), None),
            (Active, None, bad(), Some((Degraded, refused, now))),
            (Degraded, refused, bad(), None),
            (Degraded, Some("DNS_FAILED"), bad(), Some((Degraded, refused, then))),
            (Degraded, refused, unsure(), None),
            (Degraded, refused, good(), Some((Active, None, now))),
            (Disabled, None, bad(), None),
            (Disabled, Some("degraded"), good(), None),
            (Reconnect, Some("REVOKED"), good(), None),
        ];
        for (state, reason, finding, expected) in table {
            let before = Status { state, reason: reason.map(str::to_owned), since: then };
            let after = status_after(&before, &report(finding.clone()), now);
            let after = after.as_ref().map(|status| (status.state, status.reason.as_deref(), status.since));
            assert_eq!(after, expected, "{state} and {finding:?}");
        }
    }
}
