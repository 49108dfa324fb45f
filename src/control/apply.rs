//! `apply`: brings projects to what a manifest says. Running it again changes nothing more.
//!
//! The database is written in one transaction, after all secrets and token files: when it commits, everything is there. When
//! it does not, no row names what was written for new connections; those that were there before have their new credentials
//! nevertheless, since their rows name the secret already. The next run starts from what is.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use futures_util::{StreamExt, TryStreamExt, stream};

use super::check::{self, Current, Desired, Findings, Site, Target, Warning};
use super::connect::token_fields;
use super::connections::label;
use super::credentials::{self, CredentialAfter, CredentialWrite, Outside};
use super::diff::{Change, Write, diff};
use super::fingerprints::Fingerprints;
use super::manifest::Manifest;
use super::tokens::{TokenSpec, token_record};
use super::{Control, ControlError, Workspace, new_project, new_tenant};
use crate::limits;
use crate::model::id::{ConnectionId, TenantId};
use crate::model::name::Slug;
use crate::model::secret::{SecretAddress, SecretDocument};
use crate::model::server::McpServer;
use crate::model::token::TokenText;
use crate::store::{StoreError, TenantRecord, TokenRecord, Tx};

/// Whether the changes are carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Carry,
    /// Only told; nothing is asked of the person, and nothing written.
    DryRun,
}

/// What a manifest changed, or would change.
#[derive(Debug, Default)]
pub struct Applied {
    /// Empty if everything was as the manifest says.
    pub changes: Vec<Change>,
    pub warnings: Vec<Warning>,
    pub new_tokens: Vec<NewToken>,
}

/// A token that was made. Its text is here and, if the manifest names one, in its file.
#[derive(Clone, Debug)]
pub struct NewToken {
    pub project: String,
    pub name: String,
    pub text: TokenText,
    pub file: Option<PathBuf>,
}

/// The changes of one project.
#[derive(Debug)]
struct Plan {
    workspace: Workspace,
    changes: Vec<Change>,
}

impl Control {
    /// Brings every project of the manifest to what it says, or tells every mistake and changes nothing.
    pub async fn apply(&self, manifest: &Manifest, outside: &dyn Outside, mode: Mode) -> Result<Applied, ControlError> {
        let mut findings = Findings::default();
        let targets = check::targets(manifest, &mut findings);
        let currents = self.gather(&targets).await?;
        let desired = self.check(&targets, &currents, &mut findings);
        or_mistakes(&mut findings)?;
        let credentials = self.credentials(&currents, &desired, outside, mode, &mut findings).await?;
        or_mistakes(&mut findings)?;
        let plans = self.plans(currents, &desired, &credentials);
        let new_tokens = if mode == Mode::Carry { self.carry_out(&plans, outside).await? } else { Vec::new() };
        let changes = plans.into_iter().flat_map(|plan| plan.changes).collect();
        Ok(Applied { changes, warnings: findings.warnings, new_tokens })
    }

    /// The projects as they are now, and the tenants and projects that are to be made.
    async fn gather(&self, targets: &[Target<'_>]) -> Result<Vec<Current>, ControlError> {
        let mut tenants: BTreeMap<Slug, TenantRecord> = BTreeMap::new();
        let mut currents = Vec::new();
        for target in targets {
            let mut tenant_is_new = false;
            let tenant = match tenants.get(&target.tenant) {
                Some(tenant) => tenant.clone(),
                None => {
                    let held = self.store.tenant_find(&target.tenant).await?;
                    tenant_is_new = held.is_none();
                    held.unwrap_or_else(|| new_tenant(&target.tenant))
                }
            };
            tenants.insert(target.tenant.clone(), tenant.clone());
            let project = self.store.project_find(tenant.id, &target.project).await?;
            let project_is_new = project.is_none();
            let state = match project {
                Some(held) => self.store.project_state(held.id).await?,
                None => {
                    let servers = self.store.servers_find(tenant.id).await?;
                    check::empty_state(new_project(tenant.id, &target.project), servers)
                }
            };
            currents.push(Current { tenant, tenant_is_new, project_is_new, state });
        }
        Ok(currents)
    }

    fn check(&self, targets: &[Target<'_>], currents: &[Current], findings: &mut Findings) -> Vec<Desired> {
        let mut servers: BTreeMap<TenantId, Vec<McpServer>> = BTreeMap::new();
        for current in currents {
            servers.entry(current.tenant.id).or_insert_with(|| {
                let pairs = targets.iter().zip(currents);
                let of_tenant = pairs.filter(|(_, other)| other.tenant.id == current.tenant.id);
                let of_tenant: Vec<&Target<'_>> = of_tenant.map(|(target, _)| target).collect();
                check::servers::check(&of_tenant, &current.tenant, current.state.servers.clone(), findings)
            });
        }
        let site = Site {
            catalogue: &self.catalogue,
            issues_leases: self.secrets.issues_leases(),
            lease_paths: &self.lease_paths,
            now: self.clock.now(),
        };
        let pairs = targets.iter().zip(currents);
        pairs
            .map(|(target, current)| {
                let servers = servers.get(&current.tenant.id).map(Vec::as_slice).unwrap_or_default();
                check::check(target, current, servers, site, findings)
            })
            .collect()
    }

    /// Reads what the manifest gives, and what is stored of the same connections.
    async fn credentials(
        &self,
        currents: &[Current],
        desired: &[Desired],
        outside: &dyn Outside,
        mode: Mode,
        findings: &mut Findings,
    ) -> Result<BTreeMap<ConnectionId, CredentialAfter>, ControlError> {
        let stored = self.stored_secrets(currents, desired).await?;
        let mut after = BTreeMap::new();
        for connection in desired.iter().flat_map(|desired| &desired.connections) {
            let id = connection.connection.id;
            let is_new = connection.connection.version == 0;
            if connection.credentials.is_empty() && !is_new {
                continue;
            }
            let found = self.catalogue.get(&connection.connection.template);
            let Some(template) = found.filter(|template| !template.is_leased()) else { continue };
            let may_ask = mode == Mode::Carry;
            let held = stored.get(&id);
            let mut read = credentials::read(connection, template, held, outside, may_ask, findings);
            if let Some(write) = &mut read.write {
                token_fields::saved_by_hand(template, held, &mut write.fields, self.clock.now());
            }
            after.insert(id, read);
        }
        Ok(after)
    }

    async fn stored_secrets(
        &self,
        currents: &[Current],
        desired: &[Desired],
    ) -> Result<BTreeMap<ConnectionId, SecretDocument>, ControlError> {
        let mut addresses = Vec::new();
        for (current, desired) in currents.iter().zip(desired) {
            let workspace = current.workspace();
            let held: BTreeSet<ConnectionId> = current.state.connections.iter().map(|held| held.id).collect();
            let named = desired.connections.iter().filter(|connection| !connection.credentials.is_empty());
            let stored = named.filter(|connection| held.contains(&connection.connection.id));
            addresses.extend(stored.map(|connection| workspace.address(&connection.connection)));
        }
        let read = |address: SecretAddress| async move {
            let document = self.secret_find(&address).await?;
            Ok::<_, ControlError>((address.connection, document))
        };
        let found: Vec<(ConnectionId, Option<SecretDocument>)> =
            stream::iter(addresses).map(read).buffer_unordered(limits::SECRET_FETCHES_MAX).try_collect().await?;
        Ok(found.into_iter().filter_map(|(id, document)| Some((id, document?))).collect())
    }

    fn plans(
        &self,
        currents: Vec<Current>,
        desired: &[Desired],
        credentials: &BTreeMap<ConnectionId, CredentialAfter>,
    ) -> Vec<Plan> {
        let now = self.clock.now();
        let plan = |(current, desired): (Current, &Desired)| Plan {
            changes: diff(&current, desired, credentials, now),
            workspace: current.workspace(),
        };
        currents.into_iter().zip(desired).map(plan).collect()
    }

    async fn carry_out(&self, plans: &[Plan], outside: &dyn Outside) -> Result<Vec<NewToken>, ControlError> {
        if plans.iter().all(|plan| plan.changes.is_empty()) {
            return Ok(Vec::new());
        }
        let fingerprints = self.fingerprints(plans).await?;
        let (new_tokens, records) = self.make_tokens(plans, outside)?;
        let written = self.write_secrets(plans).await;
        let outcome = match &written.error {
            None => self.write_rows(plans, &fingerprints, &records).await,
            Some(_) => Ok(()),
        };
        let error = written.error.or(outcome.err());
        let Some(error) = error else { return Ok(new_tokens) };
        for address in &written.new {
            self.forget_unless_unsure(address, &error).await;
        }
        Err(error)
    }

    /// The fingerprints of the credentials that are to be written. A connection that is being rotated takes none.
    async fn fingerprints(&self, plans: &[Plan]) -> Result<BTreeMap<ConnectionId, Fingerprints>, ControlError> {
        let mut made = BTreeMap::new();
        for plan in plans {
            let writes: Vec<_> = plan.changes.iter().filter_map(|change| change.write.credential()).collect();
            if writes.is_empty() {
                continue;
            }
            let rotating = match plan.changes.iter().any(|change| matches!(change.write, Write::Project(_))) {
                true => Vec::new(),
                false => self.store.rotations_of(plan.workspace.project.id).await?,
            };
            let fingerprinter = self.fingerprinter(&plan.workspace).await?;
            for (connection, write) in writes {
                if rotating.contains(&connection.id) {
                    return Err(ControlError::Rotating { what: label(connection) });
                }
                made.insert(connection.id, fingerprinter.of(&write.fields));
            }
        }
        Ok(made)
    }

    /// New tokens, written to their files before the database knows them: a file may then hold a token that is not valid
    /// yet, which the next run replaces; the other way round a token would be valid and lost.
    fn make_tokens(
        &self,
        plans: &[Plan],
        outside: &dyn Outside,
    ) -> Result<(Vec<NewToken>, Vec<TokenRecord>), ControlError> {
        let now = self.clock.now();
        let (mut texts, mut records) = (Vec::new(), Vec::new());
        for plan in plans {
            for change in &plan.changes {
                let Write::Token(desired) = &change.write else { continue };
                let text = TokenText::generate()?;
                if let Some(file) = &desired.file {
                    outside.keep_token(file, &text).map_err(|reason| ControlError::TokenFile {
                        name: desired.name.clone(),
                        file: file.clone(),
                        reason,
                    })?;
                }
                let spec = TokenSpec {
                    project: Some(plan.workspace.project.id),
                    name: desired.name.clone(),
                    role: desired.role,
                    scopes: desired.scopes,
                    expires_at: desired.expires_at,
                };
                records.push(token_record(plan.workspace.tenant.id, spec, &text, now));
                let (name, file) = (desired.name.clone(), desired.file.clone());
                texts.push(NewToken { project: change.project.clone(), name, text, file });
            }
        }
        Ok((texts, records))
    }

    /// Writes all secrets, several at once; all are tried, so that nothing is under way any more when this returns.
    async fn write_secrets(&self, plans: &[Plan]) -> Written {
        let mut writes = Vec::new();
        for plan in plans {
            for change in &plan.changes {
                if let Some((connection, write)) = change.write.credential() {
                    writes.push((plan.workspace.address(connection), write, change.is_new));
                }
            }
        }
        let write = |(address, write, is_new): (SecretAddress, &CredentialWrite, bool)| {
            let fields = write.fields.clone();
            let previous = write.previous;
            async move { (self.secrets.write(&address, &fields, previous).await, address, is_new) }
        };
        let writes: Vec<_> = writes.into_iter().map(write).collect();
        let outcomes: Vec<_> = stream::iter(writes).buffer_unordered(limits::SECRET_WRITES_MAX).collect().await;
        let mut written = Written { new: Vec::new(), error: None };
        for (outcome, address, is_new) in outcomes {
            match outcome {
                Ok(_) if is_new => written.new.push(address),
                Ok(_) => {}
                Err(error) => drop(written.error.get_or_insert(error.into())),
            }
        }
        written
    }

    async fn write_rows(
        &self,
        plans: &[Plan],
        fingerprints: &BTreeMap<ConnectionId, Fingerprints>,
        tokens: &[TokenRecord],
    ) -> Result<(), ControlError> {
        let mut tx = self.begin().await?;
        for plan in plans {
            for change in &plan.changes {
                write_row(&mut tx, &plan.workspace, &change.write).await?;
                let written = change.write.credential().map(|(connection, _)| connection.id);
                if let Some((id, fingerprints)) = written.and_then(|id| Some((id, fingerprints.get(&id)?))) {
                    tx.fields_put(id, fingerprints).await?;
                }
            }
        }
        for token in tokens {
            tx.token_insert(token).await?;
        }
        Ok(tx.commit().await?)
    }
}

/// What became of the secrets.
struct Written {
    /// Those that did not exist before.
    new: Vec<SecretAddress>,
    /// The first that failed.
    error: Option<ControlError>,
}

async fn write_row(tx: &mut Tx, workspace: &Workspace, write: &Write) -> Result<(), StoreError> {
    let project = &workspace.project;
    match write {
        Write::Tenant(tenant) => tx.tenant_insert(tenant).await,
        Write::Project(project) => tx.project_insert(project).await,
        Write::Server(server) => tx.server_put(workspace.tenant.id, server).await,
        Write::ConnectionInsert(connection, _) => tx.connection_insert(project, connection).await,
        Write::ConnectionUpdate(connection, _) => tx.connection_update(project, connection).await,
        Write::Instance(instance) => tx.instance_insert(project, instance).await,
        Write::ActiveProfile(instance, profile) => tx.instance_set_active(project, *instance, *profile).await,
        Write::ProfileInsert(instance, profile) => tx.profile_insert(project, *instance, profile).await,
        Write::ProfileUpdate(profile) => tx.profile_update(project, profile).await,
        Write::Workflow(workflow) => tx.workflow_put(project, workflow).await,
        // Tokens are inserted by their records, which hold the hash.
        Write::Token(_) => Ok(()),
    }
}

impl Current {
    fn workspace(&self) -> Workspace {
        Workspace { tenant: self.tenant.clone(), project: self.state.project.clone() }
    }
}

fn or_mistakes(findings: &mut Findings) -> Result<(), ControlError> {
    if findings.mistakes.is_empty() {
        Ok(())
    } else {
        Err(ControlError::Mistakes(std::mem::take(&mut findings.mistakes)))
    }
}
